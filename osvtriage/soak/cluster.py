"""The executor on a Dask cluster. What runs on its workers is in :mod:`osvtriage.soak.remote`.

Dask runs a trial again whose worker is lost, as often as its scheduler's ``allowed-failures`` says
(3 unless configured otherwise), and gives it up then: such a trial is set aside.
"""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import distributed
import zstandard
from distributed.comm import get_address_host_port

from osvtriage.images.atomic import new_directory
from osvtriage.model.errors import OsvtriageError
from osvtriage.soak import parcel, remote
from osvtriage.soak.plan import PlannedTrial
from osvtriage.soak.worker import Finished, Job, set_aside

_CONNECT_LIMIT = 20.0
# Through the scheduler, which holds a piece in memory.
_PIECE = 8 << 20
# A piece is there in a fraction of a second; a slow network has as many looks as make ten minutes.
_SEND_LOOK, _SEND_LOOKS = 2.0, 300


class Cluster:
    """The workers of the scheduler at *address*, one trial each; records go into *records*."""

    def __init__(self, address: str, job: Job, records: Path, jobs: int | None) -> None:
        self._client = _connect(address)
        self._address = address
        self._parcel = parcel.pack(job)
        self._records = records
        self._jobs = jobs
        self._running: dict[distributed.Future, tuple[PlannedTrial, float]] = {}
        self._done: queue.SimpleQueue[distributed.Future] = queue.SimpleQueue()

    @property
    def places(self) -> int:
        """One for each worker that there is now, at least one."""
        workers = len(self._client.nthreads())
        return max(1, workers if self._jobs is None else min(workers, self._jobs))

    def submit(self, trial: PlannedTrial) -> None:
        """Give *trial* to the cluster."""
        future = self._client.submit(
            remote.perform,
            self._parcel,
            trial,
            key=f"osvtriage-{self._parcel.name[:16]}-{trial.number}-{time.monotonic_ns()}",
            pure=False,
        )
        self._running[future] = trial, time.monotonic()
        future.add_done_callback(self._done.put)

    def wait(self, seconds: float) -> list[Finished]:
        """What has ended, once something has, after *seconds* at most.

        Raises:
            OsvtriageError: the scheduler is gone, or a worker says that no trial can be run.
        """
        try:
            done = [self._done.get(timeout=seconds)]
        except queue.Empty:
            if self._client.status != "running":
                raise self._lost() from None
            return []
        while not self._done.empty():
            done.append(self._done.get())
        return [finished for future in done for finished in self._ended(future)]

    def _ended(self, future: distributed.Future) -> list[Finished]:
        trial, begun = self._running.pop(future)
        if future.status in ("cancelled", "lost"):
            if self._client.status != "running":
                raise self._lost()
            # The scheduler forgot it, as when it is restarted.
            self.submit(trial)
            return []
        try:
            said = future.result()
        except distributed.KilledWorker as error:
            how = f"was {error.last_worker.address}" if error.last_worker else "is unknown"
            return [set_aside(trial, "all", how, time.monotonic() - begun)]
        if isinstance(said, remote.Missing):
            for path in said.paths:
                self._send(path, said.worker)
            self.submit(trial)
            return []
        assert isinstance(said, Finished)
        self._unpack(said)
        return [said]

    def _send(self, path: str, worker: str) -> None:
        """Give *worker* the file *path*, piece by piece; where it is gone, others will ask."""
        sum_, offset = self._parcel.sums[path], 0
        with Path(path).open("rb") as file:
            while piece := file.read(_PIECE):
                if not self._done_by(worker, remote.receive, path, sum_, offset, piece):
                    return
                offset += len(piece)
        self._done_by(worker, remote.keep, path, sum_)

    def _done_by(self, worker: str, function: Callable[..., None], *arguments: Any) -> bool:
        try:
            return done_by(self._client, worker, function, *arguments)
        except CancelledError:
            raise self._lost() from None

    def _unpack(self, finished: Finished) -> None:
        """Write the run record where a local worker would have."""
        if finished.files is None:
            return
        with new_directory(self._records / f"{finished.outcome.number:06d}") as directory:
            for name, content in finished.files.items():
                if Path(name).name != name or name in (".", ".."):
                    raise OsvtriageError(f"a worker names a file of a run record {name!r}")
                (directory / name).write_bytes(zstandard.decompress(content))

    def _lost(self) -> OsvtriageError:
        return OsvtriageError(
            f"the Dask scheduler at {self._address} is gone",
            "the trials that had ended are kept: go on with `osvtriage soak --resume`",
        )

    def close(self) -> None:
        """Give up the trials in flight, and have the workers end their guests."""
        for future in self._running:
            future.cancel()
        try:
            if self._client.status == "running":
                self._client.run(remote.release, self._parcel.name, on_error="ignore")
        finally:
            self._client.close(timeout=_CONNECT_LIMIT)


def done_by(
    client: distributed.Client, worker: str, function: Callable[..., None], *arguments: Any
) -> bool:
    """Have the *worker* at that address call *function*; whether it lived to do it.

    Raises:
        CancelledError: the scheduler is gone.
    """
    future = client.submit(function, *arguments, workers=[worker], pure=False)
    for _ in range(_SEND_LOOKS):
        try:
            future.result(timeout=_SEND_LOOK)
        except distributed.KilledWorker:
            return False
        except TimeoutError:
            # What is for one worker alone waits for it for ever, and it comes again elsewhere.
            if client.status == "running" and worker not in client.nthreads():
                break
        else:
            return True
    future.cancel()
    return False


def _connect(address: str) -> distributed.Client:
    """A client of the scheduler at *address*.

    Raises:
        OsvtriageError: nobody answers there.
    """
    try:
        # First of all, for a client that cannot connect tries for 40 s to take its leave.
        with socket.create_connection(get_address_host_port(address), _CONNECT_LIMIT):
            pass
        return distributed.Client(address, timeout=_CONNECT_LIMIT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OsvtriageError(
            f"there is no Dask scheduler at {address}: {error}",
            "start one with `dask scheduler`, and workers with `dask worker --nthreads 1`; its "
            "address is such as tcp://host:8786",
        ) from None
