"""What runs on the workers of a Dask cluster: one trial at a time in each worker's process."""

from __future__ import annotations

import atexit
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import distributed
import zstandard

from osvtriage.soak import parcel
from osvtriage.soak.parcel import Parcel
from osvtriage.soak.plan import PlannedTrial
from osvtriage.soak.worker import Finished, Worker

# Seconds after which guests that are kept for more trials are ended: the soak may be gone.
_IDLE = 120.0

# Trials measure the processor time of their process, so there is one at a time; and what they keep
# is theirs alone.
_lock = threading.Lock()
_worker: tuple[str, Worker] | None = None
_timer: threading.Timer | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """Files that *worker* lacks, by their paths on the sender's machine."""

    worker: str
    paths: tuple[str, ...]


def perform(sent: Parcel, trial: PlannedTrial) -> Finished | Missing:
    """Run *trial*, or say what is missing for it.

    Raises:
        UsageError: no trial of that soak can be run here.
    """
    global _timer
    with _lock:
        if _timer is not None:
            _timer.cancel()
        if lacking := parcel.missing(sent):
            return Missing(distributed.get_worker().address, tuple(lacking))
        with tempfile.TemporaryDirectory(prefix="osvtriage-trial-") as scratch:
            record = Path(scratch) / "record"
            finished = _worker_for(sent).perform(trial, record)
            files = {path.name: zstandard.compress(path.read_bytes()) for path in record.iterdir()}
        _timer = threading.Timer(_IDLE, release, (sent.name,))
        _timer.daemon = True
        _timer.start()
        return replace(finished, files=files)


def _worker_for(sent: Parcel) -> Worker:
    global _worker
    if _worker is None or _worker[0] != sent.name:
        _end()
        _worker = sent.name, Worker(parcel.unpack(sent))
    return _worker[1]


def _end() -> None:
    global _worker
    worker, _worker = _worker, None
    if worker is not None:
        worker[1].close()


def release(name: str) -> None:
    """End what is kept for the parcel *name*, unless a trial of it runs."""
    if _lock.acquire(blocking=False):
        try:
            if _worker is not None and _worker[0] == name:
                _end()
        finally:
            _lock.release()


def receive(path: str, sum_: str, offset: int, piece: bytes) -> None:
    """Take a piece of the file *path* in."""
    with _part(sum_).open("r+b" if offset else "wb") as file:
        file.seek(offset)
        file.write(piece)


def keep(path: str, sum_: str) -> None:
    """Keep the file *path*, all of whose pieces have come."""
    part = _part(sum_)

    def pieces() -> Iterator[bytes]:
        with part.open("rb") as file:
            yield from iter(lambda: file.read(1 << 20), b"")

    try:
        parcel.receive(path, sum_, pieces)
    finally:
        part.unlink(missing_ok=True)


def _part(sum_: str) -> Path:
    """Where the pieces of a file are collected: a directory that ends with the worker."""
    return Path(distributed.get_worker().local_directory) / f"osvtriage-{sum_}"


atexit.register(_end)
