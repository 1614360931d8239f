"""The protocol's cases as data, runnable against any hpush server: ``tvetl conformance URL``.

:data:`CASES` are the cases, :func:`check` runs them against a :class:`Subject` and gives a :class:`Report`.
"""

from tvetl.conformance.cases import CASES, Case
from tvetl.conformance.runner import ARGS, READY, Report, Subject, Verdict, check, sample

__all__ = ["ARGS", "CASES", "READY", "Case", "Report", "Subject", "Verdict", "check", "sample"]
