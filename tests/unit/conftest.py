"""What unit tests share: directories and files of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from osvtriage.images.store import ImageStore

# A machine that is busy with guests takes any time for one example.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No unit test looks into, or writes to, the user's own directories."""
    monkeypatch.setenv("OSVTRIAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OSVTRIAGE_DATA", str(tmp_path / "data"))


@pytest.fixture
def store() -> ImageStore:
    return ImageStore()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Writes a file of that name, which may lie in a directory, and that content."""

    def write_file(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return write_file
