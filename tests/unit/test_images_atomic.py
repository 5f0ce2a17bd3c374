"""Files appear whole or not at all; leftovers go; locks keep two builds apart."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from osvtriage.images import atomic
from osvtriage.images.atomic import discard, explained, new_directory, new_file, sweep
from osvtriage.images.lock import locked
from osvtriage.images.places import cache_directory, data_directory
from osvtriage.images.progress import silent
from osvtriage.model.errors import ImageError, LimitExceeded


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    with new_file(target, 0o755) as file:
        file.write(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert target.stat().st_mode & 0o777 == 0o755
    assert names(target.parent) == ["file"]


def test_a_file_that_failed_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), new_file(target) as file:
        file.write(b"half" * (1 // 0))
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_directory_appears_when_it_is_whole_and_replaces_the_old(tmp_path: Path) -> None:
    target = tmp_path / "result"
    for generation in ("one", "two"):
        with new_directory(target) as made:
            (made / generation).touch()
            assert not (target / generation).exists()
        assert names(target) == [generation]
    with pytest.raises(RuntimeError), new_directory(target) as made:
        raise RuntimeError
    assert names(tmp_path) == ["result"]


def test_sweep_removes_what_dead_writers_left(tmp_path: Path) -> None:
    (tmp_path / ".part-1-dead").write_bytes(b"half")
    (tmp_path / ".part-2-dead").mkdir()
    (tmp_path / ".part-2-dead" / "kernel").touch()
    (tmp_path / "result").touch()
    with new_file(tmp_path / "file"), new_directory(tmp_path / "living"):
        assert len(sweep(tmp_path)) == 2
    assert names(tmp_path) == ["file", "living", "result"]
    assert sweep(tmp_path / "absent") == []


def test_sweep_spares_a_fresh_symlink(tmp_path: Path) -> None:
    (tmp_path / ".part-1-link").symlink_to("nowhere")
    assert sweep(tmp_path) == []
    os.utime(tmp_path / ".part-1-link", (0, 0), follow_symlinks=False)
    assert len(sweep(tmp_path)) == 1


def test_a_writer_whose_entry_was_swept_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = atomic.fcntl.flock
    swept: list[int] = []

    def sweep_first(descriptor: int, operation: int) -> None:
        if not swept:
            swept.append(descriptor)
            next(tmp_path.glob(".part-*")).unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(atomic.fcntl, "flock", sweep_first)
    with new_file(tmp_path / "file") as file:
        file.write(b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_discard_takes_the_whole_directory(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    discard(tmp_path / "a")
    assert names(tmp_path) == []


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(ImageError) as caught,
        explained(tmp_path / "images" / "kernel"),
    ):
        full.write(b"x")
    assert str(tmp_path) in str(caught.value)
    assert "MB free" in str(caught.value)
    assert "OSVTRIAGE_CACHE" in str(caught.value.hint)


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ImageError, match="no space"), new_file(tmp_path / "file"):
        pass
    assert names(tmp_path) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    # /proc refuses even root.
    with pytest.raises(OSError), explained(Path("/proc/x")):
        Path("/proc/x").mkdir()
    with pytest.raises(ImageError, match="cannot write"), explained(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_the_second_of_two_waits_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    waiting = threading.Event()
    messages: list[str] = []
    order: list[str] = []

    def progress(message: str) -> None:
        messages.append(message)
        waiting.set()

    def second() -> None:
        with locked(path, "building x", progress):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(path, "building x", silent):
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert messages == [f"waiting for another osvtriage (process {os.getpid()}) that is building x"]


def test_waiting_for_a_lock_has_a_limit(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock", "building x", silent),
        pytest.raises(LimitExceeded, match="building x"),
        locked(tmp_path / "lock", "building x", silent, limit=0),
    ):
        pass


def test_the_directories_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSVTRIAGE_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("OSVTRIAGE_DATA", "~/d")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "c"
    assert data_directory() == tmp_path / "d"
    monkeypatch.delenv("OSVTRIAGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "osvtriage"
