"""Passages a second, and what they cost the guest, for ways to watch a hot kernel function.

Run by hand, on a machine with nothing else to do:

    .venv/bin/python benchmarks/engines.py [--rounds 3] [--exchanges 60000] [--few 300]

The same guest (ppc64le, one vCPU, two processes that hand a byte to and fro: switch.c), the same
QEMU, the same place: every call of save_fpu() and where it returns, with f0 to f31 taken at both
sides. Bare QEMU and the plugin are interleaved, and their rates are by QEMU's processor time, the
boot's apart; gdb, which is a hundred times slower, gets fewer exchanges and is timed by the guest's
clock. A passage has two hits.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from osvtriage.arch import PPC64LE
from osvtriage.guest.programs import find_gdb, find_plugin_qemu
from osvtriage.guest.qemu import Boot, machine_arguments
from osvtriage.images import payload, store
from osvtriage.images.store import ImageStore
from osvtriage.plugin import build
from osvtriage.plugin.shared import Counter, Shared
from osvtriage.plugin.table import Capture, Kind, PluginProbe, Site, Table, When
from osvtriage.symbols.elf import ElfImage

IMAGE = "debian-bookworm-ppc64le"
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


@dataclass(frozen=True)
class Guest:
    """A guest that can be started again and again, and the two sides of every call in it."""

    command: list[str]
    entries: list[int]
    exits: list[int]


@dataclass(frozen=True)
class Result:
    """What one run of the guest gave. ``seconds`` are the workload's by the guest's own clock,
    ``processor`` QEMU's, of the whole run: other work on the machine does not count in these."""

    exchanges: int
    seconds: float
    processor: float = 0.0
    hits: int | None = None
    note: str = ""


def guest(exchanges: int) -> Guest:
    """The guest with so many exchanges."""
    image = ImageStore().ensure(IMAGE, print)
    program = payload.compile_payload(Path(__file__).with_name("switch.c"), PPC64LE, print)
    qemu = find_plugin_qemu(PPC64LE)
    if qemu.path is None:
        sys.exit(f"{qemu.obstacle}\nosvtriage doctor --fetch-qemu gets one")
    append = f"console=hvc0 {image.append} panic=-1 -- payload: --exchanges {exchanges}"
    boot = Boot(
        arch=PPC64LE,
        kernel=image.kernel,
        initrd=store.initrd(image, program),
        append=append,
        memory=image.memory,
        smp=1,
        accelerator="tcg",
        cpu=PPC64LE.cpu,
    )
    with ElfImage(image.kernel, PPC64LE) as elf:
        targets = {at for one in elf.functions("save_fpu") for at in (one.address, one.entry)}
        calls = elf.calls(frozenset(targets))
    entries = sorted(site for sites in calls.values() for site in sites)
    return Guest(machine_arguments(qemu.path, boot), entries, [site + 4 for site in entries])


def run(chosen: Guest, more: list[str], console: Path) -> Result:
    """Run the guest to its end."""
    with console.open("wb") as file:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [*chosen.command, *more, "-serial", "stdio"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            check=True,
            timeout=LIMIT,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return replace(said(console), processor=used)


def said(console: Path) -> Result:
    """What the workload printed at its end."""
    text = console.read_text(errors="replace")
    found = re.search(r"osvtriage: end .*exchanges=(\d+) seconds=([\d.]+)", text)
    if found is None:
        sys.exit(f"the workload did not come to its end: {text[-400:]!r}")
    return Result(int(found[1]), float(found[2]))


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
    result = run(chosen, build.argument(build.plugin(), file.path), directory / "console")
    counters = file.counters(0)
    lost = counters[Counter.DROPPED] + counters[Counter.LOST] + counters[Counter.UNSENT]
    note = f"{lost} dropped, {counters[Counter.DIFFERING]} differed"
    hits = counters[Counter.PASSAGES]
    # The boot switches, too: what was counted is not all of the workload.
    hits = min(hits, 2 * result.exchanges)
    file.close()
    return replace(result, hits=hits, note=note)


def gdb_python(chosen: Guest, directory: Path) -> Result:
    """gdb's own Python breakpoint."""
    script = directory / "probe.py"
    script.write_text(
        _PYTHON.format(registers=REGISTERS, addresses=[*chosen.entries, *chosen.exits])
    )
    with StoppedGuest(chosen, directory) as socket:
        command = [str(find_gdb(PPC64LE)), "-nx", "-batch"]
        for line in (*PPC64LE.gdb_setup, f"target remote {socket}", f"source {script}", "continue"):
            command += ["-ex", line]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=LIMIT)
    result = said(directory / "console")
    return replace(result, hits=2 * result.exchanges)


class StoppedGuest:
    """A guest stopped at reset, with a gdb stub at a socket, for as long as the block lasts."""

    def __init__(self, chosen: Guest, directory: Path) -> None:
        self._chosen, self._directory = chosen, directory

    def __enter__(self) -> Path:
        socket = self._directory / "gdb"
        more = ["-S", "-chardev", f"socket,id=gdb,path={socket},server=on,wait=off"]
        more += ["-gdb", "chardev:gdb", "-serial", f"file:{self._directory / 'console'}"]
        self._qemu = subprocess.Popen([*self._chosen.command, *more], stdin=subprocess.DEVNULL)
        # Ended also where gdb hangs.
        self._timer = threading.Timer(LIMIT, self._qemu.kill)
        self._timer.start()
        while not socket.exists() and self._qemu.poll() is None:
            time.sleep(0.05)
        return socket

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        try:
            self._qemu.wait(10)
        except subprocess.TimeoutExpired:
            self._qemu.kill()
            self._qemu.wait()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exchanges", type=int, default=60_000)
    parser.add_argument("--few", type=int, default=300)
    chosen = parser.parse_args()
    many, few = guest(chosen.exchanges), guest(chosen.few)
    bare: list[Result] = []
    ours: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="osvtriage-engines-") as name:
        boot = run(few, [], Path(name) / "boot").processor
        for number in range(chosen.rounds):
            directory = Path(name) / str(number)
            directory.mkdir()
            bare.append(run(many, [], directory / "bare"))
            ours.append(plugin(many, directory))
            print(
                f"round {number + 1}: bare {bare[-1].processor:.2f} s, plugin "
                f"{ours[-1].processor:.2f} s of processor time, {boot:.2f} s of it the boot; "
                f"by the guest's clock {bare[-1].seconds:.2f} s and {ours[-1].seconds:.2f} s; "
                f"{ours[-1].note}",
                file=sys.stderr,
            )
        base = statistics.median(one.processor for one in bare) - boot
        mine = statistics.median(one.processor for one in ours) - boot
        print(f"| {chosen.exchanges} exchanges | passages a second | guest's time to bare |")
        print("|---|---|---|")
        print("| bare QEMU | | 1.00 |")
        print(
            f"| plugin, 32 registers compared | {(ours[0].hits or 0) / mine:,.0f} | "
            f"{mine / base:.2f} |"
        )
        slow = Path(name) / "gdb"
        slow.mkdir()
        one = gdb_python(few, slow)
        per_exchange = statistics.median(one.seconds for one in bare) / chosen.exchanges
        print(
            f"| gdb's Python breakpoint | {(one.hits or 0) / one.seconds:,.0f} | "
            f"{one.seconds / one.exchanges / per_exchange:,.0f} |"
        )


if __name__ == "__main__":
    main()
