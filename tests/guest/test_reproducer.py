"""reproduce.sh shows the bug with plain QEMU and plain gdb, and only with the files of the run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from harness import LIMIT, Command, Places

Start = Callable[..., Command]

FPSCR = "82064000"
STOP = re.compile(rf"^watched (entry|exit): vs0=([0-9a-f]{{32}}) fpscr={FPSCR} msr=", re.MULTILINE)


def test_the_script_of_a_run_reproduces_it(command: Start, places: Places, trimmed: Path) -> None:
    result = command("run", trimmed, "--variant", "reverted").wait()
    assert (result.status, result.record["verdict"]) == (1, "reproduced"), result.err
    assert result.directory is not None
    script = result.directory / "reproduce.sh"

    done = reproduce(script, places)
    assert done.returncode == 0, done.stderr
    stops = STOP.findall(done.stdout)
    pairs = [
        (before, after)
        for (side, before), (other, after) in pairwise(stops)
        if (side, other) == ("entry", "exit")
    ]
    found = result.record["findings"][0]
    assert (found["expected"]["vs0"], found["seen"]["vs0"]) in pairs, done.stdout
    assert all(after == f"{FPSCR:>016}{0:016}" for _, after in pairs), done.stdout
    assert "osvtriage: end corrupt=" in done.stdout
    places.assert_clean()

    kernel = Path(result.record["image"]["kernel"])
    whole = kernel.read_bytes()
    kernel.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    changed = reproduce(script, places)
    kernel.write_bytes(whole)
    assert changed.returncode == 1
    assert f"{kernel} is not the file of this run" in changed.stderr
    assert changed.stdout == ""
    places.assert_clean()


def reproduce(script: Path, places: Places) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=places.environment,
        timeout=LIMIT,
        check=False,
    )
