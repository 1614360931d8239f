"""Photographs to compare on: the ImageNet sample where it is laid out, else the few that always come along."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from support.alone import alone

from tvetl_server.limits import Limits
from tvetl_server.processes.jail import Jail


@pytest.fixture(scope="session")
def sample(photographs: list[Path]) -> list[bytes]:
    """JPEG, PNG, ... files as bytes: 125 photographs of ../shared, or five without it."""
    folder = Path(__file__).resolve().parents[3] / "shared/data/imagenet-sample"
    files = sorted(folder.glob("*.JPEG")) if folder.is_dir() else photographs
    return [file.read_bytes() for file in files]


@pytest.fixture(scope="session")
def limits() -> Limits:
    """The server's default limits."""
    return Limits()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--jailed", action="store_true", help="run each test in a process that is jailed as a decoder is")


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """With --jailed: the engine does as it is promised with what a decoder may do, and no more."""
    if not pyfuncitem.config.getoption("--jailed"):
        return None
    # What the server imports before it forks a decoder, whose pipeline needs torch.
    from PIL import AvifImagePlugin, JpegImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    import tvetl_server.engine.plans.torchvision  # noqa: F401

    jail = Jail("require", files=[Path(__file__).resolve().parents[3]], memory=Limits().memory)
    wanted = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    def promise() -> None:
        jail.confine_fork_server()
        jail.confine_decoder()
        with contextlib.suppress(pytest.skip.Exception):
            pyfuncitem.obj(**wanted)

    alone(promise)
    return True
