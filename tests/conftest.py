"""What every test may ask for: photographs that always come along, and the recordings where they are laid out."""

from __future__ import annotations

import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

#: In scikit-image's wheel: RGB, 451 to 1000 pixels wide, public domain or CC0, as its skimage.data functions document.
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "rocket.jpg")


def pytest_configure() -> None:
    """A shell starts what it puts into the background deaf to Ctrl-C, and so would be all that the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Recordings and sample data beside the checkout; a test that needs them skips where they are absent."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared (recordings and sample photographs), which is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def photographs() -> list[Path]:
    """A few freely licensed photographs, JPEG and PNG; locks/photos.txt brings them, so their absence is a failure."""
    package = find_spec("skimage")  # found, never imported: its own dependencies are not installed
    if package is None or package.origin is None:
        pytest.fail("scikit-image's photographs are missing: run `make setup`, or pip install --no-deps scikit-image")
    folder = Path(package.origin).parent / "data"
    return [folder / name for name in PHOTOGRAPHS]
