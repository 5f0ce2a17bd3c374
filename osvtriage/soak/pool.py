"""The local executor: worker processes, each with one trial at a time.

A worker ends when the soak does, however that ends, and its supervisor then ends its QEMU and gdb.
A worker that dies has its trial run again by another; a trial of which several died is set aside.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from osvtriage.images import atomic
from osvtriage.model.errors import OsvtriageError
from osvtriage.soak.plan import PlannedTrial
from osvtriage.soak.worker import Finished, Job, Worker, set_aside

MOST_ATTEMPTS = 3
# A worker that is told to end frees a guest of 1 GiB in 0.2 s; then it is killed.
_END_LIMIT = 20.0


@dataclass(slots=True)
class _Place:
    """A worker process and what it is doing."""

    process: SpawnProcess
    connection: Connection[Any, Any]
    trial: PlannedTrial | None = None
    begun: float = 0.0


class Pool:
    """Workers on this machine; their run records go into *records* directly."""

    def __init__(self, job: Job, records: Path, jobs: int) -> None:
        self.places: int = jobs
        self._job = job
        self._records = records
        # Not fork: that copies the threads' locks, and the soak's database.
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Place] = []
        self._waiting: deque[PlannedTrial] = deque()
        self._attempts: Counter[int] = Counter()

    def submit(self, trial: PlannedTrial) -> None:
        """Run *trial* as soon as a worker is free."""
        self._waiting.append(trial)
        self._assign()

    def wait(self, seconds: float) -> list[Finished]:
        """What has ended, once something has, after *seconds* at most.

        Raises:
            OsvtriageError: a worker says that no trial can be run.
        """
        busy = [place for place in self._workers if place.trial is not None]
        ready = wait([place.connection for place in busy], seconds)
        finished = []
        for place in busy:
            if place.connection in ready:
                finished += self._heard(place)
        self._assign()
        return finished

    def close(self) -> None:
        """End all workers, with the trials that they have."""
        for place in self._workers:
            if place.trial is None:
                with contextlib.suppress(OSError):
                    place.connection.send(None)
            else:
                place.process.kill()
        deadline = time.monotonic() + _END_LIMIT
        for place in self._workers:
            place.process.join(max(0.0, deadline - time.monotonic()))
            self._discard(place)
        self._workers.clear()
        atomic.sweep(self._records)

    def _assign(self) -> None:
        while self._waiting:
            free = next((place for place in self._workers if place.trial is None), None)
            if free is None:
                if len(self._workers) == self.places:
                    return
                free = self._hire()
            free.trial, free.begun = self._waiting.popleft(), time.monotonic()
            # A worker that has died meanwhile is found when it is listened to.
            with contextlib.suppress(OSError):
                free.connection.send(free.trial)

    def _hire(self) -> _Place:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, self._job, self._records), name="osvtriage-worker"
        )
        process.start()
        theirs.close()
        place = _Place(process, ours)
        self._workers.append(place)
        return place

    def _heard(self, place: _Place) -> list[Finished]:
        assert place.trial is not None
        try:
            said = place.connection.recv()
        except (EOFError, OSError):
            return self._lost(place)
        place.trial = None
        if isinstance(said, OsvtriageError):
            raise said
        assert isinstance(said, Finished)
        return [said]

    def _lost(self, place: _Place) -> list[Finished]:
        """A worker died with its trial."""
        trial, seconds = place.trial, time.monotonic() - place.begun
        assert trial is not None
        place.process.join(_END_LIMIT)
        how = _how(place.process.exitcode)
        self._workers.remove(place)
        self._discard(place)
        # What it had half-written of a record.
        atomic.sweep(self._records)
        self._attempts[trial.number] += 1
        attempts = self._attempts[trial.number]
        if attempts < MOST_ATTEMPTS:
            self._waiting.appendleft(trial)
            return []
        return [set_aside(trial, attempts, how, seconds)]

    def _discard(self, place: _Place) -> None:
        if place.process.is_alive():
            place.process.kill()
            place.process.join()
        place.connection.close()
        place.process.close()


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        return f"was ended by signal {-status} ({signal.strsignal(-status)})"
    return f"ended with status {status}"


def _work(connection: Connection[Any, Any], job: Job, records: Path) -> None:
    """A worker process: trials come through *connection*, what they gave goes back."""
    # Ctrl-C is for the soak, which says what becomes of the trials in flight.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
        worker = Worker(job)
        try:
            while (trial := connection.recv()) is not None:
                finished = worker.perform(trial, records / f"{trial.number:06d}")
                connection.send(finished)
        finally:
            worker.close()
    except (EOFError, BrokenPipeError):
        return
    except OsvtriageError as error:
        connection.send(error)


def _end_with_parent() -> None:
    """End at once when the soak has ended, killed or not; the supervisors do the rest."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
