"""Photographs to compare on: the ImageNet sample where it is laid out, else the few that always come along."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvetl_server.limits import Limits


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
