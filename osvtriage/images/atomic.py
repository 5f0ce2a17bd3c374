"""Files and directories that appear under their final names only when they are whole.

Each is written beside its final place under a name that starts with ``.part-``, made durable with
fsync, and renamed. A process that is killed leaves the ``.part-`` name behind; :func:`sweep`
removes it. Whether its writer still lives is told by a flock on it, not by the process id in its
name: ids are recycled, and differ between containers that share one cache. The kernel drops the
lock with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from osvtriage.images.places import CACHE_VARIABLE, DATA_VARIABLE
from osvtriage.model.errors import ImageError

PREFIX = ".part-"
# A process id and a word: what else begins so, in a directory of the user's, is none of ours.
_PART = re.compile(re.escape(PREFIX) + r"\d+-\w+")

# A file system without flock (some network ones) cannot tell whether the writer lives. Nothing that
# osvtriage writes takes a day.
_STALE_SECONDS = 86_400.0


@contextlib.contextmanager
def new_file(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Write *path* through the file object given; it replaces an older one when the block ends."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _claim(path.parent, _create_file)
        try:
            with os.fdopen(os.dup(lock), "wb") as file:
                yield file
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            temporary.rename(path)
            _fsync_directory(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(lock)


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Fill the directory given; it is named *path* when the block ends. An older one gives way."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _claim(path.parent, os.mkdir)
        try:
            yield temporary
            _fsync_tree(temporary)
            if path.exists():
                discard(path)
            temporary.rename(path)
            _fsync_directory(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            os.close(lock)


def replace_symlink(link: Path, target: str) -> None:
    """Point *link* at *target*; a reader sees the old target or the new one, never neither."""
    with explained(link):
        temporary = link.parent / _part_name()
        temporary.symlink_to(target)
        temporary.replace(link)


def discard(path: Path) -> None:
    """Remove a directory so that no reader sees half of it: it loses its name first."""
    with explained(path):
        doomed = path.parent / _part_name()
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def sweep(directory: Path) -> list[Path]:
    """Remove what dead writers left in *directory*; what was removed is returned."""
    removed = []
    try:
        leftovers = [entry for entry in directory.iterdir() if _PART.fullmatch(entry.name)]
    except OSError:
        return []
    for entry in leftovers:
        with contextlib.suppress(OSError):
            if _remove_abandoned(entry):
                removed.append(entry)
    return removed


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a refusal by the file system at *path* into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ImageError(
                f"cannot write {path}: {error.strerror}",
                hint=_elsewhere("make that directory writable"),
            ) from error
        raise


def disk_full(path: Path) -> ImageError:
    """The error for a file system that has no room for *path*."""
    where = path
    while not where.exists() and where != where.parent:
        where = where.parent
    free = shutil.disk_usage(where).free // 1_000_000
    return ImageError(
        f"no space to write {path}: its file system has {free} MB free, or your quota is used up",
        hint=_elsewhere("free some space (`osvtriage images list` shows what takes it)"),
    )


def _elsewhere(first: str) -> str:
    return f"{first}, or point {CACHE_VARIABLE} and {DATA_VARIABLE} at another directory"


def _part_name() -> str:
    return f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"


def _create_file(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _claim(parent: Path, create: Callable[[Path], None]) -> tuple[Path, int]:
    """Make a ``.part-`` entry and lock it; the descriptor that holds the lock is returned."""
    while True:
        path = parent / _part_name()
        create(path)
        try:
            descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        except FileNotFoundError:
            continue
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # A sweep may remove the entry between its making and its locking: then make another.
        if path.exists():
            return path, descriptor
        os.close(descriptor)


def _is_stale(entry: Path) -> bool:
    return time.time() - entry.lstat().st_mtime > _STALE_SECONDS


def _remove_abandoned(entry: Path) -> bool:
    if entry.is_symlink():
        # replace_symlink makes and renames it in one breath; no lock can be held on it.
        if stale := _is_stale(entry):
            entry.unlink()
        return stale
    descriptor = os.open(entry, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not _lock_is_free(descriptor, entry):
            return False
        # Under the lock: a writer that has made the entry and waits for the lock then sees it gone.
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
        return True
    finally:
        os.close(descriptor)


def _lock_is_free(descriptor: int, entry: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return _is_stale(entry)
    return True


def _fsync_tree(directory: Path) -> None:
    for parent, _, files in os.walk(directory):
        for name in files:
            # A symbolic link has nothing of its own to write: it is in its directory.
            if not (path := Path(parent) / name).is_symlink():
                _fsync_path(path)
        _fsync_directory(Path(parent))


def _fsync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_directory(directory: Path) -> None:
    # Some file systems refuse fsync on a directory; the rename is then as durable as they make it.
    with contextlib.suppress(OSError):
        _fsync_path(directory)
