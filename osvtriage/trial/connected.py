"""A guest and what a trial is connected to it through: QEMU's monitor, its console, and gdb."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osvtriage.consoles import TROUBLES
from osvtriage.consoles import payload as payload_console
from osvtriage.consoles.payload import PayloadLine
from osvtriage.gdb.session import MiSession
from osvtriage.guest.console import Console
from osvtriage.guest.monitor import Monitor
from osvtriage.guest.processes import Child, Processes, log_file
from osvtriage.guest.qemu import Sockets, command_line
from osvtriage.model.errors import OsvtriageError
from osvtriage.symbols.layout import Sample
from osvtriage.trial.prepare import Prepared
from osvtriage.trial.request import Observer, Request
from osvtriage.trial.running import Running
from osvtriage.trial.seen import Seen
from osvtriage.trial.watch import Watch

# Linux reaches its first program in 7.5 s under TCG on an idle host (measured); with every
# processor shared by ten others, in ten times that.
BOOT_LIMIT = 120.0
_MUCH = 4096
# What is still in the pipes when QEMU has ended is read in milliseconds.
_DRAIN_LIMIT = 5.0


@dataclass(frozen=True, slots=True)
class Given:
    """What a trial is given: what it is to do, the files for it, the ``directory`` that its record
    grows in, who is told meanwhile, and where what it sees is put."""

    request: Request
    prepared: Prepared
    directory: Path
    observer: Observer
    seen: Seen = field(default_factory=Seen)


class Connected:
    """A guest under QEMU, with gdb at its stub: started, spoken with, and ended.

    Attributes:
        monitor: QEMU's.
        gdb: driven over its machine interface.
        watch: what every wait goes through, so that it ends with whatever ends the trial.
    """

    def __init__(self, given: Given) -> None:
        self.request = given.request
        self.prepared = given.prepared
        self.directory = given.directory
        # Where QEMU writes its log and the console's.
        self.logs = given.directory
        self.observer = given.observer
        self.seen = given.seen
        self.monitor: Monitor
        self.gdb: MiSession
        self.watch: Watch
        self._trouble = TROUBLES[given.request.recipe.system]
        self._ready = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        # Of trials whose guest prints on its second serial port as well.
        self._second_log: Path | None = None

    @property
    def running(self) -> Running:
        """Where others find this guest."""
        return Running(self.directory, self._processes.directory)

    async def _open(self, stack: AsyncExitStack) -> None:
        """Make what the trial is connected through; *stack* ends all of it."""
        self._open_machine(stack)
        self.gdb = await stack.enter_async_context(
            MiSession(self.prepared.gdb, self.directory / "gdb.log", self._on_gdb_text)
        )

    def _open_machine(self, stack: AsyncExitStack) -> None:
        """As :meth:`_open`, without a gdb."""
        self._stack = stack
        self._processes = Processes()
        stack.push_async_callback(self._processes.close)
        self.monitor = Monitor()
        stack.push_async_callback(self.monitor.close)
        self._console = Console()
        stack.callback(self._console.close)

    async def _start(self) -> None:
        """Start QEMU, its guest stopped at reset, and gdb, not attached yet."""
        self.observer.phase("boot", f"{self.request.smp} vCPU, {self.prepared.accelerator.name}")
        sockets = Sockets(self._processes.directory)
        log = log_file(self.logs / "qemu.log")
        null = log_file(Path("/dev/null"))
        argv = command_line(
            self.prepared.qemu,
            self.prepared.boot,
            sockets,
            self.logs / "console.log",
            payload_console.WAIT if self.prepared.waits else "",
            self._second_log,
        )
        argv += self._more_arguments()
        qemu = Child("qemu", argv, null, log, log)
        self._qemu = qemu
        await self._start_processes(qemu)
        await self.watch.until(self.monitor.connect(sockets.qmp), "QEMU's control socket")
        self.seen.qemu_version = self.monitor.version
        self._console.connect(sockets.console)
        self._reading = asyncio.create_task(self._read_console(), name="console")
        self._stack.callback(self._reading.cancel)
        self.watch.guard(self._reading)
        self._begun = time.monotonic()

    def _more_arguments(self) -> list[str]:
        """What QEMU is given beside the guest and its connections."""
        return []

    async def _start_processes(self, qemu: Child) -> None:
        await self._processes.start(qemu, self.gdb.child)
        await self.gdb.attach()
        self.watch = Watch(qemu, self.gdb, self.monitor, self._console, self.logs)

    async def _until_ready(self) -> None:
        limit = self._limit(BOOT_LIMIT, self._begun)
        await self.watch.until(self._ready.wait(), "user space", *limit)
        self.seen.timings["boot"] = time.monotonic() - self._begun

    async def _attach_gdb(self) -> None:
        stub = Sockets(self._processes.directory).gdb
        await self.ask(f"-target-select remote {stub}")

    async def _run_to(self, address: int, what: str) -> None:
        await self.ask(f"-break-insert -t -h *{address:#x}")
        await self.ask("-exec-continue")
        limit = self._limit(BOOT_LIMIT, self._begun)
        await self.watch.until(self.gdb.stops.get(), what, *limit)

    async def _read_sample(self, sample: Sample) -> bytes | None:
        """The guest's bytes. gdb reads 2 KiB at a time: much is read by QEMU, into a file."""
        if sample.size <= _MUCH:
            return await self._read_memory(sample.address, sample.size)
        path = self._processes.directory / "sample"
        await self.watch.until(
            self.monitor.save_memory(sample.address, sample.size, path), "QEMU's answer"
        )
        there = path.read_bytes()
        path.unlink()
        return there

    async def _drain(self) -> None:
        """Read what is left in the pipes."""
        with suppress(TimeoutError, OsvtriageError):
            async with asyncio.timeout(_DRAIN_LIMIT):
                # Its answer comes behind every event that gdb has written.
                await self.gdb.command("-gdb-set confirm off")
        with suppress(TimeoutError, OsvtriageError):
            async with asyncio.timeout(_DRAIN_LIMIT):
                if not self.monitor.shutdown.done():
                    await self.monitor.quit()
                if self._reading is not None:
                    await asyncio.wait([self._reading])

    async def ask(self, command: str) -> Any:
        """gdb's answer to a command of its machine interface."""
        return await self.watch.until(self.gdb.command(command), "gdb's answer")

    async def _read_memory(self, address: int, size: int) -> bytes | None:
        return await self.watch.until(self.gdb.read_memory(address, size), "gdb's answer")

    async def run_in_gdb(self, line: str) -> None:
        """Have gdb run a line as if it were typed."""
        await self.watch.until(self.gdb.cli(line), "gdb's answer")

    def _limit(self, limit: float, since: float) -> tuple[float, float]:
        """The limit of what began at *since*, and how much of it has passed.

        A --timeout takes its place; that counts from the guest's first instruction on.
        """
        if self.request.timeout is not None:
            limit, since = self.request.timeout, self._begun
        return limit, time.monotonic() - since

    # What is heard.

    async def _read_console(self) -> None:
        async for line in self._console.lines():
            self._on_console_line(line)
            self._on_line(line)

    def _on_line(self, line: str) -> None:
        if (said := payload_console.parse(line)) is not None:
            if said.event == payload_console.READY:
                self._ready.set()
                return
            self._on_payload(said)
        elif self.watch.trouble is None:
            self.watch.trouble = self._trouble(line)

    def _on_payload(self, said: PayloadLine) -> None:
        self.seen.payload.feed(said)
        self.observer.payload(said)

    def _on_console_line(self, line: str) -> None:
        """A line of the guest's console, before anything is made of it."""

    def _on_gdb_text(self, text: str) -> None:
        """What gdb, or Python in it, prints."""
