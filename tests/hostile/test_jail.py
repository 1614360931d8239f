"""A decoder that was taken over reaches nothing: what an op of the tests' own tries there, and what its memory has."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hostile import escapes
from hostile.peers import family
from PIL import Image
from support.serving import SECRET, Recorder, Server, jailed, start

from tvetl_server.processes.jail import PARTS

pytestmark = pytest.mark.skipif(any(jailed().values()), reason=f"this machine has no whole jail: {jailed()}")

#: What the kernel says where it refuses.
REFUSED = {os.strerror(code) for code in (1, 13, 38)}


@contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """A port, and what came there."""
    came: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        over = threading.Event()

        def accept() -> None:
            while not over.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    came.append(connection.recv(10))

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1], came
        over.set()
        thread.join()


def laid_out(folder: Path, port: int) -> dict[str, object]:
    """A root with objects and links that lead out, a file beside it, and a folder for what gets out."""
    root, evidence = folder / "root", folder / "evidence"
    root.mkdir()
    evidence.mkdir()
    evidence.chmod(0o777)
    outside = folder / "outside.txt"
    outside.write_text("outside", encoding="utf-8")
    for name in ("inside.bin", "inside.bin.1", "inside.bin.2"):
        (root / name).write_bytes(b"inside")
    (root / "link.txt").symlink_to(outside)
    (root / "folder").symlink_to(folder)
    here = {"root": root, "outside": outside, "inside": root / "inside.bin", "evidence": evidence}
    here["processes"], here["unix"] = root / "processes.json", folder / "socket"
    return {**{name: str(path) for name, path in here.items()}, "port": port}


def tried(folder: Path, mode: str) -> tuple[Server, dict[str, str]]:
    """Try every way out once, with good images in between; what became of each."""
    folder.mkdir()
    with listening() as (port, came):
        here = laid_out(folder, port)
        os.environ["ESCAPES"] = json.dumps(here)
        settings = escapes.install(folder / "plugin", here)
        names = runpy.run_path(str(folder / "plugin" / "escape_ops.py"))["NAMES"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix:
            unix.bind(str(here["unix"]))
            server = start(
                folder / "log", **settings, TVETL_ROOTS=str(here["root"]), TVETL_JAIL=mode, TVETL_DECODERS="2"
            )
            worker = family(server)["worker"]
            found = {}
            for number, name in enumerate(names):
                kinds = family(server)
                (folder / "root" / "processes.json").write_text(
                    json.dumps(
                        {
                            "first": server.process.pid,
                            "worker": kinds["worker"][0],
                            "fork_server": kinds["fork server"][0],
                            "other_decoder": min(kinds["decoder"]),
                        }
                    ),
                    encoding="utf-8",
                )
                before = {*(folder / "evidence").iterdir()}
                reply = server.put(f"/src/{number}.png", escapes.picture(number))
                if reply.status == 200:
                    found[name] = escapes.outcome_of(reply.body)
                else:
                    found[name] = f"{reply.status} {json.loads(reply.body)['error']}"
                if {*(folder / "evidence").iterdir()} - before:
                    found[name] = "out"
                good = server.put("/src/good.png", picture())
                assert (good.status, colour(good.body)) == (200, (9, 9, 9)), name
            unix.setblocking(False)
            with pytest.raises(BlockingIOError) if mode != "off" else contextmanager(lambda: iter([None]))():
                unix.recv(10)
        assert family(server)["worker"] == worker, "the worker lives"
        assert (came == []) is (mode != "off")
    return server, found


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(file, "PNG")
    return file.getvalue()


def colour(data: bytes) -> Any:
    return Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0))


def test_no_way_out_of_a_hundred_leads_out(tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    free, without = tried(tmp_path / "off", "off")
    assert free.stop() == 0
    server, within = tried(tmp_path / "jail", "require")
    assert server.stop() == 0
    assert [name for name, outcome in within.items() if outcome == "out"] == []
    out = [name for name, outcome in without.items() if outcome == "out"]
    # Refused, or the decoder ended by what it did: none for a reason that has nothing to do with the jail.
    odd = {name: within[name] for name in out if within[name] not in {*REFUSED, "422 damaged_image"}}
    assert odd == {}
    assert len(without) >= 100
    assert len(out) > len(without) / 2, Counter(without.values())
    for kept in ("inside.bin", "inside.bin.1", "inside.bin.2"):
        assert (tmp_path / "jail" / "root" / kept).read_bytes() == b"inside"
    assert not [*(tmp_path / "jail" / "evidence").iterdir()]
    figure(
        "the jail: ways out of a decoder that was taken over",
        f"{len(within)} tried, 0 led out ({len(out)} with TVETL_JAIL=off); worker alive, every good image right",
    )


def test_health_metrics_and_the_log_tell_which_parts_hold(run_server: Callable[..., Server]) -> None:
    for mode, words, holds in (("require", ", ".join(PARTS), 1), ("off", "off", 0)):
        server = run_server(TVETL_JAIL=mode)
        assert f"\njail: {words}" in server.get("/health").body.decode()
        metrics = server.get("/metrics").body.decode()
        for part in PARTS:
            assert f'\ntvetl_jail{{part="{part}"}} {holds}\n' in metrics
        assert f"The jail of decoders: {words}" in server.log


def test_neither_decoders_nor_their_fork_servers_have_the_secret(
    run_server: Callable[..., Server], recorder: Recorder, image: bytes
) -> None:
    """Nor AIStore's address, nor another of its variables, in memory, environment and descriptors."""
    server = run_server(
        AIS_TARGET_URL=recorder.url, AIS_SOMETHING="An0therOfTheirs", direct_put="true", TVETL_JAIL="require"
    )
    reply = server.put("/src/a.jpg", image, {"Ais-Node-Url": f"http://{recorder.host}/ais%2F@%23%2Fdst%2Fa.jpg"})
    assert (reply.status, SECRET in recorder.puts[0].target) == (204, True)
    wanted = [SECRET.encode(), recorder.host.encode(), b"An0therOfTheirs"]
    kinds = family(server)
    for kind, found in kinds.items():
        for process in found:
            held = [word for word in wanted if holds(process, word)]
            known = {*wanted[:2]} if kind == "worker" else set()
            assert {*held} == known, kind
            environment = Path(f"/proc/{process}/environ").read_bytes()
            assert b"AIS_" not in environment and not any(word in environment for word in wanted), kind
            if kind in ("fork server", "decoder"):
                opened = [str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir()]
                opened = [re.sub(r":\[\d+\]", "", name) for name in opened if "server-" not in name]
                # Its input, the worker's socket, and a decoder's memory for results.
                more = ["/memfd:tvetl (deleted)"] if kind == "decoder" else ["anon_inode:[landlock-ruleset]"]
                assert sorted(opened) == sorted(["/dev/null", "socket", *more]), kind


def holds(process: int, word: bytes) -> bool:
    """Whether it is anywhere in the memory of that process."""
    with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text(encoding="utf-8").splitlines():
            first, last = (int(at, 16) for at in line.split()[0].split("-"))
            if not line.split()[1].startswith("r") or "[v" in line:
                continue
            memory.seek(first)
            try:
                if word in memory.read(last - first):
                    return True
            except OSError:  # beyond a file's end
                continue
    return False
