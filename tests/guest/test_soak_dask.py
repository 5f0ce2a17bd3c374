"""Soaks on a Dask cluster: the same results, images by their content, and workers that are lost."""

from __future__ import annotations

import csv
import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import osv_specimen
import pytest
from harness import Command, Places, until

distributed = pytest.importorskip("distributed")

Start = Callable[..., Command]
LIMIT = 600.0


@pytest.fixture
def cluster(places: Places, tmp_path: Path) -> Iterator[distributed.LocalCluster]:
    """A scheduler and two workers with a cache of their own, as on another machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in places.environment.items():
            patch.setenv(name, value)
        patch.setenv("OSVTRIAGE_CACHE", str(tmp_path / "worker-cache"))
        with distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=str(tmp_path / "dask"),
        ) as made:
            yield made


@pytest.fixture
def soak(
    command: Start, cluster: distributed.LocalCluster, places: Places, tmp_path: Path
) -> Callable[..., Command]:
    kernel = osv_specimen.build(tmp_path)
    added = ["images", "add", "specimen", "--system", "osv", "--kernel", kernel]
    assert command(*added, "--append", "--threads=4").wait().status == 0

    def start(*arguments: str) -> Command:
        where = ("--scheduler", cluster.scheduler_address, "--out", places.soaks / "it")
        return command("soak", "osv-syscall-fpu", "--image", "specimen", *where, *arguments)

    return start


def trials(command: Start, places: Places) -> list[dict[str, str]]:
    exported = command("soaks", "export", places.soaks / "it").wait()
    return list(csv.DictReader(io.StringIO(exported.out)))


def guest_of_a_worker(places: Places, cluster: distributed.LocalCluster) -> int:
    """The process id of a Dask worker that runs a guest; 0 while none does."""
    for pid, name in places.processes().items():
        while name.startswith("qemu") and pid > 1:
            if pid in {worker.pid for worker in cluster.workers.values()}:
                return pid
            try:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                return 0
    return 0


def test_a_lost_worker_s_trials_are_run_again(
    soak: Callable[..., Command],
    command: Start,
    cluster: distributed.LocalCluster,
    places: Places,
    tmp_path: Path,
) -> None:
    started = soak("--runs", "40", "--keep", "1M")
    pid = until(lambda: guest_of_a_worker(places, cluster), "a trial on a worker", LIMIT)
    os.kill(pid, signal.SIGKILL)
    result = started.wait(LIMIT)
    assert result.status == 0, result.err
    rows = trials(command, places)
    assert [int(row["number"]) for row in rows] == list(range(1, 41))
    assert {row["verdict"] for row in rows} == {"reproduced"}
    kept = [row["record"] for row in rows if row["record"]]
    assert kept
    for record in kept:
        assert (places.soaks / "it" / record / "run.json").is_file()
        assert (places.soaks / "it" / record / "events.jsonl").stat().st_size
    # The kernel came to the workers' cache by its sum.
    sums = [path.name for path in (tmp_path / "worker-cache" / "by-sum").iterdir()]
    assert len(sums) == 1
    names = {name for name in places.processes().values() if name.startswith(("qemu", "gdb"))}
    assert names == set()
    assert places.sockets() == []


def test_a_scheduler_that_is_not_there(command: Start) -> None:
    refused = command(
        "soak", "ppc64le-save-fpu", "--runs", "1", "--scheduler", "tcp://127.0.0.1:1"
    ).wait(LIMIT)
    assert refused.status == 128
    assert "there is no Dask scheduler" in refused.err
