"""Arguments and pipelines that are wrong, huge, deep or endless: refused at once, each with a reason."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from support.serving import PIPELINE, Server, environment
from support.traps import exchange, request

from tvetl.errors import ArgumentsError
from tvetl.spec import parse_arguments
from tvetl_server import wsgi

#: Seconds for a refusal; the promise itself.
AT_ONCE = 0.010

DEEP = 100_000
BRACKETS = {"lists": "[", "objects": '{"seed":', "objects in lists": '[{"a":', "strings between": '["[",'}

#: What no request may ask for, by what is wrong with it.
WRONG: dict[str, str] = {
    # keys
    "an unknown key": '{"sed": 7}',
    "keys in other letters": '{"Seed": 7, "SEED": 7}',
    "an empty key": '{"": 1}',
    "a key with NUL": '{"seed\\u0000": 7}',
    "Python's own keys": '{"__class__": "x", "__proto__": {"seed": 1}}',
    "a pipeline": PIPELINE,
    "500 unknown keys": json.dumps({f"{number:x}": 1 for number in range(500)}, separators=(",", ":")),
    "50 keys that resemble one": json.dumps({"views" * 10 + str(number): 1 for number in range(50)}),
    "a key twice": '{"seed": 1, "seed": 1}',
    "a key twice, once escaped": '{"seed": 1, "s\\u0065ed": 2}',
    "a key twice, within": '{"size": {"a": 1, "a": 2}}',
    # numbers
    "NaN": '{"seed": NaN}',
    "Infinity": '{"seed": Infinity}',
    "-Infinity": '{"size": -Infinity}',
    "nan as text": '{"seed": "nan"}',
    "10^9 pixels": '{"size": 1000000000}',
    "10^9 x 10^9 pixels": '{"size": [1000000000, 1000000000]}',
    "one pixel too many": '{"size": 8193}',
    "no pixel": '{"size": 0}',
    "minus one": '{"size": -1}',
    "2^63": '{"seed": 9223372036854775808}',
    "10^400": '{"seed": 1' + "0" * 400 + "}",
    "4,000 digits": '{"seed": ' + "9" * 4000 + "}",
    "10,000 digits": '{"seed": ' + "9" * 10_000 + "}",
    "4,000 decimals": '{"seed": 1.' + "3" * 4000 + "}",
    "1e400": '{"size": 1e400}',
    "1e999999999": '{"seed": 1e999999999}',
    "-1e400": '{"epoch": -1e400}',
    "1e-400": '{"size": 1e-400}',
    "a half": '{"size": 0.5}',
    "a hexadecimal": '{"seed": 0x10}',
    "an octal": '{"seed": 010}',
    "a plus": '{"seed": +1}',
    "an underscore": '{"seed": 1_000}',
    "other digits": '{"seed": \u0661\u0662}',
    "10^9 views": '{"views": 1000000000}',
    "an epoch of 2^31": '{"seed": 1, "epoch": 2147483648}',
    # types
    "true for a number": '{"seed": true}',
    "text for a number": '{"size": "224"}',
    "an object for a number": '{"size": {"height": 1}}',
    "a list for a number": '{"seed": [1]}',
    "three sizes": '{"size": [1, 2, 3]}',
    "2,000 sizes": json.dumps({"size": [1] * 1300}),
    "a number for text": '{"format": 7}',
    "a format that is none": '{"format": "exe"}',
    "a format with NUL": '{"format": "png\\u0000"}',
    "view with views": '{"view": 1, "views": 2}',
    "a list": "[1, 2]",
    "a number": "7",
    "text": '"seed"',
    "true": "true",
    # text
    "no JSON": "seed=7",
    "YAML": "seed: 7",
    "a YAML bomb": "&a [*a, *a]",
    "a YAML tag": "!!python/object/apply:os.system [id]",
    "half an object": '{"seed": 1',
    "two objects": '{"seed": 1}{"seed": 2}',
    "a comma too many": '{"seed": 1,}',
    "a comment": '{"seed": 1} // one',
    "single quotes": "{'seed': 1}",
    "a byte order mark": '\ufeff{"seed": 1}',
    "a NUL": '{"seed": 1}\0',
    "a raw newline in text": '{"format": "p\nng"}',
    "a lone surrogate": '{"format": "\\ud800"}',
    "a lone surrogate as a key": '{"\\udfff": 1}',
    "600 lone surrogates": '{"format": "' + "\\ud800" * 600 + '"}',
    "surrogates the wrong way round": '{"format": "\\udc00\\ud800"}',
    "an escape that is none": '{"format": "\\x41"}',
    "2,000 escaped quotes": '{"format": "' + '\\"' * 2000 + '"}',
    "text without an end": '{"format": "' + '\\"' * 2000,
    "4,000 quotes": '"' * 4000,
    "4,000 blanks in it": "{" + " " * 4000 + "1}",
    "5 kB": '{"format": "' + "x" * 5000 + '"}',
    # nesting
    "33 levels": "[" * 33 + "]" * 33,
    "4,000 open lists": "[" * 4000,
    "1,300 lists side by side": "[" + "[]," * 1300 + "[]]",
    **{f"20,000 levels of {what}": opening * (20_000 // len(opening)) for what, opening in BRACKETS.items()},
}
#: Longer than arguments may be, and most of them longer than a request line.
LONG: dict[str, str] = {
    **{f"100,000 levels of {what}": opening * DEEP for what, opening in BRACKETS.items()},
    "100,000 levels, closed": "[" * DEEP + "]" * DEEP,
    "1 MB of text": '{"format": "' + "x" * 1_000_000 + '"}',
    "1 MB of digits": '{"seed": ' + "9" * 1_000_000 + "}",
    "1 MB of keys": json.dumps({str(number): 1 for number in range(80_000)}),
    "1 MB of blanks": " " * 1_000_000 + "{}",
    "1 MB of surrogates": '{"format": "' + "\ud800" * 330_000 + '"}',
}


def seconds_to_refuse(text: str) -> float:
    """The median of several."""
    took = []
    for _ in range(7):
        start = time.perf_counter()
        with pytest.raises(ArgumentsError) as caught:
            parse_arguments(text)
        took.append(time.perf_counter() - start)
    said = str(caught.value)
    assert 0 < len(said) < 4000
    return statistics.median(took)


def test_what_is_wrong_is_refused_at_once(figure: Callable[[str, str], None]) -> None:
    took = {what: seconds_to_refuse(text) for what, text in (WRONG | LONG).items()}
    slowest = max(took, key=took.__getitem__)
    assert took[slowest] < AT_ONCE, slowest
    figure(
        "arguments: wrong, huge or deep",
        f"{len(took)} cases, the slowest ({slowest}) refused in {took[slowest] * 1000:.1f} ms",
    )


def deep(opening: Callable[[object], object]) -> object:
    data: object = 1
    for _ in range(DEEP):
        data = opening(data)
    return data


def test_data_that_is_deep_or_endless_is_refused_at_once() -> None:
    """What a caller in Python can hand over; no text could be so."""
    endless: dict[str, object] = {}
    endless["size"] = endless
    shared: object = [0] * 10
    for _ in range(20):
        shared = [shared] * 10  # 10^21 values in few bytes
    for data in (
        {"size": deep(lambda inner: [inner])},
        {"size": deep(lambda inner: {"size": inner})},
        endless,
        {"size": shared},
    ):
        start = time.perf_counter()
        with pytest.raises(ArgumentsError):
            parse_arguments(data)
        assert time.perf_counter() - start < 100 * AT_ONCE  # up to 65,536 values are looked at


def test_over_http_each_is_a_coded_400_and_the_connection_lives(
    run_server: Callable[..., Server], image: bytes, figure: Callable[[str, str], None]
) -> None:
    server = run_server()
    good = server.put("/src/a.jpg?etl_args=" + quote('{"size": 16}'), image)
    assert good.status == 200
    took = []
    for what, text in WRONG.items():
        target = (
            b"/src/a.jpg?etl_args="
            + quote(text.encode("utf-8", "surrogatepass"), safe=',:"{}[]' if len(text) > 9999 else "").encode()
        )
        start = time.perf_counter()
        reply = exchange(server.port, request(target, image))
        took.append(time.perf_counter() - start)
        assert (reply.status, json.loads(reply.body)["error"]) == (400, "bad_arguments"), (what, reply)
        assert reply.body.count(b"\n") == 0 and len(reply.body) < 5000, what
        json.loads(reply.body.decode("utf-8"))
    for raw in (b"%FF%FE", b"%7B%FF%7D", b"%c0%a2"):  # no UTF-8
        reply = exchange(server.port, request(b"/src/a.jpg?etl_args=" + raw, image))
        assert (reply.status, json.loads(reply.body)["error"]) == (400, "bad_arguments"), raw
    # One connection: refusals leave nothing behind for the next.
    connection = server.connect()
    for text in list(WRONG.values())[:20]:
        connection.request("PUT", "/src/a.jpg?etl_args=" + quote(text), image)
        refused = connection.getresponse()
        assert refused.status == 400 and refused.read()
        connection.request("PUT", "/src/a.jpg?etl_args=" + quote('{"size": 16}'), image)
        answered = connection.getresponse()
        assert (answered.status, answered.read()) == (200, good.body)
    connection.close()
    # Raw bytes, and what is beyond the limit of a request line, gunicorn refuses by itself.
    assert exchange(server.port, request(b"/src/a.jpg?etl_args={\xff}", image)).status == 400
    refusals: Counter[int] = Counter()
    for text in LONG.values():
        line = quote(text.encode("utf-8", "surrogatepass"), safe="").encode()
        reply = exchange(server.port, request(b"/src/a.jpg?etl_args=" + line, image))
        assert reply.status in (0, 400, 414), reply  # 0: the reset that ends it was faster than its answer
        refusals[reply.status] += 1
    assert refusals[414] > 0
    assert server.put("/src/a.jpg?etl_args=" + quote('{"size": 16}'), image).body == good.body
    server.stop()
    assert "Traceback" not in server.log and server.log.count("Booting worker") == 1
    figure(
        "arguments: the same over HTTP",
        f"{len(WRONG)} cases, each a coded 400, median {statistics.median(took) * 1000:.1f} ms; "
        f"{refusals[414]} beyond 640 KiB refused by gunicorn with 414; same worker",
    )


def test_arguments_given_twice_or_beside_others_change_nothing_unseen(
    run_server: Callable[..., Server], image: bytes
) -> None:
    server = run_server()
    sized = quote('{"size": 16}')
    assert server.put(f"/src/a.jpg?etl_args={quote('{')}&x=1", image).status == 400
    assert server.put(f"/src/a.jpg?etl_argss={quote('{')}&ETL_ARGS={quote('{')}", image).status == 200
    assert server.put(f"/src/a.jpg?etl_args={sized}&etl_args={quote('{')}", image).status == 400
    assert server.put(f"/src/a.jpg?etl_args={sized};etl_args={sized}", image).status == 400


PIPELINES: dict[str, str] = {
    "nothing": " ",
    "no pipeline": "hello",
    "a list": "[]",
    "null": "null",
    "no steps": "{}",
    "an unknown op": '{"steps": [{"op": "os.system"}]}',
    "an unknown field": '{"steps": [], "stepz": []}',
    "500 unknown fields": json.dumps({"steps": []} | {f"field{number}": 1 for number in range(500)}),
    "a field twice": '{"steps": [], "steps": []}',
    "NaN": '{"steps": [{"op": "CenterCrop", "size": NaN}]}',
    "Infinity": '{"steps": [{"op": "CenterCrop", "size": Infinity}]}',
    "1e400": '{"steps": [{"op": "CenterCrop", "size": 1e400}]}',
    "10^9 pixels": '{"steps": [{"op": "CenterCrop", "size": 1000000000}]}',
    "10^400": '{"steps": [{"op": "CenterCrop", "size": 1' + "0" * 400 + "}]}",
    "5,000 digits": '{"seed": ' + "9" * 5000 + ', "steps": []}',
    "65 steps": json.dumps({"steps": [{"op": "CenterCrop", "size": 8}] * 65}),
    "1,000 wrong steps": json.dumps({"steps": [{"op": f"Op{number}"} for number in range(1000)]}),
    "64 wrong steps": json.dumps({"steps": [{"op": f"Op{number}"} for number in range(64)]}),
    "a lone surrogate": '{"steps": [{"op": "\\ud800"}]}',
    "100,000 levels": '{"steps": ' + "[" * DEEP,
    "100,000 levels of YAML": "steps: " + "[" * DEEP,
    "YAML, a level a line": "".join(" " * depth + "a:\n" for depth in range(300)),
    "a YAML bomb": "a: &a [x, x]\nb: &b [*a, *a]\nsteps: [*b, *b]",
    "a YAML tag": "steps: !!python/object/apply:os.system [id]",
    "a YAML merge": "steps: []\n<<: {seed: 1}",
    "two YAML documents": "steps: []\n---\nsteps: []",
    "1 MB": '{"steps": [], "x": "' + "x" * 1_000_000 + '"}',
    "1 MB of YAML": "steps: []\n" + "# comment\n" * 100_000,
    "half a step": '{"steps": [{"op": "CenterCrop", "si',
    "control characters": '{"steps": [], "\\u0000\\u001b[2J": 1}',
}


@pytest.mark.parametrize("what", PIPELINES)
def test_a_pipeline_that_cannot_work_ends_the_start_with_a_reason(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pipeline"
    file.write_text(PIPELINES[what], encoding="utf-8")
    monkeypatch.setenv("TVETL_PIPELINE", f"@{file}")
    start = time.monotonic()
    assert wsgi.main(["--check"]) == 2
    assert time.monotonic() - start < 5
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(("tvetl-server: PipelineError: ", "tvetl-server: SettingsError: "))
    assert last.isprintable() and 40 < len(last) < 20_000


def test_the_same_by_the_environment_of_a_real_process() -> None:
    """The text itself in the variable; an environment holds 128 KiB in one."""
    texts = [PIPELINES[what] for what in ("NaN", "a YAML bomb", "64 wrong steps")] + ['{"steps": ' + "[" * 100_000]
    command = [sys.executable, "-m", "tvetl_server.wsgi"]
    starts = [
        subprocess.Popen(command, env=environment(TVETL_PIPELINE=text), stderr=subprocess.PIPE, text=True)
        for text in texts
    ]
    for process in starts:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "Traceback" not in error
        assert error.splitlines()[-1].startswith("tvetl-server: PipelineError: $")
