"""One run of a guest, from its first instruction to its end, with gdb attached."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from osvtriage.consoles import linux as linux_console
from osvtriage.consoles import payload as payload_console
from osvtriage.consoles.payload import PayloadReport
from osvtriage.gdb.inside import EVENT_PREFIX, FAILURE_PREFIX
from osvtriage.gdb.session import MiSession
from osvtriage.guest.console import Console
from osvtriage.guest.monitor import Monitor, Shutdown
from osvtriage.guest.processes import Child, Processes, log_file
from osvtriage.guest.qemu import Sockets, command_line
from osvtriage.model.errors import GdbError, GuestError, OsvtriageError
from osvtriage.model.event import Event, Frame, ThreadKey
from osvtriage.symbols.elf import ElfImage
from osvtriage.trial.judge import Ending, ProbeCount
from osvtriage.trial.prepare import Prepared
from osvtriage.trial.request import Observer, Request
from osvtriage.trial.resolve import Resolved, resolve

# Linux reaches its first program in 7.5 s under TCG on an idle host (measured); with every
# processor shared by ten others, in ten times that.
BOOT_LIMIT = 120.0
# What is still in the pipes when QEMU has ended is read in milliseconds.
_DRAIN_LIMIT = 5.0

T = TypeVar("T")


@dataclass(slots=True)
class Seen:
    """What a trial saw, as it grows."""

    events: list[Event] = field(default_factory=list)
    probes: dict[str, ProbeCount] = field(default_factory=dict)
    payload: PayloadReport | None = None
    death: str | None = None
    ending: Ending | None = None
    timings: dict[str, float] = field(default_factory=dict)
    stops: int = 0
    qemu_version: str | None = None
    gdb_version: str | None = None


class _Over(Exception):
    """The guest ended while something else was waited for."""


class Trial:
    """A trial: :meth:`run` it once."""

    def __init__(
        self,
        request: Request,
        prepared: Prepared,
        directory: Path,
        observer: Observer,
        seen: Seen,
    ) -> None:
        self.request = request
        self.prepared = prepared
        self.directory = directory
        self.observer = observer
        self.seen = seen
        self.resolved: Resolved | None = None
        self._ready = asyncio.Event()
        self._failure: str | None = None
        if request.recipe.workload.payload:
            self.seen.payload = PayloadReport()

    async def run(self) -> Seen:
        """Boot, arm, watch, end.

        Raises:
            OsvtriageError: QEMU or gdb failed, or the guest is not the kernel it should be.
        """
        async with AsyncExitStack() as stack:
            self._stack = stack
            self._processes = Processes()
            stack.push_async_callback(self._processes.close)
            self._monitor = Monitor()
            stack.push_async_callback(self._monitor.close)
            self._console = Console()
            stack.callback(self._console.close)
            self._gdb = await stack.enter_async_context(
                MiSession(self.prepared.gdb, self.directory / "gdb.log", self._on_gdb_text)
            )
            try:
                await self._boot()
                await self._arm()
                await self._workload()
            except _Over:
                pass
            finally:
                self.seen.stops = self._monitor.stops
                self.seen.timings["stopped"] = self._monitor.stopped_seconds
            await self._end()
        return self.seen

    async def _boot(self) -> None:
        begun = time.monotonic()
        self.observer.phase("boot", f"{self.request.smp} vCPU, {self.prepared.accelerator.name}")
        sockets = Sockets(self._processes.directory)
        log = log_file(self.directory / "qemu.log")
        null = log_file(Path("/dev/null"))
        argv = command_line(
            self.prepared.qemu,
            self.prepared.boot,
            sockets,
            self.directory / "console.log",
            payload_console.WAIT,
        )
        self._qemu = Child("qemu", argv, null, log, log)
        await self._processes.start(self._qemu, self._gdb.child)
        await self._until_over(self._monitor.connect(sockets.qmp), "QEMU's control socket", 30.0)
        self.seen.qemu_version = self._monitor.version
        self._console.connect(sockets.console)
        self._reading = asyncio.create_task(self._read_console(), name="console")
        self._stack.callback(self._reading.cancel)
        # The guest boots for seconds, without gdb: what can be done meanwhile is done meanwhile.
        await self._monitor.resume()
        await self._gdb.attach()
        for command in (
            "-gdb-set mi-async on",
            "-gdb-set confirm off",
            "-gdb-set pagination off",
            "-gdb-set auto-load off",
            # Left in place between stops: each insertion makes QEMU translate its code anew.
            "-gdb-set breakpoint always-inserted on",
        ):
            await self._gdb.command(command)
        for line in self.prepared.arch.gdb_setup:
            await self._gdb.cli(line)
        await self._resolve_probes()
        await self._until_over(self._ready.wait(), "user space", self._limit(BOOT_LIMIT))
        self.seen.timings["boot"] = time.monotonic() - begun
        self._deadline = time.monotonic() + self._limit(
            self.request.recipe.workload.limit, self.seen.timings["boot"]
        )

    async def _resolve_probes(self) -> None:
        """Resolve the probes; have gdb import what makes them, which its Python finds by path."""
        self._elf = await asyncio.to_thread(ElfImage, self.prepared.boot.kernel, self.prepared.arch)
        self._stack.callback(self._elf.close)
        self.resolved = await asyncio.to_thread(resolve, self.request.recipe, self._elf)
        plan = self.resolved.plan
        for probe in plan.probes:
            addresses = tuple(f"{address:016x}" for address in probe.entries)
            self.seen.probes[probe.name] = ProbeCount(
                probe.name, probe.symbol, addresses, probe.required
            )
        (self.directory / "probes.json").write_text(plan.to_json(), encoding="utf-8")
        package = str(Path(__file__).parents[2])
        await self._gdb.cli(f"python import sys; sys.path.insert(0, {package!r})")
        await self._gdb.cli("python from osvtriage.gdb.inside import probes")

    async def _arm(self) -> None:
        begun = time.monotonic()
        assert self.resolved is not None
        self.observer.phase("arm", f"{len(self.resolved.plan.probes)} probes")
        # Attaching stops the guest. It waits for a line, so nothing of the workload is missed; and
        # no breakpoint has slowed the boot (QEMU looks for one at every jump: 8 % were measured).
        stub = Sockets(self._processes.directory).gdb
        await self._gdb.command(f"-target-select remote {stub}")
        if await self._gdb.read_memory(self.resolved.banner_address, 1) is None:
            # The CPU is in user mode still, from where the stub cannot read the kernel. The task
            # that waits for the line goes to sleep next.
            await self._gdb.command(f"-break-insert -t -h *{self.resolved.sleep_address:#x}")
            await self._gdb.command("-exec-continue")
            await self._until_over(self._stop(), "its first sleep", self._limit(BOOT_LIMIT))
        await self._compare_code(self.resolved)
        await self._gdb.cli(f"python probes.arm({str(self.directory / 'probes.json')!r})")
        await self._gdb.command("-exec-continue")
        self._console.send("go")
        self.seen.timings["arm"] = time.monotonic() - begun

    async def _compare_code(self, resolved: Resolved) -> None:
        """See that the guest runs the kernel of the file, at every address that matters."""
        there = await self._gdb.read_memory(resolved.banner_address, len(resolved.banner))
        if there != resolved.banner:
            raise GuestError(
                f"the guest's linux_banner is {there!r}, the kernel file's is {resolved.banner!r}"
            )
        size = self.prepared.arch.instruction_bytes or 4
        patched = [int(patch.address, 16) for patch in self.prepared.kernel.patches]
        for address in [*resolved.code, *patched]:
            there = await self._gdb.read_memory(address, size)
            wanted = self._elf.read(address, size)
            if there != wanted:
                name = self._elf.name_frame(Frame(f"{address:016x}")).name
                raise GuestError(
                    f"the guest's code at {name} ({address:#x}) is "
                    f"{there.hex(' ') if there else 'unreadable'}, "
                    f"the kernel file's is {wanted.hex(' ')}"
                )

    async def _workload(self) -> None:
        begun = time.monotonic()
        self.observer.phase("workload", self.request.variant.title)
        try:
            # No probe stops the guest for gdb's prompt: a stop here is a failure inside gdb.
            left = self._deadline - begun
            stop = await self._until_over(self._stop(), "the workload's end", left)
            raise GdbError(
                f"a probe failed inside gdb: {self._failure.strip().splitlines()[-1]}"
                if self._failure
                else f"gdb stopped the guest unasked: {stop.get('reason', 'no reason given')}"
            )
        finally:
            self.seen.timings["workload"] = time.monotonic() - begun

    async def _end(self) -> None:
        """Read what is left in the pipes, and say how the guest ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_LIMIT):
                with suppress(OsvtriageError):
                    # Its answer comes behind every event that gdb has written.
                    await self._gdb.command("-gdb-set confirm off")
                await asyncio.wait([self._reading])
        if self.seen.ending is None:
            self.seen.ending = self._how_it_ended()

    # What is waited for.

    async def _stop(self) -> Any:
        return await self._gdb.stops.get()

    def _limit(self, default: float, used: float = 0.0) -> float:
        timeout = self.request.timeout
        return default if timeout is None else max(0.0, timeout - used)

    async def _until_over(self, awaitable: Awaitable[T], what: str, limit: float) -> T:
        """Wait for one thing while watching all that can end the trial.

        Raises:
            _Over: the guest ended, or the limit passed; ``seen.ending`` or QMP says how.
            GdbError, GuestError: gdb or QEMU died.
        """
        wanted: asyncio.Future[T] = asyncio.ensure_future(awaitable)
        watched: list[asyncio.Future[Any]] = [
            wanted,
            self._monitor.shutdown,
            self._qemu.ended,
            self._gdb.ended,
        ]
        try:
            done, _ = await asyncio.wait(
                watched, timeout=limit, return_when=asyncio.FIRST_COMPLETED
            )
            if self._monitor.shutdown in done or self._qemu.ended in done:
                await self._qemu_ended()
            if self._gdb.ended in done:
                await self._gdb_ended()
            if wanted in done:
                return await wanted
        finally:
            if not wanted.done():
                wanted.cancel()
                with suppress(asyncio.CancelledError):
                    await wanted
        self.seen.ending = Ending(
            False,
            f"the guest did not get to {what} within {limit:.0f} s; {self._last_lines()}",
        )
        raise _Over

    async def _qemu_ended(self) -> None:
        """QEMU has ended or will at once: as the guest wished, or for a reason of its own."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_LIMIT):
                await asyncio.wait([self._qemu.ended])
        if not self._qemu.ended.done():
            raise GuestError("QEMU announced its shutdown and did not end")
        status = self._qemu.ended.result()
        if status < 0:
            raise GuestError(f"QEMU was ended by signal {-status}; {self._last_lines()}")
        if status > 0:
            words = _last_line(self.directory / "qemu.log")
            raise GuestError(f"QEMU ended with status {status}: {words or 'it said nothing'}")
        raise _Over

    async def _gdb_ended(self) -> None:
        # QEMU's end takes gdb's connection with it: ask for QEMU first.
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.wait([self._qemu.ended])
        if self._qemu.ended.done():
            await self._qemu_ended()
        status = await self._gdb.child.ended
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        raise GdbError(f"gdb {how}; its last words: {self._gdb.ended.result()}")

    def _how_it_ended(self) -> Ending:
        shutdown = self._monitor.shutdown
        said: Shutdown | None = shutdown.result() if shutdown.done() else None
        if self.seen.death:
            return Ending(False, f"the guest's kernel died: {self.seen.death}")
        if self._monitor.panicked or (said and said.reason == "guest-panic"):
            return Ending(False, f"the guest's kernel panicked; {self._last_lines()}")
        if said and said.reason == "guest-shutdown":
            return Ending(True, "the guest powered off")
        what = f"with reason {said.reason}" if said else "without a word"
        return Ending(False, f"the guest ended {what}; {self._last_lines()}")

    def _last_lines(self) -> str:
        tail = [line.strip() for line in self._console.tail]
        return f"its last lines: {' / '.join(tail[-3:])}" if tail else "it printed nothing"

    # What is heard.

    async def _read_console(self) -> None:
        async for line in self._console.lines():
            if (said := payload_console.parse(line)) is not None:
                if said.event == payload_console.READY:
                    self._ready.set()
                    continue
                if self.seen.payload is not None:
                    self.seen.payload.feed(said)
                self.observer.payload(said)
            elif self.seen.death is None:
                self.seen.death = linux_console.death(line)

    def _on_gdb_text(self, text: str) -> None:
        if text.startswith(EVENT_PREFIX):
            self._on_event(json.loads(text[len(EVENT_PREFIX) :]))
        elif text.startswith(FAILURE_PREFIX):
            self._failure = json.loads(text[len(FAILURE_PREFIX) :])
        elif text.startswith("GNU gdb"):
            self.seen.gdb_version = text.strip()

    def _on_event(self, record: dict[str, Any]) -> None:
        hits, disarmed = record.pop("hits"), record.pop("disarmed")
        record["thread"] = ThreadKey(**record["thread"])
        frames = [Frame(**frame) for frame in record["backtrace"]]
        assert self.resolved is not None
        if (callee := self.resolved.callee(record["probe"])) is not None:
            frames.insert(0, Frame(f"{callee:016x}"))
        record["backtrace"] = tuple(self._elf.name_frame(frame) for frame in frames)
        event = Event(**record)
        self.seen.events.append(event)
        count = self.seen.probes[event.probe]
        count.hits, count.disarmed = hits, disarmed
        self.observer.probe(count)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
