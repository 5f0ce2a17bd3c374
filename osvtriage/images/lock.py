"""One process at a time: advisory locks on files, so that two osvtriage do not build one image."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from osvtriage.images.atomic import explained
from osvtriage.images.progress import Progress
from osvtriage.model.errors import LimitExceeded

# A build downloads up to 100 MB. At 1 Mbit/s that takes 14 minutes; twice that is given.
BUILD_LIMIT = 1800.0

_POLL_SECONDS = 0.1


@contextlib.contextmanager
def locked(path: Path, what: str, progress: Progress, limit: float = BUILD_LIMIT) -> Iterator[None]:
    """Hold the lock file *path* during the block. *what* says what is being done under it."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, path, what, progress, limit)
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        # The file stays: unlinking a lock file lets two processes hold "the" lock at once.
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, what: str, progress: Progress, limit: float) -> None:
    deadline = time.monotonic() + limit
    waiting = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = _holder(descriptor)
        if not waiting:
            progress(f"waiting for another osvtriage ({holder}) that is {what}")
            waiting = True
        if time.monotonic() > deadline:
            raise LimitExceeded(
                f"waited {limit:.0f} s for another osvtriage ({holder}) that is {what}",
                hint=f"see what that process does; the lock is {path}",
            )
        time.sleep(_POLL_SECONDS)


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 32, 0).strip()
    return f"process {int(text)}" if text.isdigit() else "process unknown"
