"""File names that try to leave the roots, and files swapped while they are opened: no byte from outside comes back."""

from __future__ import annotations

import io
import itertools
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from PIL import Image
from support.alone import alone, descriptors
from support.serving import SECRET, Disk, Reply, Server, by_name
from support.traps import exchange, request

from tvetl_server.errors import FileGone, ObjectError, OutsideRoots
from tvetl_server.serving import source
from tvetl_server.serving.source import Files

#: In every file outside of the roots, and in no other place.
WORD = b"CANARY-b41d"
MAGENTA = (255, 0, 255)
SWAPS = 100_000


def canary() -> bytes:
    """An image of one colour with the word behind it: a server that reads it gives its pixels or its bytes away."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), MAGENTA).save(file, "PNG")
    return file.getvalue() + WORD


def shows_the_canary(reply: Reply) -> bool:
    if WORD in reply.body:
        return True
    if reply.status != 200:
        return False
    with Image.open(io.BytesIO(reply.body)) as picture:
        return picture.convert("RGB").getpixel((0, 0)) == MAGENTA


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file beside the roots."""
    path = tmp_path / "outside" / "canary.png"
    path.parent.mkdir()
    path.write_bytes(canary())
    return path


# Two dots and a slash, as someone somewhere decodes them.
DOTS = [
    "..", "%2e%2e", "%2E.", ".%2e", "%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae", "%f0%80%80%ae%f0%80%80%ae", "%u002e%u002e",
    "\uff0e\uff0e", "\u2024\u2024", "\u2025", "\u3002\u3002", "..\u200b", "..%00", "%00..", "..;", ".. ", " ..",
    "..%0d%0a",
]  # fmt: skip
SLASHES = [
    "/", "\\", "%2f", "%5c", "%c0%af", "%e0%80%af", "%c1%9c", "\uff0f", "\u2215", "\u2044", "//", "/./", "/%00/",
    "%u2215",
]  # fmt: skip


def climbs(inside: Path, out: Path) -> Iterator[str]:
    """Names that begin in the object's folder and would end at the file outside."""
    up = len(inside.parent.relative_to(out.parents[1]).parts)
    for dots, slash in itertools.product(DOTS, SLASHES):
        yield f"{inside.parent}/" + (dots + slash) * up + slash.join(out.parts[-2:])
        yield f"{inside.parent}/" + (dots + slash) * 40 + slash.join(out.parts[1:])


def others(inside: Path, out: Path, root: Path) -> Iterator[str]:
    """Names that are outside from their first letter on, or that end early for someone."""
    descriptors = [f"/proc/self/fd/{number}" for number in range(12)]
    yield from descriptors
    yield from ("/dev/zero", "/dev/stdin", "/dev/fd/0", "/proc/self/environ", "/proc/1/environ", "/proc/self/mem")
    yield from ("/etc/passwd", "/etc/shadow", "/sys/kernel/notes", "", "/", "//", ".", "..", "~", "~root/.profile")
    yield from (f"/proc/self/root{out}", f"/proc/self/cwd{out}", f"/proc/thread-self/root/{out}")
    yield from (
        str(out),
        f"/{out}",
        f"//{out}",
        f"/.{out}",
        f"{out}/",
        f"{out}/.",
        f"{out}\0{inside}",
        f"{inside}\0{out}",
    )
    yield from (f"file://{out}", f"file:{out}", f"http://127.0.0.1{out}", f"{out} ", f" {out}", f"{out}\n", f"\n{out}")
    yield from (
        str(out)[1:],
        f"\\{out}",
        f"C:{out}",
        f"{inside};{out}",
        f"{inside}:{out}",
        f"{inside}\n{out}",
        f"{inside}|{out}",
    )
    yield from (
        f"{root}{out}",
        f"{root}2{out}",
        f"{root}/..{out}",
        f"{root.parent}",
        f"{root}",
        f"{root}/",
        f"{root}/.",
    )
    yield from (f"{inside}/{out}", f"{inside}/..", f"{inside}/.", f"{inside}//", f"{inside.parent}", "/" + "a" * 300)
    yield from (f"{inside.parent}/" + "a/" * 4000, f"{root}/" + "../" * 4000, "/" * 4000 + str(out)[1:])
    yield from (
        str(out).upper(),
        f"/\ud800{out}",
        f"{root}/\udcff\udcfe",
        f"{root}\u202e{out}",
        f"$HOME{out}",
        f"`cat {out}`",
    )


def encoded(name: str) -> Iterator[bytes]:
    """The name plainly, and quoted once, twice (as a target does) and three times; percent signs kept, and quoted."""
    raw = name.encode("utf-8", "surrogatepass")
    text = quote(raw, safe="%/\\;~$|`:")
    yield quote(raw, safe="").encode()
    for _ in range(3):
        yield text.encode()
        text = quote(text, safe="")


def accepted(reply: Reply) -> bool:
    """A refusal in our own words, or gunicorn's to what is no HTTP."""
    if reply.status == 400 and b"<html>" in reply.body:
        return True
    return 400 <= reply.status < 500 and bool(json.loads(reply.body)["error"])


def test_no_form_of_a_name_leaves_the_roots(
    run_server: Callable[..., Server], disk: Disk, outside: Path, image: bytes, figure: Callable[[str, str], None]
) -> None:
    server = run_server(TVETL_ROOTS=str(disk.root), AIS_TARGET_URL=f"http://127.0.0.1:9/v1/etl/_object/e/{SECRET}")
    good = server.put(disk.add("in/a.jpg", image)).body
    inside = disk.path("in/a.jpg")
    # The test can see what it looks for.
    open_server = run_server(TVETL_ROOTS=f"{disk.root}:{outside.parent}")
    assert shows_the_canary(open_server.put(f"/src/a?{by_name(str(outside))}"))

    names = [*climbs(inside, outside), *others(inside, outside, disk.root)]
    forms = sorted({form for name in names for form in encoded(name)})
    statuses: Counter[int] = Counter()
    for form in forms:
        reply = exchange(server.port, request(b"/src/in/a.jpg?etl_fqn=" + form))
        assert not shows_the_canary(reply), form
        assert SECRET.encode() not in reply.body, form
        statuses[reply.status] += 1
        if reply.status == 200:  # no more than another way to write the object's own name
            fqn = unquote(unquote(form.decode()))
            assert os.path.normpath(fqn.rstrip("/")) == str(inside) and ".." not in fqn, form
            assert reply.body == good
        elif reply.status == 404:  # not there, and below the root
            assert accepted(reply)
        else:
            assert accepted(reply), (form, reply)
    # The path of the request names the object and no file; it is not looked at.
    for name in names:
        reply = exchange(server.port, request(b"/src/" + quote(name.encode("utf-8", "surrogatepass")).encode()))
        assert reply.status == 400, name
    assert server.put(disk.push("in/a.jpg")).body == good
    server.stop()
    assert WORD.decode() not in server.log and SECRET not in server.log and "Traceback" not in server.log
    assert server.log.count("Booting worker") == 1
    assert len(forms) >= 200
    told = ", ".join(f"{count:,} x {status}" for status, count in sorted(statuses.items()))
    figure("file names: forms of traversal tried", f"{len(forms):,} forms ({told}): 0 bytes from outside")


#: Swaps what a name leads to, without rest, until it is ended or left alone: good, link, good, ...
SWAPPER = """
import os, sys
name, link, spare = sys.argv[1:]
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1000):
        os.rename(name, spare)
        os.rename(link, name)
        os.rename(name, link)
        os.rename(spare, name)
"""


@contextmanager
def swapping(name: Path, to: Path) -> Iterator[None]:
    """While it lasts, ``name`` is in turn itself, gone, and a link ``to`` somewhere else."""
    link, spare = name.with_name("link"), name.with_name("spare")
    link.symlink_to(to)
    process = subprocess.Popen([sys.executable, "-c", SWAPPER, str(name), str(link), str(spare)])
    try:
        yield
    finally:
        process.kill()
        process.wait()
        link.unlink(missing_ok=True)
        if spare.exists():  # and name is the link, or nothing
            name.unlink(missing_ok=True)
            spare.rename(name)


def outcome(read: Callable[[], bytes]) -> str:
    try:
        return "CANARY" if WORD in read() else "read"
    except (FileGone, FileNotFoundError):
        return "gone"
    except (OutsideRoots, PermissionError):
        return "refused"


def tried(read: Callable[[], bytes], tries: int) -> Counter[str]:
    return Counter(outcome(read) for _ in range(tries))


def careless(path: Path) -> bytes:
    """What Files must not do: look first, and open then."""
    if path.is_symlink() or path.parent.is_symlink():
        raise PermissionError
    return path.read_bytes()


def test_what_is_swapped_while_it_is_opened_is_never_followed(
    disk: Disk, outside: Path, image: bytes, figure: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files([disk.root], 1 << 20)
    disk.add("in/canary.png", image)
    path = disk.path("in/canary.png")
    total: Counter[str] = Counter()
    leaks = 0
    for swapped, to in ((path, outside), (path.parent, outside.parent)):
        for one_call in (True, False):
            with monkeypatch.context() as patch:
                if not one_call:  # as on a kernel without openat2
                    patch.setattr(source, "_syscall", None)
                with swapping(swapped, to):
                    found = tried(lambda: files.read(str(path)), SWAPS // 4)
            assert found["CANARY"] == 0
            assert found["read"] > 100 and found["refused"] > 100, f"it was not swapped: {found}"
            total += found
        with swapping(swapped, to):
            end = time.monotonic() + 20
            seen = 0
            while not seen and time.monotonic() < end:
                seen = tried(lambda: careless(path), 5000)["CANARY"]
            leaks += seen
        assert seen, "look first and open then would have passed: this shows nothing"
    assert path.read_bytes() == image
    told = ", ".join(f"{count:,} {what}" for what, count in sorted(total.items()))
    figure(
        "file names: files and folders swapped for links while they are opened",
        f"{sum(total.values()):,} tries ({told}): 0 bytes from outside; looking first and opening then leaked {leaks}",
    )


def test_swaps_under_a_running_server(
    run_server: Callable[..., Server], disk: Disk, outside: Path, image: bytes, figure: Callable[[str, str], None]
) -> None:
    server = run_server(TVETL_ROOTS=str(disk.root))
    target = disk.add("in/canary.png", image)
    good = server.put(target).body
    statuses: Counter[int] = Counter()
    for swapped, to in ((disk.path("in/canary.png"), outside), (disk.path("in"), outside.parent)):
        with swapping(swapped, to):
            for _ in range(200):
                reply = server.put(target)
                statuses[reply.status] += 1
                assert reply.body == good if reply.status == 200 else accepted(reply) and WORD not in reply.body
    assert set(statuses) <= {200, 403, 404} and statuses[200] and statuses[403]
    assert server.put(target).body == good
    figure("file names: swaps under a running server", f"{sum(statuses.values())} requests: 0 bytes from outside")


def test_what_is_no_file_is_neither_read_nor_waited_for(
    run_server: Callable[..., Server],
    disk: Disk,
    outside: Path,
    image: bytes,
    figure: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = disk.add("in/a.jpg", image)
    folder = disk.path("in")
    os.mkfifo(folder / "fifo")
    monkeypatch.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        listener.listen()
        for name, to in (
            ("link", outside),
            ("dangling", "nowhere"),
            ("loop", "loop"),
            ("up", "../../../../.."),
            ("null", "/dev/null"),
        ):
            (folder / name).symlink_to(to)
        (folder / "magic").symlink_to("/proc/self/root")
        (folder / "dir").mkdir()
        names = [
            "fifo",
            "socket",
            "link",
            "dangling",
            "loop",
            "null",
            "dir",
            "dir/.",
            "a.jpg/x",
            "fifo/x",
            "up/x",
            f"magic{outside}",
        ]
        if os.geteuid() == 0:
            os.mknod(folder / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero
            names.append("device")
        devices = [
            "/dev/zero",
            "/dev/null",
            "/dev/full",
            "/dev/random",
            "/dev/tty",
            "/dev/ptmx",
            "/dev/fd/0",
            "/dev/stdin",
        ]
        kernel = [
            f"/proc/{os.getpid()}/environ",
            "/proc/1/environ",
            "/proc/self/mem",
            "/proc/version",
            "/sys/kernel/notes",
        ]
        # Roots that nobody should give: even there only regular files, and none of the kernel's.
        server = run_server(TVETL_ROOTS=f"/:/dev:/proc:{disk.root}", AIS_TARGET_URL=f"http://127.0.0.1:9/e/{SECRET}")
        kernel += [
            f"/proc/{server.process.pid}/{name}" for name in ("environ", "cmdline", "maps", "fd/0", "root/etc/passwd")
        ]
        asked = [str(folder / name) for name in names] + devices + kernel
        for name in asked:
            start = time.monotonic()
            reply = server.put(f"/src/a.jpg?{by_name(name)}")
            assert reply.status in (403, 404) and accepted(reply), (name, reply)
            assert WORD not in reply.body and SECRET.encode() not in reply.body
            assert time.monotonic() - start < 5, f"{name} was waited for"
            with pytest.raises(ObjectError):
                Files([Path("/")], 1 << 20).read(name)
        assert server.put(good).status == 200
    server.stop()
    assert SECRET not in server.log and "Traceback" not in server.log
    figure("file names: links, devices, FIFOs, sockets, folders, /proc", f"{len(asked)} names, each refused at once")


def test_a_refused_file_leaves_no_descriptor_open(disk: Disk, image: bytes, outside: Path) -> None:
    files = Files([disk.root], 1 << 20)
    disk.add("in/a.jpg", image)
    disk.path("in/link").symlink_to(outside)
    os.mkfifo(disk.path("in/fifo"))

    def promise() -> None:
        before = descriptors()
        for name in ("in/a.jpg", "in/link", "in/fifo", "in", "in/gone", "gone/gone", "in/a.jpg/x", "x" * 300):
            for _ in range(20):
                try:
                    files.read(str(disk.path(name)))
                except ObjectError:
                    continue
        assert descriptors() == before

    alone(promise)
