"""Checked hits a second, and what they cost the guest, for ways to watch a hot kernel function.

Run by hand, on a machine with nothing else to do:

    .venv/bin/python benchmarks/engines.py [--rounds 12] [--exchanges 60000] [--few 40]
    .venv/bin/python benchmarks/engines.py --trials 5 [RECIPE[@IMAGE] …]

The same guest (ppc64le, one vCPU, two processes that hand a byte to and fro: switch.c), the same
QEMU, the same place: every call of save_fpu() and where it returns, with f0 to f31 taken at both
sides, each a hit. Measured is the workload, from the word that lets it begin to its last line. Bare
QEMU and the plugin are interleaved, and go by QEMU's processor time, in which other work on the
machine does not count; ways that stop the guest, a hundred times slower and waiting most of the
time, get fewer exchanges and go by the clock.

With --trials whole runs of recipes are timed, on both engines in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pygdbmi.gdbcontroller import GdbController

from osvtriage.arch import PPC64LE
from osvtriage.consoles import payload as lines
from osvtriage.guest.programs import find_gdb, find_plugin_qemu
from osvtriage.guest.qemu import Boot, machine_arguments
from osvtriage.images import payload, store
from osvtriage.images.store import ImageStore
from osvtriage.model.plan import GdbPlan, ProbePlan, ThreadPlan
from osvtriage.plugin import build
from osvtriage.plugin.shared import Counter, Shared
from osvtriage.plugin.table import Capture, Kind, PluginProbe, Site, Table, When
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.layouts import LAYOUTS

IMAGE = "debian-bookworm-ppc64le"
RECIPES = ("ppc64le-save-fpu", "glibc-reclaim-stacks")
# A guest that has not ended by then never will.
LIMIT = 900.0
REGISTERS = [f"f{number}" for number in range(32)]

# What gdb's Python makes of it: a breakpoint that reads the registers and lets the guest go on.
_PYTHON = """\
import gdb
class Probe(gdb.Breakpoint):
    def stop(self):
        frame = gdb.selected_frame()
        self.seen = [str(frame.read_register(name)) for name in {registers!r}]
        return False
for address in {addresses!r}:
    Probe("*%d" % address, internal=True)
"""
_OURS = """\
import sys
sys.path.insert(0, {package!r})
from osvtriage.gdb.inside import probes
probes.arm({plan!r})
"""


@dataclass(frozen=True)
class Guest:
    """A guest that can be started again and again, and the two sides of every call in it."""

    command: list[str]
    exchanges: int
    entries: list[int]
    exits: list[int]
    thread: ThreadPlan


@dataclass(frozen=True)
class Result:
    """What the workload took, by the clock and of QEMU's processor time, and passages where they
    were counted."""

    seconds: float
    processor: float
    passages: int | None = None
    note: str = ""


def guest(exchanges: int) -> Guest:
    """The guest with so many exchanges."""
    image = ImageStore().ensure(IMAGE, print)
    program = payload.compile_payload(Path(__file__).with_name("switch.c"), PPC64LE, print)
    qemu = find_plugin_qemu(PPC64LE)
    if qemu.path is None:
        sys.exit(f"{qemu.obstacle}\nosvtriage doctor --fetch-qemu gets one")
    wait = f"{lines.WAIT} console=hvc0 {image.append}"
    boot = Boot(
        arch=PPC64LE,
        kernel=image.kernel,
        initrd=store.initrd(image, program),
        append=f"{wait} panic=-1 -- payload: --exchanges {exchanges}",
        memory=image.memory,
        smp=1,
        accelerator="tcg",
        cpu=PPC64LE.cpu,
    )
    with ElfImage(image.kernel, PPC64LE) as elf:
        targets = {at for one in elf.functions("save_fpu") for at in (one.address, one.entry)}
        calls = elf.calls(frozenset(targets))
        thread = LAYOUTS["linux"](elf).thread
    entries = sorted(site for sites in calls.values() for site in sites)
    exits = [site + 4 for site in entries]
    return Guest(machine_arguments(qemu.path, boot), exchanges, entries, exits, thread)


class Running:
    """A guest that has booted and waits for a word, for as long as the block lasts."""

    def __init__(self, chosen: Guest, more: list[str], directory: Path) -> None:
        self.stub = directory / "gdb"
        self.stub.unlink(missing_ok=True)
        self._command = [*chosen.command, *more, "-serial", "stdio", "-gdb", "chardev:gdb"]
        self._command += ["-chardev", f"socket,id=gdb,path={self.stub},server=on,wait=off"]

    def __enter__(self) -> Running:
        pipe = subprocess.PIPE
        self._qemu = subprocess.Popen(self._command, stdin=pipe, stdout=pipe)
        # Ended also where nothing is printed any more.
        self._timer = threading.Timer(LIMIT, self._qemu.kill)
        self._timer.start()
        self._until(lines.READY)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        try:
            self._qemu.wait(10)
        except subprocess.TimeoutExpired:
            self._qemu.kill()
            self._qemu.wait()

    def workload(self) -> Result:
        """Let it run, to its last line."""
        assert self._qemu.stdin is not None
        begun, used = time.monotonic(), self._processor()
        self._qemu.stdin.write(b"go\n")
        self._qemu.stdin.flush()
        self._until("end ")
        return Result(time.monotonic() - begun, self._processor() - used)

    def _until(self, event: str) -> None:
        assert self._qemu.stdout is not None
        for line in self._qemu.stdout:
            if line.strip().startswith(f"osvtriage: {event}".encode()):
                return
        sys.exit(f"the guest ended before it said {event!r}")

    def _processor(self) -> float:
        """Seconds of processor time that QEMU has used; proc(5), utime and stime."""
        stat = Path(f"/proc/{self._qemu.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def bare(chosen: Guest, directory: Path) -> Result:
    """QEMU alone."""
    with Running(chosen, [], directory) as running:
        return running.workload()


def plugin(chosen: Guest, directory: Path) -> Result:
    """The plugin: every passage is compared, none differs, so that none is sent."""
    taken = When.ENTRY | When.EXIT
    captures = [Capture(Kind.REGISTER, taken | When.KEY, len(REGISTERS), 16)]
    captures += [
        Capture(Kind.REGISTER, taken | When.COMPARED, place, 16) for place in range(len(REGISTERS))
    ]
    probe = PluginProbe(
        tuple(map(Site, chosen.entries)), tuple(map(Site, chosen.exits)), tuple(captures), True
    )
    file = Shared(directory / "shared")
    file.arm(Table([*REGISTERS, "r1"], [probe]))
    with Running(chosen, build.argument(build.plugin(), file.path), directory) as running:
        before = file.counters(0)
        result = running.workload()
        after = file.counters(0)
    done = [last - first for first, last in zip(before, after, strict=True)]
    lost = done[Counter.DROPPED] + done[Counter.LOST] + done[Counter.UNSENT]
    file.close()
    (directory / "shared").unlink()
    note = f"{lost} dropped, {done[Counter.DIFFERING]} differed"
    return Result(result.seconds, result.processor, done[Counter.PASSAGES], note)


def gdb_python(chosen: Guest, directory: Path) -> Result:
    """gdb's own Python breakpoint."""
    addresses = [*chosen.entries, *chosen.exits]
    return _in_gdb(chosen, directory, _PYTHON.format(registers=REGISTERS, addresses=addresses))


def gdb_engine(chosen: Guest, directory: Path) -> Result:
    """osvtriage's engine: the same, with the task, the backtrace, and a line for each hit."""
    probe = ProbePlan(
        name="save_fpu",
        symbol="save_fpu",
        entries=tuple(chosen.entries),
        exits=tuple(chosen.exits),
        at_function_entry=False,
        registers=tuple(f"vs{number}" for number in range(32)),
        fields={},
        limit=1 << 40,
        required=0,
        callee=chosen.entries[0],
    )
    plan = directory / "plan.json"
    plan.write_text(GdbPlan("ppc64le", chosen.thread, (probe,)).to_json())
    package = str(Path(build.__file__).parents[2])
    return _in_gdb(chosen, directory, _OURS.format(package=package, plan=str(plan)))


def _in_gdb(chosen: Guest, directory: Path, text: str) -> Result:
    script = directory / "probe.py"
    script.write_text(text + '\nprint("armed", flush=True)\n')
    with Running(chosen, [], directory) as running:
        command = [str(find_gdb(PPC64LE)), "-nx", "-batch"]
        for line in (*PPC64LE.gdb_setup, f"target remote {running.stub}", f"source {script}"):
            command += ["-ex", line]
        gdb = subprocess.Popen(
            [*command, "-ex", "continue"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert gdb.stdout is not None
        for said in gdb.stdout:
            if said.strip() == b"armed":
                break
        # What it prints has to go somewhere.
        reader = threading.Thread(target=gdb.stdout.read, daemon=True)
        reader.start()
        result = running.workload()
    gdb.wait(30)
    return result


def pygdbmi(chosen: Guest, directory: Path) -> Result:
    """pygdbmi's controller with its defaults, a command after the other."""
    with Running(chosen, [], directory) as running:
        gdb = GdbController([str(find_gdb(PPC64LE)), "-nx", "--interpreter=mi3"])
        for line in (*PPC64LE.gdb_setup, f"target remote {running.stub}"):
            gdb.write(line)
        numbers = " ".join(str(number) for number in range(71, 103))
        for address in (*chosen.entries, *chosen.exits):
            gdb.write(f"-break-insert *{address:#x}")
        result: list[Result] = []
        waiting = threading.Thread(target=lambda: result.append(running.workload()))
        waiting.start()
        while waiting.is_alive():
            answers = gdb.write("-exec-continue", raise_error_on_timeout=False)
            while waiting.is_alive() and not any(one["message"] == "stopped" for one in answers):
                answers = gdb.get_gdb_response(raise_error_on_timeout=False)
            if waiting.is_alive():
                gdb.write(f"-data-list-register-values x {numbers}", raise_error_on_timeout=False)
        gdb.exit()
    return result[0]


def compare_ways(rounds: int, exchanges: int, few: int, fewest: int) -> None:
    """Print the table of all ways to watch."""
    many = guest(exchanges)
    with tempfile.TemporaryDirectory(prefix="osvtriage-engines-") as name:
        directory = Path(name)
        alone, ours = [], []
        for number in range(rounds):
            alone.append(bare(many, directory))
            ours.append(plugin(many, directory))
            _say(f"round {number + 1}: bare {alone[-1]}, plugin {ours[-1]}")
        # By pairs, for a pair of runs shares what a busy host does to both.
        ratio = statistics.median(
            own.processor / other.processor for own, other in zip(ours, alone, strict=True)
        )
        mine = statistics.median(one.processor for one in ours)
        passages = statistics.median(one.passages or 0 for one in ours)
        per_exchange = 2 * passages / exchanges
        print(
            f"| {exchanges} exchanges, {passages:,.0f} passages | checked hits a second | to bare |"
        )
        print("|---|---|---|")
        print("| bare QEMU | | 1.00 |")
        print(f"| plugin ({ours[-1].note}) | {2 * passages / mine:,.0f} | {ratio:.2f} |")
        clock = statistics.median(one.seconds for one in alone) / exchanges
        ways: list[tuple[str, int, Callable[[Guest, Path], Result]]] = [
            ("osvtriage's gdb engine", few, gdb_engine),
            ("gdb's own Python breakpoint", few, gdb_python),
            ("pygdbmi with its defaults", fewest, pygdbmi),
        ]
        for title, count, way in ways:
            one = way(guest(count), directory)
            _say(f"{title}: {one}, {count} exchanges")
            rate, slower = per_exchange * count / one.seconds, one.seconds / count / clock
            print(f"| {title} | {rate:,.1f} | {slower:,.0f} |")


def time_trials(recipes: list[str], trials: int) -> None:
    """Print how many trials of each recipe there are in an hour, on either engine."""
    print("| recipe | gdb, trials an hour | plugin | ratio |")
    print("|---|---|---|---|")
    for named in recipes:
        recipe, _, image = named.partition("@")
        taken: dict[str, list[float]] = {"gdb": [], "plugin": []}
        for _ in range(trials):
            for engine, seconds in taken.items():
                seconds.append(_trial(recipe, image, engine))
                _say(f"{named}, {engine}: {seconds[-1]:.1f} s")
        gdb, ours = (3600 / statistics.median(seconds) for seconds in taken.values())
        print(f"| {named} | {gdb:,.0f} | {ours:,.0f} | {ours / gdb:.2f} |")


def _trial(recipe: str, image: str, engine: str) -> float:
    """The seconds that a run takes from the command to its record."""
    with tempfile.TemporaryDirectory(prefix="osvtriage-engines-") as out:
        command = [sys.executable, "-m", "osvtriage", "run", recipe, "--engine", engine]
        command += ["--out", f"{out}/run", *(["--image", image] if image else [])]
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        # A verdict, either one.
        if done.returncode not in (0, 1):
            sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stderr}")
        return time.monotonic() - begun


def _say(text: str) -> None:
    print(f"{text}; load {os.getloadavg()[0]:.1f}", file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--exchanges", type=int, default=60_000)
    parser.add_argument("--few", type=int, default=40)
    parser.add_argument("--fewest", type=int, default=10)
    parser.add_argument("--trials", type=int)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    chosen = parser.parse_args()
    if chosen.trials:
        time_trials(list(chosen.recipes), chosen.trials)
    else:
        compare_ways(chosen.rounds, chosen.exchanges, chosen.few, chosen.fewest)


if __name__ == "__main__":
    main()
