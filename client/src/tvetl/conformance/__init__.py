"""A check of any hpush server against AIStore's protocol: ``tvetl conformance URL``.

:data:`CASES` are the protocol as data (``cases``, ``conditions``). :func:`check` sends them to a :class:`Subject` and
returns a :class:`Report` (``runner``, ``subject``). Its own files, connections and peer are in ``disk``, ``wire`` and
``peer``. Not here: what is right for one server alone, which its own tests check.
"""

from __future__ import annotations

from tvetl.conformance.cases import CASES, Case
from tvetl.conformance.runner import check
from tvetl.conformance.subject import ARGS, READY, Report, Subject, Verdict, sample

__all__ = ["ARGS", "CASES", "READY", "Case", "Report", "Subject", "Verdict", "check", "sample"]
