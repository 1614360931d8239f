"""One table: what went wrong -> the status and the code of the answer.

Statuses follow what AIStore and its SDK do with them: 404 means "object not found" to a job, and 429, 500,
502, 503 and 504 are repeated by the SDK for 93 seconds, so whatever will not get better is 4xx.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tvetl.errors import ArgumentsError, PipelineError
from tvetl_server import errors

__all__ = ["BY_CODE", "INTERNAL", "METHOD_NOT_ALLOWED", "PROBLEMS", "Problem", "Refused", "body", "problem_of"]


@dataclass(frozen=True)
class Problem:
    """How an error is answered: HTTP status and the code in its line of JSON."""

    status: int
    code: str


#: Exception class -> answer. The first class that fits counts; test_error_contract.py has a case for each.
PROBLEMS: dict[type[Exception], Problem] = {
    errors.BadArguments: Problem(400, "bad_arguments"),
    ArgumentsError: Problem(400, "bad_arguments"),
    # The pipeline itself was checked at start: what fails now is the pipeline with these arguments.
    PipelineError: Problem(400, "bad_arguments"),
    errors.BadNodeUrl: Problem(400, "bad_node_url"),
    errors.NoSource: Problem(400, "no_source"),
    errors.TruncatedBody: Problem(400, "truncated_body"),
    errors.OutsideRoots: Problem(403, "outside_roots"),
    errors.UnreadableFile: Problem(403, "unreadable_file"),
    errors.HostNotAllowed: Problem(403, "host_not_allowed"),
    errors.FileGone: Problem(404, "file_gone"),
    errors.TooManyBytes: Problem(413, "too_many_bytes"),
    errors.NotAnImage: Problem(415, "not_an_image"),
    errors.DamagedImage: Problem(422, "damaged_image"),
    errors.TooManyPixels: Problem(422, "too_many_pixels"),
    errors.TooManyFrames: Problem(422, "too_many_frames"),
    errors.TooManyMembers: Problem(422, "too_many_members"),
    errors.TransformFailed: Problem(422, "transform_failed"),
    errors.OutOfTime: Problem(422, "out_of_time"),
    errors.DeliveryFailed: Problem(502, "delivery_failed"),
    errors.DeliveryRetry: Problem(503, "delivery_retry"),
}

INTERNAL = Problem(500, "internal")
"""A bug of ours: logged with its traceback, answered without a word of it."""

METHOD_NOT_ALLOWED = Problem(405, "method_not_allowed")
"""Not the protocol: objects come by PUT (hpush)."""


#: The rows by their codes, for an error that comes from another process.
BY_CODE = {problem.code: problem for problem in (*PROBLEMS.values(), INTERNAL)}


class Refused(Exception):
    """An error of another process: its row, and its sentence."""

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


def problem_of(error: Exception) -> Problem:
    """The row of the table for ``error``; INTERNAL where it has none."""
    if isinstance(error, Refused):
        return error.problem
    for kind, problem in PROBLEMS.items():
        if isinstance(error, kind):
            return problem
    return INTERNAL


def body(problem: Problem, message: str, name: str) -> bytes:
    """One line of JSON, UTF-8, no newline at its end: AIStore puts it behind ``ETL error: `` as it is."""
    line = {"error": problem.code, "message": message, "object": name}
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace")
