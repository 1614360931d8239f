"""Names of objects: what a range template stands for. No cluster is asked."""

from __future__ import annotations

import re

from tvetl.errors import UsageError


def expand(template: str) -> list[str]:
    """The names a template stands for: ``a_{08..10}.jpg`` is a_08.jpg, a_09.jpg, a_10.jpg; ``{0..8..4}`` steps by 4.

    AIStore's own rules (several ranges may stand in one name). Raises UsageError for an open or empty brace.
    """
    head, found, rest = template.partition("{")
    if not found:
        return [template]
    match = re.match(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?\}", rest)
    if not match or int(match[1]) > int(match[2]) or int(match[3] or 1) < 1:
        raise UsageError(
            f"{template!r} is not a range", hint="One looks like photo_{0..100}.jpg, or a_{000..100..5}.jpg."
        )
    numbers = range(int(match[1]), int(match[2]) + 1, int(match[3] or 1))
    width = len(match[1])
    return [f"{head}{number:0{width}d}{tail}" for number in numbers for tail in expand(rest[match.end() :])]
