"""One table: an error -> the status and the code of its response.

The statuses follow their effect in AIStore and its SDK. 404 means "object not found" to a job. The SDK retries 429,
500, 502, 503 and 504 for 93 seconds, so a lasting failure is another 4xx.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tvetl.errors import ArgumentsError, PipelineError
from tvetl_server import errors

__all__ = ["BY_CODE", "INTERNAL", "METHOD_NOT_ALLOWED", "PROBLEMS", "Problem", "Refused", "body", "problem_of"]


@dataclass(frozen=True)
class Problem:
    """The response to an error: HTTP status, and the code in its line of JSON."""

    status: int
    code: str


#: Exception class -> response. The first class that matches counts; test_error_contract.py has a case for each.
PROBLEMS: dict[type[Exception], Problem] = {
    errors.BadArguments: Problem(400, "bad_arguments"),
    ArgumentsError: Problem(400, "bad_arguments"),
    # The pipeline itself was checked at start: this is the pipeline with the request's arguments.
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
    errors.WrongDepth: Problem(422, "wrong_depth"),
    errors.TooManyPixels: Problem(422, "too_many_pixels"),
    errors.TooManyFrames: Problem(422, "too_many_frames"),
    errors.TooManyMembers: Problem(422, "too_many_members"),
    errors.BadShard: Problem(422, "bad_shard"),
    errors.BadAnnotations: Problem(422, "bad_annotations"),
    errors.TransformFailed: Problem(422, "transform_failed"),
    errors.OutOfTime: Problem(422, "out_of_time"),
    errors.DeliveryFailed: Problem(502, "delivery_failed"),
    errors.DeliveryRetry: Problem(503, "delivery_retry"),
}

INTERNAL = Problem(500, "internal")
"""A bug of ours: logged with its traceback, which the response does not show."""

METHOD_NOT_ALLOWED = Problem(405, "method_not_allowed")
"""A violation of the protocol: objects come by PUT (hpush)."""


#: The rows by code, for an error that comes from another process.
BY_CODE = {problem.code: problem for problem in (*PROBLEMS.values(), INTERNAL)}


class Refused(Exception):
    """An error of another process: its row of the table, and its message."""

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


def problem_of(error: Exception) -> Problem:
    """The row of the table for ``error``; INTERNAL for an error without one."""
    if isinstance(error, Refused):
        return error.problem
    for kind, problem in PROBLEMS.items():
        if isinstance(error, kind):
            return problem
    return INTERNAL


def body(problem: Problem, message: str, name: str) -> bytes:
    """One line of JSON in UTF-8, without a newline: AIStore appends it to ``ETL error: `` as it is."""
    line = {"error": problem.code, "message": message, "object": name}
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace")
