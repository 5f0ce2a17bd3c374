"""Soaks on a Dask cluster: the same results, images by their content, and workers that are lost."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import osv_specimen
import pytest
from harness import Command, Places, until

pytest.importorskip("distributed")

Start = Callable[..., Command]
LIMIT = 600.0


# A scheduler and two workers, until standard input ends.
CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=sys.argv[1],
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def scheduler(places: Places, tmp_path: Path) -> Iterator[str]:
    """The address of a scheduler whose workers have a cache of their own, as on another machine."""
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    environment = {**places.environment, "OSVTRIAGE_CACHE": str(tmp_path / "worker-cache")}
    with subprocess.Popen(
        [sys.executable, script, tmp_path / "dask"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        yield cluster.stdout.readline().strip()
        cluster.stdin.close()
        cluster.wait(LIMIT)
    places.assert_gone()


@pytest.fixture
def soak(command: Start, scheduler: str, places: Places, tmp_path: Path) -> Callable[..., Command]:
    kernel = osv_specimen.build(tmp_path)
    added = ["images", "add", "specimen", "--system", "osv", "--kernel", kernel]
    assert command(*added, "--append", "--threads=1").wait().status == 0

    def start(*arguments: str) -> Command:
        where = ("--scheduler", scheduler, "--out", places.soaks / "it")
        return command("soak", "osv-syscall-fpu", "--image", "specimen", *where, *arguments)

    return start


def trials(command: Start, places: Places) -> list[dict[str, str]]:
    exported = command("soaks", "export", places.soaks / "it").wait()
    return list(csv.DictReader(io.StringIO(exported.out)))


def test_a_lost_worker_s_trials_are_run_again(
    soak: Callable[..., Command],
    command: Start,
    places: Places,
    tmp_path: Path,
) -> None:
    started = soak("--runs", "40", "--keep", "1M")
    os.kill(until(places.worker, "a trial on a worker", 45), signal.SIGKILL)
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


def test_a_worker_that_is_gone_is_not_waited_for(scheduler: str) -> None:
    from distributed import Client

    from osvtriage.soak.cluster import done_by

    with Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(2)
        one, other = client.nthreads()
        assert done_by(client, one, time.sleep, 0)
        pid = client.run(os.getpid, workers=[one])[one]
        # Its nanny starts another, at another address.
        os.kill(pid, signal.SIGKILL)
        assert not done_by(client, one, time.sleep, 0)
        assert done_by(client, other, time.sleep, 0)


def test_a_scheduler_that_is_not_there(command: Start) -> None:
    refused = command(
        "soak", "ppc64le-save-fpu", "--runs", "1", "--scheduler", "tcp://127.0.0.1:1"
    ).wait(LIMIT)
    assert refused.status == 128
    assert "there is no Dask scheduler" in refused.err
