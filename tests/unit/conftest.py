"""What unit tests share: directories and files of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from osvtriage.images.store import ImageStore

# No example has a time of its own to be done in: machines are shared, and a slow one is no defect.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


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
