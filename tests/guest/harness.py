"""osvtriage as its users start it, in places of its own, with every process of it known."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from osvtriage.guest import supervisor

OSVTRIAGE = [str(Path(sys.executable).with_name("osvtriage"))]
IMAGE = "debian-bookworm-ppc64le"
SPECIMENS = Path(__file__).parents[1] / "specimens"

# A guest boots in 8 s on two idle cores; a busy machine may need ten times that.
LIMIT = 150.0
# SIGKILL to the supervisor's end of all it started takes 0.2 s.
END_LIMIT = 20.0

_RECIPE = """\
schema = "osvtriage.recipe/1"
name = "trimmed"
title = "the first road of ppc64le-save-fpu"
system = "linux"
arch = "ppc64le"
image = "{image}"
[workload]
payload = "{payload}"
arguments = [{arguments}]
limit = {limit}
[[probe]]
name = "watched"
call = {{ to = "{function}", not_in = ["__giveup_fpu"] }}
registers = ["vs0", "fpscr", "msr"]
fields = ["thread.regs.msr"]
required = 1
limit = 6
[[check]]
kind = "fp-clobber"
probe = "watched"
register = "vs0"
status = "fpscr"
live = "FP"
[[patch]]
name = "fp-reload"
functions = ["save_fpu"]
find = ["mffs f0", "stfd f0, 0x200\\\\(r\\\\d+\\\\)", "b 0x[0-9a-f]+"]
replace = {{ index = 2, word = "4e800020", instruction = "blr" }}
[[variant]]
name = "as-is"
title = "the kernel as it is"
expect = "clean"
[[variant]]
name = "reverted"
title = "save_fpu as it was before the fix"
expect = "reproduced"
patch = ["fp-reload"]
"""


def write_recipe(
    path: Path,
    payload: str = "fpstate",
    function: str = "save_fpu",
    limit: float = 120,
) -> Path:
    """A recipe that is over soon: one road, one process, one probe at the calls of *function*.

    *payload* is the shipped one, or a specimen, which is then copied beside the recipe.
    """
    if payload.endswith(".c"):
        shutil.copyfile(SPECIMENS / payload, path.parent / payload)
    arguments = (
        ["--roads", "clone", "--rounds", "1", "--tasks", "0"] if payload == "fpstate" else []
    )
    path.write_text(
        _RECIPE.format(
            image=IMAGE,
            payload=payload,
            arguments=", ".join(map(json.dumps, arguments)),
            function=function,
            limit=limit,
        )
    )
    return path


def until(condition: Callable[[], Any], what: str, limit: float = END_LIMIT) -> Any:
    """What *condition* gives once it gives something."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {limit:g} s"
        time.sleep(0.02)
    return value


@dataclass(frozen=True)
class Places:
    """The directories of one test's osvtriage. ``runtime`` is short, for the sockets in it."""

    cache: Path
    runs: Path
    runtime: Path

    @property
    def soaks(self) -> Path:
        """Where soaks go."""
        return self.runs.parent / "soaks"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "OSVTRIAGE_CACHE": str(self.cache),
            "OSVTRIAGE_DATA": str(self.runs.parent / "data"),
            "OSVTRIAGE_RUNS": str(self.runs),
            "OSVTRIAGE_SOAKS": str(self.soaks),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "TERM": "xterm",
        }

    def processes(self) -> dict[int, str]:
        """Every living process that was started in these places, with its name."""
        mark = f"XDG_RUNTIME_DIR={self.runtime}".encode()
        found = {}
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdigit() and mark in (process / "environ").read_bytes().split(
                    b"\0"
                ):
                    name, _, rest = (process / "stat").read_text().rpartition(")")
                    if not rest.startswith(" Z"):
                        found[int(process.name)] = name.partition("(")[2]
            except OSError:
                continue
        return found

    def process(self, name: str) -> int:
        """The process whose name begins so; one that has just been started may not have it yet."""

        def named() -> list[int]:
            return [pid for pid, its in self.processes().items() if its.startswith(name)]

        (pid,) = until(named, f"a process {name}")
        return int(pid)

    def supervisor(self) -> int:
        """The parent of the guest's QEMU."""
        stat = Path(f"/proc/{self.process('qemu')}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[1])

    def worker(self) -> int:
        """The process of a soak's worker that has a guest, which is its grandchild; 0 where none
        has."""
        found = self.processes()
        for pid, name in found.items():
            # One that is asked for its version has none, and an orphan's is no child of these.
            if name.startswith("qemu") and _is_supervisor(above := _parent(pid)):
                worker = _parent(above)
                if worker in found:
                    return worker
        return 0

    def sockets(self) -> list[Path]:
        """What is in the runtime directory."""
        return list(self.runtime.glob("osvtriage/*"))

    def parts(self) -> list[Path]:
        """What is not whole yet, or never will be."""
        return [
            path
            for directory in (
                *(self.runs, self.cache, self.cache / "images"),
                *(self.soaks, *self.soaks.glob("*/records")),
            )
            for path in (*directory.glob(".part-*"), *directory.glob("*/.part-*"))
        ]

    def assert_gone(self) -> None:
        """No process is left, and within a moment."""
        until(lambda: not self.processes(), f"the end of {self.processes()}")

    def assert_clean(self) -> None:
        """No process is left, nor anything in the directories but whole results."""
        self.assert_gone()
        assert self.sockets() == []
        assert self.parts() == []

    def kill_all(self) -> list[str]:
        """End whatever is left; for a test's end."""
        left = self.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return list(left.values())


def _parent(pid: int) -> int:
    """The parent of a process; 0 where it has gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _is_supervisor(pid: int) -> bool:
    with suppress(OSError):
        return supervisor.__file__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@dataclass
class Result:
    """How a command ended. ``record`` is its run.json, where it wrote one."""

    status: int
    out: str
    err: str
    record: dict[str, Any] = field(default_factory=dict)
    directory: Path | None = None

    @property
    def reason(self) -> str:
        return str(self.record["reason"])


class Command:
    """osvtriage at work, in a session of its own as a shell's job has it."""

    def __init__(self, places: Places, scratch: Path, *arguments: str | Path, **more: Any) -> None:
        self.places = places
        self._out, self._err = scratch / "stdout", scratch / "stderr"
        self._before = set(places.runs.glob("*"))
        environment = {**places.environment, **more.pop("env", {})}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*more.pop("program", OSVTRIAGE), *map(str, arguments)],
                stdin=more.pop("stdin", subprocess.DEVNULL),
                stdout=more.pop("stdout", out),
                stderr=err,
                env=environment,
                start_new_session=True,
                **more,
            )

    def until_phase(self, words: str) -> None:
        """Wait for a line of progress that has the *words*."""
        self._until(lambda: words in self._err.read_text(errors="replace"), words)

    def until_printed(self, text: str) -> None:
        """Wait until the guest has printed *text*."""
        logs, wanted = self.places.runs, text.encode()
        self._until(
            lambda: any(wanted in log.read_bytes() for log in logs.glob(".part-*/console.log")),
            f"{text!r} on the guest's console",
        )

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        def met() -> bool:
            ended = self.process.poll() is not None
            return condition() or (ended and pytest.fail(self._err.read_text(errors="replace")))

        until(met, what, LIMIT)

    def until_hanging(self) -> None:
        """Wait until the payload `hang` runs, and so with the probes armed."""
        self.until_printed("payload=hang")

    def signal(self, number: int) -> None:
        """Send a signal to osvtriage alone."""
        self.process.send_signal(number)

    def ctrl_c(self) -> None:
        """As a terminal does: to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, limit: float = LIMIT) -> Result:
        """The result, once it has ended by itself."""
        status = self.process.wait(limit)
        result = Result(
            status, self._out.read_text(errors="replace"), self._err.read_text(errors="replace")
        )
        for path in set(self.places.runs.glob("*")) - self._before:
            if (path / "run.json").is_file():
                result.directory = path
                result.record = json.loads((path / "run.json").read_bytes())
        return result


def share_images(cache: Path, into: Path) -> None:
    """Give the cache *into* the images of *cache*, which are not written to."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(
        cache / "images" / IMAGE, into / "images" / IMAGE, symlinks=True, copy_function=link
    )
