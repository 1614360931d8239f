"""Every error a user of tvetl can meet, each with what happened and what to try.

The message is one sentence; ``hint`` says what to do next; ``__cause__`` is for developers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass


class TvetlError(Exception):
    """The root of all our errors: ``str(error)`` is one sentence, ``error.hint`` what to try."""

    #: The command's exit status for this kind (see the table in docs/command.md).
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        # A name may hold half of a surrogate pair, which nothing can print.
        message = message.encode("utf-8", "backslashreplace").decode()
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint and sys.version_info >= (3, 11):
            self.add_note(hint)  # tracebacks show it


@dataclass(frozen=True)
class Problem:
    """One place that is wrong: ``path`` like ``$.steps[1].size``, ``message`` like ``expected 1..8192, got -3``."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class _Problems(TvetlError):
    """An error made of places; all of them are reported, not the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem], *, hint: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)), hint=hint)


class PipelineError(_Problems):
    """A pipeline that cannot work."""


class ArgumentsError(_Problems):
    """``etl_args`` of a request that cannot work with the pipeline."""


class UsageError(TvetlError):
    """A request that cannot work; nothing was sent."""

    exit_code = 2


class ClusterError(TvetlError):
    """The cluster refused something; the message is the cluster's own."""


class ClusterFault(ClusterError):
    """The cluster failed at this request or refused it (HTTP 400, 409, 500), not for want of rights or for load.

    Of a read it may be that object alone, or all of them.
    """


class TokenRefused(ClusterError):
    """The cluster asks for a token, and got none, or none that holds (HTTP 401)."""


class NotAllowed(ClusterError):
    """The token may not do this (HTTP 403)."""


class NotFound(ClusterError):
    """No such ETL, bucket or object."""


class EtlStopped(NotFound):
    """An ETL that exists and does not run: stopped, ended with one of its pods, or not started yet."""


class NotReachable(TvetlError):
    """Nobody answers at the endpoint, or not to the end."""

    exit_code = 5


class BrokenOff(NotReachable):
    """An answer that ended too early. Of a read it may be that object alone, or all of them."""


class NotAIStore(NotReachable):
    """Something answers at the endpoint, and not as AIStore does."""


class Unavailable(ClusterError):
    """The cluster cannot answer now: it is starting, or overloaded."""


class TimedOut(TvetlError):
    """An operation exceeded its time limit; it may still be running."""


class RegistrationError(TvetlError):
    """An ETL that did not start; its name is free again unless the hint says otherwise."""


class NameTaken(RegistrationError):
    """An ETL of that name exists already, and it is another one."""


class ObjectFailed(TvetlError):
    """One object that the ETL refused: ``code`` and ``status`` as the table in docs/command.md lists them.

    A DataLoader's worker process hands on the sentence alone, hence the defaults.
    """

    exit_code = 4

    def __init__(self, message: str, *, code: str = "unknown", status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.status = status
