"""The look-up in C is numpy's indexing, with AVX2 and without; sizes that do not fit are refused."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support import sanitizers

from tvetl_server.engine.native import native as installed

SOURCE = "container/native/src/tvetl_pixels"


@pytest.fixture(params=[True, False], ids=["AVX2", "plain C"])
def native(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    if installed is None:
        pytest.skip("tvetl_pixels has no code here: there was no compiler")
    installed.use_avx2(request.param)
    yield installed
    installed.use_avx2(True)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint32", "uint16"])
def test_each_byte_becomes_its_entry_at_every_length(native: ModuleType, dtype: str) -> None:
    random = np.random.default_rng(3)
    table = random.integers(0, 256, 256 * np.dtype(dtype).itemsize, np.uint8).view(dtype)  # every pattern of bits
    for length in [*range(70), 255, 4097, 50176]:
        source = random.integers(0, 256, length, np.uint8)
        target = np.full(length + 1, 7, dtype)
        native.look_up(source, table, target[:length])
        assert target[:length].tobytes() == table[source].tobytes()
        assert target[length] == 7


def test_buffers_may_be_of_any_kind_and_lie_anywhere(native: ModuleType) -> None:
    random = np.random.default_rng(4)
    table, source = random.standard_normal(256).astype(np.float32), random.integers(0, 256, (33, 3), np.uint8)
    target = bytearray(4 * source.size + 1)
    native.look_up(memoryview(b"\0" + source.tobytes())[1:], table.tobytes(), memoryview(target)[1:])
    assert target == b"\0" + table[source].tobytes()


def test_sizes_that_do_not_fit_are_refused(native: ModuleType) -> None:
    def look_up(source: int, table: int, target: int) -> None:
        native.look_up(bytes(source), bytes(table), bytearray(target))

    look_up(0, 512, 0)
    for sizes in ((0, 512, 1), (9, 512, 36), (9, 1024, 18), (9, 1024, 37), (9, 256, 9), (9, 2048, 72), (9, 0, 0)):
        with pytest.raises(ValueError, match="table is 256 entries of 2 or 4 bytes"):
            look_up(*sizes)
    with pytest.raises((TypeError, BufferError)):
        native.look_up(bytes(9), bytes(512), bytes(18))  # not to be written to
    strided = np.zeros((9, 2), np.float32)[:, 0]
    with pytest.raises((TypeError, ValueError, BufferError)):
        native.look_up(bytes(9), bytes(1024), strided)


def test_other_threads_run_meanwhile(native: ModuleType) -> None:
    source, table, target = np.zeros(2**27, np.uint8), np.zeros(256, np.uint16), np.zeros(2**27, np.uint16)
    thread = threading.Thread(target=native.look_up, args=(source, table, target))
    thread.start()
    turns = [time.perf_counter()]
    while thread.is_alive():
        turns.append(time.perf_counter())
    longest = max(then - now for now, then in itertools.pairwise(turns))
    assert longest < (turns[-1] - turns[0]) / 2


def test_memory_beside_the_buffers_is_left_alone(repository: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('_native', sys.argv[1])\n"
        "native = importlib.util.module_from_spec(spec)\n"
        "for size in range(int(sys.argv[2])):\n"
        "    for item in (2, 4):\n"
        "        native.look_up(bytes(size), bytes(256 * item), bytearray(size * item))\n"
        "print(size)\n"
    )
    assert sanitizers.run(repository / SOURCE, script, 200, tmp_path).strip() == "199"
