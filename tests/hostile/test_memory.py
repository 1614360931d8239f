"""The memory of all processes together stays within the bound of docs/server.md, and comes back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from support.hostile.answers import PIPELINE, Broken, Sender, code_of
from support.hostile.inputs import damages, good, jpeg_of, picture, saved, strange
from support.processes import Memory, memory, watching
from support.serving import Disk, Server

MIB = 2**20

#: What one decoder may take, as docs/server.md has it: bytes for each byte of the source, for each of its pixels, and
#: for each pixel of a result.
OF_A_BYTE, OF_A_PIXEL, OF_A_RESULT = 3, 24, 56


def base(workers: int, decoders: int) -> int:
    """Bytes of all processes while they transform nothing large; there may be one decoder more, beside a slow one."""
    return (35 + workers * (20 + (decoders + 1) * 30)) * MIB


def most(data: bytes, pixels: int, result: int = 32 * 32) -> int:
    """Bytes that one object may take; ``result`` in pixels, as float32 of three channels at most."""
    return OF_A_BYTE * len(data) + OF_A_PIXEL * pixels + OF_A_RESULT * result


def progressive(width: int, height: int) -> bytes:
    """A small file of a large image: three components of full size, all of whose coefficients must be held."""
    return jpeg_of(width, height, saved(picture("RGB", (16, 16)), "JPEG", progressive=True, subsampling=0))


def warmed(server: Server, disk: Disk, senders: int) -> None:
    """All decoders have been started, and have loaded what they need."""

    def send(_: int) -> None:
        sender = Sender(server, disk)
        for data in [*good().values()] * 2:
            sender.by_body("warm.jpg", data)
        sender.close()

    with ThreadPoolExecutor(senders) as pool:
        list(pool.map(send, range(senders)))


def test_eight_of_the_largest_images_at_once_stay_within_the_bound(
    run_server: Callable[..., Server], disk: Disk, figure: Callable[[str, str], None]
) -> None:
    edge = 4096
    server = run_server(
        TVETL_PIPELINE=PIPELINE,
        TVETL_ROOTS=str(disk.root),
        TVETL_WORKERS="2",
        TVETL_DECODERS="4",
        TVETL_SECONDS="60",
        TVETL_MAX_PIXELS=str(edge**2),
    )
    warmed(server, disk, 8)
    webp = saved(Image.linear_gradient("L").resize((edge, edge)).convert("RGB"), "WEBP", method=0)
    files = [webp, progressive(edge, edge)] * 4
    before = memory(server).now

    def send(data: bytes) -> str:
        return code_of(server.put("/src/large.jpg", data))

    with watching(server) as seen, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(send, files)) == ["answered"] * 8
        assert code_of(server.put("/src/larger.jpg", progressive(edge, edge + 1))) == "too_many_pixels"
    bound = base(2, 4) + sum(most(data, edge**2) for data in files)
    assert before + 8 * edge**2 < max(seen) < bound
    after = memory(server).now
    assert after < before + 8 * 16 * MIB, "it was given back"
    figure(
        "memory: eight images of the largest size allowed at once (16.8 million pixels)",
        f"{max(seen) / MIB:,.0f} MiB in all processes ({before / MIB:,.0f} before, {after / MIB:,.0f} after); "
        f"bound {bound / MIB:,.0f}",
    )


def test_four_of_the_largest_results_at_once_stay_within_the_bound(
    run_server: Callable[..., Server], disk: Disk, figure: Callable[[str, str], None]
) -> None:
    edge = 2048
    server = run_server(
        TVETL_PIPELINE='{"steps": [{"op": "RandomHorizontalFlip"}, {"op": "ToTensor"}], "output": {"format": "npy"}}',
        TVETL_ROOTS=str(disk.root),
        TVETL_DECODERS="4",
        TVETL_SECONDS="60",
        TVETL_MAX_OUTPUT_PIXELS=str(edge**2),
    )
    warmed(server, disk, 4)
    data = progressive(edge, edge)
    before = memory(server).now

    def send(_: int) -> int:
        reply = server.put("/src/large.jpg", data)
        return len(reply.body) if reply.status == 200 else 0

    with watching(server) as seen, ThreadPoolExecutor(4) as pool:
        assert min(pool.map(send, range(4))) > 12 * edge**2
        assert code_of(server.put("/src/larger.jpg", progressive(edge, edge + 1))) == "too_many_pixels"
    bound = base(1, 4) + 4 * most(data, edge**2, edge**2)
    assert before + 12 * edge**2 < max(seen) < bound
    figure(
        "memory: four of the largest results allowed at once (4.2 million pixels, float32)",
        f"{max(seen) / MIB:,.0f} MiB in all processes ({before / MIB:,.0f} before); bound {bound / MIB:,.0f}",
    )


def test_an_image_of_the_default_limit_stays_within_the_bound(
    run_server: Callable[..., Server], disk: Disk, figure: Callable[[str, str], None]
) -> None:
    meminfo = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(1024 * int(line.split()[1]) for line in meminfo if line.startswith("MemAvailable"))
    if free < 6 * 2**30:
        pytest.skip("needs 6 GiB of free memory for an image of 179 million pixels")
    width, height = 13_378, 13_377  # the largest two sides that are not above 178,956,970
    data = progressive(width, height - 1)
    server = run_server(TVETL_PIPELINE=PIPELINE, TVETL_ROOTS=str(disk.root), TVETL_SECONDS="120")
    warmed(server, disk, 2)
    before = memory(server).now
    with watching(server) as seen:
        assert code_of(server.put("/src/large.jpg", data)) == "answered"
    bound = base(1, 2) + most(data, width * height)
    assert before + 6 * width * height < max(seen) < bound
    figure(
        "memory: one image of the default limit (179 million pixels)",
        f"{max(seen) / MIB:,.0f} MiB in all processes, of which {before / MIB:,.0f} before; bound {bound / MIB:,.0f}",
    )


def test_memory_does_not_grow_over_20000_requests(
    run_server: Callable[..., Server], disk: Disk, figure: Callable[[str, str], None]
) -> None:
    # One of each: which of several gets how many is chance, and what each holds in the end comes sooner or later.
    server = run_server(TVETL_PIPELINE=PIPELINE, TVETL_ROOTS=str(disk.root), TVETL_DECODERS="1")
    fuss = ("of strange size 4", "run-lengths that jump", "with too many pixels")  # hundreds of megabytes, for a while
    odd = [(name, data) for name, data in strange().items() if not any(words in name for words in fuss)]
    inputs = [*good().items(), *odd, *damages(good(), 10)]
    senders, warm, requests = 4, 5_000, 20_000
    codes: Counter[str] = Counter()
    at = iter(range(10**9))
    lock = threading.Lock()

    def send(until: int) -> None:
        sender = Sender(server, disk)
        while (number := next(at)) < until:
            name, data = inputs[number % len(inputs)]
            try:
                code = code_of((sender.by_name if number % 3 == 0 else sender.by_body)(f"{number}.jpg", data))
            except Broken as error:
                raise AssertionError(name) from error
            with lock:
                codes[code] += 1
        sender.close()

    def send_until(until: int) -> Memory:
        with ThreadPoolExecutor(senders) as pool:
            list(pool.map(send, [until] * senders))
        return memory(server)

    # The allocators have their arenas after some time; from then on there is nothing to keep.
    parts = [send_until(warm + part * requests // 4) for part in range(5)]
    held, own = [part.now for part in parts], [part.own for part in parts]
    assert sum(codes.values()) >= warm + requests - len(held) * senders
    assert max(own[1:]) < 1.03 * own[0] + 6 * MIB
    assert max(held) < base(workers=1, decoders=1)
    figure(
        "memory: after 5,000 requests, a third of them refused, and then over 20,000 more",
        f"{', '.join(f'{bytes_ / MIB:,.0f}' for bytes_ in held)} MiB in all processes "
        f"({', '.join(f'{count:,} {code}' for code, count in codes.most_common(2))})",
    )
