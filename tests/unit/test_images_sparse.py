"""Files with holes: their copies and sums."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from osvtriage.images.sparse import copy, sha256

# Multiples of every usual block size, so that a file system with holes keeps these.
_HOLE = 8 << 20
_DATA = 1 << 20


def sparse(path: Path) -> Path:
    """Data, a hole, data, a hole."""
    with path.open("wb") as file:
        file.write(b"first".ljust(_DATA, b"1"))
        file.seek(_HOLE)
        file.write(b"second".ljust(_DATA, b"2"))
        file.truncate(2 * _HOLE)
    return path


def refuse(*_: int) -> int:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


@pytest.mark.parametrize("refused", [False, True])
def test_a_copy_has_the_same_bytes_and_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    if refused:
        monkeypatch.setattr(os, "copy_file_range", refuse)
    source, target = sparse(tmp_path / "source"), tmp_path / "target"
    copy(source, target)
    assert target.read_bytes() == source.read_bytes()
    # Holds as well on a file system that knows no holes: there, the source has none either.
    assert target.stat().st_blocks <= source.stat().st_blocks
    assert sha256(source) == hashlib.sha256(source.read_bytes()).hexdigest()


def test_a_file_system_that_knows_no_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sparse(tmp_path / "source")
    seek = os.lseek

    def seek_data(file: int, at: int, how: int) -> int:
        if how == os.SEEK_DATA:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return seek(file, at, how)

    monkeypatch.setattr(os, "lseek", seek_data)
    copy(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert sha256(source) == hashlib.sha256(source.read_bytes()).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 10_000, (1 << 20) + 1])
def test_a_file_of_any_size(tmp_path: Path, size: int) -> None:
    (tmp_path / "source").write_bytes(bytes(range(256)) * (size // 256 + 1))
    os.truncate(tmp_path / "source", size)
    copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()
    data = (tmp_path / "source").read_bytes()
    assert sha256(tmp_path / "source") == hashlib.sha256(data).hexdigest()


def test_a_hole_alone(tmp_path: Path) -> None:
    (tmp_path / "source").touch()
    os.truncate(tmp_path / "source", _HOLE)
    copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").stat().st_size == _HOLE
    assert sha256(tmp_path / "target") == hashlib.sha256(bytes(_HOLE)).hexdigest()


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"old"
