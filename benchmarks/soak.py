"""What soaks cost, and what starting from a snapshot saves.

Run by hand, on a machine with nothing else to do:

    .venv/bin/python benchmarks/soak.py starts [--rounds 3] [--trials 10]
    .venv/bin/python benchmarks/soak.py jobs [--rounds 3] [--trials 10]
    .venv/bin/python benchmarks/soak.py memory --recipe RECIPE --image IMAGE [--trials 1000]

`starts` compares cold boots with snapshots, `jobs` one worker with two: each side is a soak of its
own, interleaved, and the table has medians. `memory` watches one soak. Time outside the workload
is that of a whole trial, from the worker's order to the finished record, without the record's
`workload`; the boots that snapshots need are in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from osvtriage.model.errors import OsvtriageError
from osvtriage.soak.store import Store

# A trial of ppc64le-save-fpu takes 10 s; a busy machine takes ten times that.
LIMIT_A_TRIAL = 100.0


@dataclass(frozen=True)
class Measured:
    """One soak: seconds of its trials, inside and outside the workload, and trials an hour.

    ``steady`` is outside the workload too, of those trials alone for which no guest was booted.
    """

    workload: float
    outside: float
    steady: float
    per_hour: float


def soak(recipe: str, variant: str, start: str, jobs: int, trials: int) -> Measured:
    """Soak, and read what its records say."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "soak"
        command = [sys.executable, "-m", "osvtriage", "soak", recipe, "--variant", variant]
        command += ["--start", start, "--jobs", str(jobs), "--runs", str(trials), "--smp", "1"]
        command += ["--keep", "1G", "--json", "--out", str(out)]
        begun = time.monotonic()
        subprocess.run(command, check=True, timeout=LIMIT_A_TRIAL * trials, capture_output=True)
        wall = time.monotonic() - begun
        store = Store.read(out)
        inside, outside, steady = [], [], []
        for outcome in store.outcomes():
            assert outcome.record is not None
            record = json.loads((out / outcome.record / "run.json").read_bytes())
            timings = record["timings"]
            inside.append(timings["workload"])
            outside.append(outcome.seconds - timings["workload"])
            # What boots does so for longer than it takes to load a snapshot, by far.
            if start == "boot" or timings["boot"] < timings["workload"]:
                steady.append(outside[-1])
        store.close()
    return Measured(
        statistics.mean(inside),
        statistics.mean(outside),
        statistics.median(steady),
        3600 * trials / wall,
    )


def compare(chosen: argparse.Namespace, sides: dict[str, tuple[str, int]]) -> None:
    """Soak each side in turn, and print medians. The last column is against the first side."""
    found: dict[str, list[Measured]] = {name: [] for name in sides}
    for number in range(chosen.rounds):
        for name, (start, jobs) in sides.items():
            one = soak(chosen.recipe, chosen.variant, start, jobs, chosen.trials)
            found[name].append(one)
            print(f"round {number + 1}, {name}: {one}", file=sys.stderr, flush=True)
    head = f"{chosen.recipe}, {chosen.variant} | workload | outside it | of those that did not boot"
    print(f"| {head} | trials an hour | ratio |")
    print("|---|---|---|---|---|---|")
    base = 0.0
    for name, rows in found.items():
        middle = [
            statistics.median(getattr(row, part) for row in rows)
            for part in ("workload", "outside", "steady", "per_hour")
        ]
        base = base or middle[3]
        workload, outside, steady, per_hour = middle
        print(
            f"| {name} | {workload:.2f} s | {outside:.2f} s | {steady:.2f} s "
            f"| {per_hour:.0f} | {per_hour / base:.2f} |"
        )
    print(f"\nmedians of {chosen.rounds} interleaved rounds of {chosen.trials} trials")


def memory(chosen: argparse.Namespace) -> None:
    """Soak once, and print what the soaking process and its workers hold as trials end."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "soak"
        command = [sys.executable, "-m", "osvtriage", "soak", chosen.recipe, "--jobs", "2"]
        command += ["--variant", chosen.variant, "--runs", str(chosen.trials), "--out", str(out)]
        command += ["--image", chosen.image] if chosen.image else []
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shown, step = 0, max(1, chosen.trials // 20)
        print("| trials | soak | workers |")
        print("|---|---|---|")
        while process.poll() is None:
            time.sleep(0.2)
            if (done := _finished(out)) >= shown + step:
                shown = done
                workers = [_resident(pid) for pid in _children(process.pid)]
                print(
                    f"| {done} | {_resident(process.pid):.1f} MiB "
                    f"| {', '.join(f'{size:.1f}' for size in workers if size > 40)} MiB |",
                    flush=True,
                )
        print(f"\nit ended with status {process.returncode} after {_finished(out)} trials")


def _finished(out: Path) -> int:
    try:
        store = Store.read(out)
    except OsvtriageError:
        return 0
    try:
        return sum(1 for _ in store.verdicts())
    finally:
        store.close()


def _resident(pid: int) -> float:
    """VmRSS of a process, in MiB."""
    try:
        text = Path(f"/proc/{pid}/statm").read_text()
    except OSError:
        return 0.0
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["starts", "jobs", "memory"])
    parser.add_argument("--recipe", default="ppc64le-save-fpu")
    parser.add_argument("--variant", default="as-is")
    parser.add_argument("--image")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=10)
    chosen = parser.parse_args()
    if chosen.what == "memory":
        memory(chosen)
    elif chosen.what == "starts":
        compare(chosen, {"boot": ("boot", 1), "snapshot": ("snapshot", 1)})
    else:
        compare(chosen, {"1 job": ("snapshot", 1), "2 jobs": ("snapshot", 2)})


if __name__ == "__main__":
    main()
