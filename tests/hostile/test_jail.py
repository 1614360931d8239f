"""A decoder that was taken over reaches nothing: what an op of the tests' own tries there, and what its memory has."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import escapes
from support.processes import family, processes
from support.serving import PATIENCE, PIPELINE, SECRET, Recorder, Server, environment, jailed, start

from tvetl_server.processes.jail import PARTS, calls

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


def tried(folder: Path, mode: str, module: str = "tvetl_server.wsgi") -> tuple[Server, dict[str, str]]:
    """Try every way out once, with good images in between; what became of each."""
    folder.mkdir()
    with listening() as (port, came):
        here = laid_out(folder, port)
        evidence, plugin = folder / "evidence", folder / "plugin"
        settings = escapes.install(plugin, here)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix:
            unix.bind(str(here["unix"]))
            roots = str(here["root"])
            server = start(folder / "log", module, **settings, TVETL_ROOTS=roots, TVETL_JAIL=mode, TVETL_DECODERS="2")
            worker = family(server)["worker"]
            left: set[Path] = set()

            def ask(sent: bytes) -> tuple[int, bytes]:
                kinds = family(server)
                found = [kinds["worker"][0], server.process.pid, kinds["fork server"][0], min(kinds["decoder"])]
                told = json.dumps(dict(zip(escapes.KINDS, found, strict=True)))
                (folder / "root" / "processes.json").write_text(told, encoding="utf-8")
                reply = server.put("/src/a.png", sent)
                good = server.put("/src/good.png", picture())
                assert (good.status, colour(good.body)) == (200, (9, 9, 9))
                if {*evidence.iterdir()} - left:  # it became another program, say, and gave no answer
                    left.update(evidence.iterdir())
                    return 200, out()
                return reply.status, reply.body

            found = escapes.tried(plugin, here, ask)
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


def out() -> bytes:
    """The answer of a way that leads out."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(file, "PNG")
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


def test_where_a_part_is_missing_the_others_hold_or_there_is_no_start(run_server: Callable[..., Server]) -> None:
    """On a kernel that refuses Landlock, for a reason of its own."""
    server = run_server("support.hostile.without_landlock", TVETL_JAIL="try")
    why = "without landlock: Argument list too long"
    assert f"\njail: seccomp, limits; {why}\n" in server.get("/health").body.decode()
    assert f"[WARNING] The jail of decoders: seccomp, limits; {why}\n" in server.log
    metrics = server.get("/metrics").body.decode()
    assert 'tvetl_jail{part="landlock"} 0\n' in metrics and 'tvetl_jail{part="seccomp"} 1\n' in metrics
    command = [sys.executable, "-m", "support.hostile.without_landlock"]
    env = environment(TVETL_PIPELINE=PIPELINE, TVETL_JAIL="require")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert "requires a jail that does not hold here (landlock: Argument" in done.stderr.splitlines()[-1]


def test_seccomp_alone_lets_nothing_out_but_what_can_be_read(tmp_path: Path) -> None:
    server, found = tried(tmp_path / "seccomp", "try", "support.hostile.without_landlock")
    assert server.stop() == 0
    out = [name for name, outcome in found.items() if outcome == "out"]
    assert [name for name in out if not name.startswith(("read_", "list_", "open_again", "look_up"))] == []


def test_a_folder_for_ops_of_ones_own_may_be_read_and_no_other(tmp_path: Path) -> None:
    for name, outcome in (("tables", "out"), ("others", "Permission denied")):
        allowed, folder = tmp_path / name, tmp_path / f"run-{name}"
        allowed.mkdir()
        folder.mkdir()
        here = laid_out(folder, 9) | {"outside": str(tmp_path / "tables" / "table")}
        (tmp_path / "tables" / "table").write_text("1", encoding="utf-8")
        settings = escapes.install(folder / "plugin", here)
        server = start(folder / "log", **settings, TVETL_JAIL="require", TVETL_JAIL_FOLDERS=str(allowed))
        (number,) = escapes.numbers(folder / "plugin", here, "read_by_path")
        assert escapes.outcome_of(server.put("/src/a.png", escapes.picture(number)).body) == outcome
        assert server.stop() == 0


def test_the_numbers_of_system_calls_are_the_kernels() -> None:
    """Debian's linux-libc-dev has both lists."""
    places = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
    lists = {processor: Path("/usr/include") / place for processor, place in places.items()}
    if not all(path.is_file() for path in lists.values()):
        pytest.skip("needs the kernel's headers (Debian: linux-libc-dev)")
    for processor, path in lists.items():
        found = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)$", path.read_text(encoding="ascii"), re.MULTILINE)
        numbers = {"newfstatat" if name == "fstatat" else name: int(number) for name, number in found}
        for rule in [*calls.DECODER, *calls.FORK_SERVER, *calls.ABSENT]:
            assert rule.number(processor) == numbers.get(rule.name), (processor, rule.name)


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


def test_only_workers_know_the_secret_also_where_there_is_a_device(
    run_server: Callable[..., Server], recorder: Recorder, image: bytes
) -> None:
    server = run_server(
        "support.fake_device", AIS_TARGET_URL=recorder.url, direct_put="true", TVETL_DEVICE="host", TVETL_WORKERS="2"
    )
    assert server.put("/src/a.jpg", image).status == 200
    workers = {int(process) for process in re.findall(r"Booting worker with pid: (\d+)", server.log)}
    assert {process for process in processes(server) if holds(process, SECRET.encode())} == workers
    reach = {
        process
        for process in processes(server)
        if any("tvetl-kept" in str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir())
    }
    assert reach == {server.process.pid, *workers}


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
