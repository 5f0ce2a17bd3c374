"""What osvtriage adds to the wall time of the same guest under bare QEMU.

Run by hand, on a machine with nothing else to do:

    .venv/bin/python benchmarks/overhead.py [--rounds 5] [--variant fp-fix-reverted] [--smp 1]

Both sides boot the same kernel with the same arguments, interleaved in one run; the table has
medians. "stops apart" is the wall time without the time in which the guest stood still at probes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from osvtriage.guest.qemu import machine_arguments
from osvtriage.images.store import ImageStore
from osvtriage.trial import library
from osvtriage.trial.prepare import prepare
from osvtriage.trial.request import Request, Silent

# A guest that has not ended by then never will: forty times what it takes.
LIMIT = 600.0


def bare(command: list[str]) -> float:
    """The wall time of QEMU alone."""
    begun = time.monotonic()
    subprocess.run(
        [*command, "-serial", "null"], check=True, timeout=LIMIT, stdin=subprocess.DEVNULL
    )
    return time.monotonic() - begun


def osvtriage(recipe: str, variant: str, smp: int) -> tuple[float, float, int]:
    """The wall time of the whole command, the time stopped, and the number of stops."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "record"
        command = [sys.executable, "-m", "osvtriage", "run", recipe, "--variant", variant]
        command += ["--smp", str(smp), "--out", str(out)]
        # As users have it: with Python's compiled files kept.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        begun = time.monotonic()
        subprocess.run(command, timeout=LIMIT, capture_output=True, check=False, env=environment)
        wall = time.monotonic() - begun
        record = json.loads((out / "run.json").read_bytes())
    return wall, record["timings"]["stopped"], record["stops"]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="ppc64le-save-fpu")
    parser.add_argument("--variant", default="fp-fix-reverted")
    parser.add_argument("--smp", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    recipe = library.load(chosen.recipe)
    variant = recipe.get_variant(chosen.variant)
    assert variant is not None
    image = ImageStore().ensure(recipe.image, print)
    request = Request(
        recipe=recipe,
        recipe_directory=library.find(chosen.recipe).parent,
        variant=variant,
        image=image,
        smp=chosen.smp,
    )
    prepared = prepare(request, Silent())
    command = machine_arguments(prepared.qemu, prepared.boot)
    alone: list[float] = []
    ours: list[tuple[float, float, int]] = []
    for number in range(chosen.rounds):
        alone.append(bare(command))
        ours.append(osvtriage(chosen.recipe, chosen.variant, chosen.smp))
        wall, stopped, stops = ours[-1]
        print(
            f"round {number + 1}: bare {alone[-1]:.2f} s, osvtriage {wall:.2f} s, "
            f"{stopped:.2f} s of it in {stops} stops",
            file=sys.stderr,
        )
    base = statistics.median(alone)
    wall = statistics.median(row[0] for row in ours)
    running = statistics.median(row[0] - row[1] for row in ours)
    stops = statistics.median(row[2] for row in ours)
    print(f"| {chosen.recipe}, {chosen.variant}, {chosen.smp} vCPU | wall | ratio to bare |")
    print("|---|---|---|")
    print(f"| bare QEMU | {base:.2f} s | 1.00 |")
    print(f"| osvtriage, stops apart | {running:.2f} s | {running / base:.2f} |")
    print(f"| osvtriage, {stops:.0f} stops included | {wall:.2f} s | {wall / base:.2f} |")
    print(f"\n{platform.machine()}, medians of {chosen.rounds} interleaved rounds")


if __name__ == "__main__":
    main()
