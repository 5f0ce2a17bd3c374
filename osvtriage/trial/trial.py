"""One run of a guest, from its first instruction to its end, with gdb attached."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from osvtriage.consoles import TROUBLES
from osvtriage.consoles import payload as payload_console
from osvtriage.consoles.payload import PayloadLine, PayloadReport
from osvtriage.gdb.inside import (
    ANSWER_PREFIX,
    EVENT_PREFIX,
    FAILURE_PREFIX,
    FATAL,
    FOUND,
    PINPOINT_PREFIX,
    PROCESS_PREFIX,
    REFUSAL_PREFIX,
    STACKS_PREFIX,
    STEP,
)
from osvtriage.gdb.session import MiSession, quoted
from osvtriage.guest.console import Console
from osvtriage.guest.monitor import Monitor
from osvtriage.guest.processes import Child, Processes, log_file
from osvtriage.guest.qemu import Sockets, command_line
from osvtriage.model.boundary import Boundary
from osvtriage.model.context import Comparison
from osvtriage.model.decode import decode
from osvtriage.model.errors import GdbError, GuestError, OsvtriageError
from osvtriage.model.event import Event, Frame
from osvtriage.model.finding import CheckResult
from osvtriage.model.overflow import OverflowSeen
from osvtriage.model.plan import GdbPlan
from osvtriage.model.stacks import StacksSeen
from osvtriage.symbols.demangle import demangled
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.layout import Sample
from osvtriage.trial import checking, high_water, identity, pinpoint
from osvtriage.trial.judge import Ending, ProbeCount
from osvtriage.trial.pinpoint import Pinpoint
from osvtriage.trial.plugin_engine import PluginEngine, compared_by
from osvtriage.trial.prepare import Prepared
from osvtriage.trial.record import InterventionRecord
from osvtriage.trial.request import Observer, Request
from osvtriage.trial.resolve import Resolved, resolve
from osvtriage.trial.running import SOCKETS, Running, announce
from osvtriage.trial.visit import Visit, Visits
from osvtriage.trial.watch import Over, Watch

# Linux reaches its first program in 7.5 s under TCG on an idle host (measured); with every
# processor shared by ten others, in ten times that.
BOOT_LIMIT = 120.0
# Stepping 100,000 instructions, 1,000 a second.
_STEPPING_LIMIT = 150.0
_MUCH = 4096
# What is still in the pipes when QEMU has ended is read in milliseconds.
_DRAIN_LIMIT = 5.0
# A stop asked for takes 10 ms. It is lost where gdb was just about to let the guest go on after a
# probe: then it is asked for again.
STOP_AGAIN = 1.0
DISTURBED = Ending(False, "somebody worked in the guest through gdb")


@dataclass(slots=True)
class Seen:
    """What a trial saw, as it grows."""

    events: list[Event] = field(default_factory=list)
    probes: dict[str, ProbeCount] = field(default_factory=dict)
    payload: PayloadReport = field(default_factory=PayloadReport)
    pinpoint: Pinpoint | None = None
    boundaries: list[Boundary] = field(default_factory=list)
    overflow: OverflowSeen | None = None
    stacks: StacksSeen | None = None
    comparisons: list[Comparison] = field(default_factory=list)
    # What the symbols do not tell of this guest, a sentence each.
    missing: tuple[str, ...] = ()
    ending: Ending | None = None
    timings: dict[str, float] = field(default_factory=dict)
    stops: int = 0
    engine: Literal["gdb", "plugin"] = "gdb"
    # What the engine does not do, or why another was not taken, a sentence each.
    engine_notes: list[str] = field(default_factory=list)
    # By probe, the passages that were found equal and are no events.
    unchanged: dict[str, int] = field(default_factory=dict)
    # How many of the events were seen before the user was given the guest; None where nobody was.
    undisturbed: int | None = None
    # Whether somebody worked in the guest of this trial, which was not a session.
    disturbed: bool = False
    qemu_version: str | None = None
    gdb_version: str | None = None


class Trial:
    """A trial: :meth:`run` it once, then ask it what it found.

    Attributes:
        steers: it does to the guest what plain gdb cannot repeat, and brings its own check.
    """

    steers: ClassVar[bool] = False
    # Why nobody can be let in while it runs, where that is so.
    no_visits: ClassVar[str | None] = None

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
        # Where QEMU writes its log and the console's.
        self.logs = directory
        self.observer = observer
        self.seen = seen
        self.resolved: Resolved | None = None
        self._trouble = TROUBLES[request.recipe.system]
        self._ready = asyncio.Event()
        self._failure: str | None = None
        self._told: asyncio.Future[dict[str, Any]] | None = None
        self._refusal: str | None = None
        self._stays: str | None = None
        # Where the process that the plugin is to watch has its modules.
        self._bases: dict[str, int] = {}
        self._stop: Mapping[str, Any] = {}
        self._reading: asyncio.Task[None] | None = None
        # Of trials whose guest prints on its second serial port as well.
        self._second_log: Path | None = None
        self._plugin: PluginEngine | None = None
        self._visits: Visits | None = None

    async def run(self) -> Seen:
        """Boot, arm, watch, end.

        Raises:
            OsvtriageError: QEMU or gdb failed, or the guest is not the kernel it should be.
        """
        async with AsyncExitStack() as stack:
            await self._open(stack)
            try:
                await self._start()
                if self.prepared.waits:
                    await self._boot_until_ready()
                else:
                    await self._boot_until_function()
                await self._arm()
                await self._workload()
            except Over:
                await self._drain()
                self.seen.ending = self._watch.ending()
            finally:
                self._count_plugin()
                self.seen.stops = self._monitor.stops
                self.seen.timings["stopped"] = self._monitor.stopped_seconds
        return self.seen

    def check(self) -> list[CheckResult]:
        """What the recipe's checks say of what was seen."""
        self.observer.phase("check", f"{len(self.seen.events)} events")
        events = self.seen.events[: self.seen.undisturbed]
        arch, unchanged = self.prepared.arch, self.seen.unchanged
        return checking.run(self.request.recipe, arch, events, unchanged)

    def interventions(self) -> list[InterventionRecord]:
        """What was done to the guest, beside stopping it."""
        painted = [probe.name for probe in self.request.recipe.probe if probe.stack]
        return [
            InterventionRecord(
                stimulus="paint",
                thread=None,
                what=f"at each of the {count.hits} entries of {name} the free part of the stack "
                "was filled with a pattern, to see how deep it is used",
            )
            for name in painted
            if (count := self.seen.probes.get(name)) is not None and count.hits
        ]

    async def _open(self, stack: AsyncExitStack) -> None:
        """Make what the trial is connected through; *stack* ends all of it."""
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
        if self.prepared.plugin is not None:
            self._plugin = PluginEngine(
                self.prepared.plugin, sockets.directory, self.prepared.arch, self._add_event
            )
            self._stack.callback(self._plugin.close)
            argv += self._plugin.arguments
        elif self.prepared.no_plugin is not None:
            self.seen.engine_notes.append(f"gdb watches the probes: {self.prepared.no_plugin}")
        qemu = Child("qemu", argv, null, log, log)
        self._qemu = qemu
        await self._start_processes(qemu)
        await self._watch.until(self._monitor.connect(sockets.qmp), "QEMU's control socket")
        self.seen.qemu_version = self._monitor.version
        self._console.connect(sockets.console)
        self._reading = asyncio.create_task(self._read_console(), name="console")
        self._stack.callback(self._reading.cancel)
        self._watch.guard(self._reading)
        self._begun = time.monotonic()

    async def _start_processes(self, qemu: Child) -> None:
        await self._processes.start(qemu, self._gdb.child)
        await self._gdb.attach()
        self._watch = Watch(qemu, self._gdb, self._monitor, self._console, self.logs)

    async def _prepare_gdb(self) -> None:
        for command in (
            "-gdb-set mi-async on",
            "-gdb-set confirm off",
            "-gdb-set pagination off",
            "-gdb-set auto-load off",
            # Left in place between stops, not taken out and put back at each.
            "-gdb-set breakpoint always-inserted on",
        ):
            await self._ask(command)
        for line in self.prepared.arch.gdb_setup:
            await self._run_in_gdb(line)
        await self._resolve_probes()
        # What makes the probes, which gdb's Python finds by path.
        package = str(Path(__file__).parents[2])
        await self._run_in_gdb(f"python import sys; sys.path.insert(0, {package!r})")
        await self._run_in_gdb("python from osvtriage.gdb.inside import probes")

    async def _resolve_probes(self) -> None:
        self._elf = await asyncio.to_thread(ElfImage, self.prepared.symbols, self.prepared.arch)
        self._stack.callback(self._elf.close)
        self.resolved = await asyncio.to_thread(
            resolve,
            self.request.recipe,
            self._elf,
            self.request.pinpoint,
            self.prepared.files,
            self.request.variant,
            own_userland=not self.prepared.waits,
        )
        self._count_probes()
        self._write_plan()

    def _write_plan(self) -> None:
        assert self.resolved is not None
        plan = self._share_probes(self.resolved.plan)
        (self.directory / "probes.json").write_text(plan.to_json(), encoding="utf-8")

    def _share_probes(self, plan: GdbPlan) -> GdbPlan:
        """The plan with the probes that are left for gdb; those that the plugin takes are gone."""
        if self._plugin is None:
            return plan
        left, notes = self._plugin.take(plan, compared_by(self.request.recipe, self.prepared.arch))
        if left == plan or (notes and self.request.engine == "auto"):
            self._plugin.drop()
            # None, where there is no probe at all.
            self.seen.engine_notes += [f"gdb watches the probes: {one}" for one in notes[:1]]
            return plan
        self.seen.engine = "plugin"
        self.seen.engine_notes += notes
        return left

    def _count_plugin(self) -> None:
        """Read what the plugin wrote last, which is there also where QEMU is gone."""
        if self._plugin is not None and self.resolved is not None:
            self._plugin.read()
            self.seen.unchanged = self._plugin.count(self.seen.probes)
            if (found := self._plugin.pinpointed) is not None:
                self.seen.pinpoint = pinpoint.read(found, self._elf, pinpoint.RUNNING)

    def _count_probes(self) -> None:
        assert self.resolved is not None
        for probe in self.resolved.plan.probes:
            addresses = tuple(f"{address:016x}" for address in probe.entries)
            self.seen.probes[probe.name] = ProbeCount(
                probe.name,
                demangled(probe.symbol),
                addresses,
                probe.required,
                note=self.resolved.notes.get(probe.name),
            )
        self.seen.missing = self.resolved.missing

    async def _boot_until_ready(self) -> None:
        """Boot without gdb until the userland says that it is ready; then stop it there."""
        # The guest boots for seconds, without gdb: what can be done meanwhile is done meanwhile.
        await self._watch.until(self._monitor.resume(), "QEMU's answer")
        await self._prepare_gdb()
        await self._until_ready()
        # Attaching stops the guest. It waits for a line, so nothing of the workload is missed; and
        # no breakpoint has slowed the boot (QEMU looks for one at every jump: 8 % were measured).
        await self._attach_gdb()
        assert self.resolved is not None
        if await self._read_memory(self.resolved.samples[0].address, 1) is None:
            # The CPU is in user mode still, from where the stub cannot read the kernel. The task
            # that waits for the line goes to sleep next.
            assert self.resolved.sleep_address is not None
            await self._run_to(self.resolved.sleep_address, "its first sleep")

    async def _until_ready(self) -> None:
        limit = self._limit(BOOT_LIMIT, self._begun)
        await self._watch.until(self._ready.wait(), "user space", *limit)
        self.seen.timings["boot"] = time.monotonic() - self._begun

    async def _boot_until_function(self) -> None:
        """Boot under gdb until the function where the guest is armed."""
        await self._prepare_gdb()
        await self._attach_gdb()
        assert self.resolved is not None
        assert self.resolved.arm_address is not None
        await self._run_to(self.resolved.arm_address, f"{self.resolved.arm_at}()")
        self.seen.timings["boot"] = time.monotonic() - self._begun

    async def _attach_gdb(self) -> None:
        stub = Sockets(self._processes.directory).gdb
        await self._ask(f"-target-select remote {stub}")

    async def _run_to(self, address: int, what: str) -> None:
        await self._ask(f"-break-insert -t -h *{address:#x}")
        await self._ask("-exec-continue")
        limit = self._limit(BOOT_LIMIT, self._begun)
        await self._watch.until(self._gdb.stops.get(), what, *limit)

    async def _arm(self) -> None:
        begun = time.monotonic()
        await self._compare_code()
        await self._let_go("go")
        self.seen.timings["arm"] = time.monotonic() - begun

    async def _compare_code(self) -> None:
        """See that the guest runs the kernel that the probes are for."""
        assert self.resolved is not None
        self.observer.phase("arm", f"{len(self.resolved.plan.probes)} probes")
        for sample in self._samples():
            identity.compare(sample, self._elf, await self._read_sample(sample))

    async def _let_go(self, word: str) -> None:
        """Arm the probes, let the guest go on, and where it waits for a word, type that."""
        await self._run_in_gdb(f"python probes.arm({str(self.directory / 'probes.json')!r})")
        if self.request.stacks:
            assert self.resolved is not None
            await high_water.arm(self._elf, self.resolved, self.directory, self._run_in_gdb)
        if self._plugin is not None:
            for start, end in self._plugin.wants_code:
                # What is gone after the boot is no code that anything returns to.
                if await self._read_memory(start, 1) is not None:
                    code = await self._read_sample(Sample("code", start, end - start))
                    self._plugin.give_code(start, code or b"")
            self._plugin.arm()
            following = asyncio.create_task(self._plugin.follow(), name="plugin")
            self._stack.callback(following.cancel)
            self._watch.guard(following)
        await self._ask("-exec-continue")
        if self.prepared.waits:
            self._console.send(word)

    def _samples(self) -> list[Sample]:
        """What must be in the guest as it is in the file, where a variant changed it included."""
        assert self.resolved is not None
        size = self.prepared.arch.instruction_bytes or 4
        patched = [
            Sample("patched code", int(patch.address, 16), size)
            for patch in self.prepared.kernel.patches
        ]
        return [*self.resolved.samples, *patched]

    async def _read_sample(self, sample: Sample) -> bytes | None:
        """The guest's bytes. gdb reads 2 KiB at a time: much is read by QEMU, into a file."""
        if sample.size <= _MUCH:
            return await self._read_memory(sample.address, sample.size)
        path = self._processes.directory / "sample"
        await self._watch.until(
            self._monitor.save_memory(sample.address, sample.size, path), "QEMU's answer"
        )
        there = path.read_bytes()
        path.unlink()
        return there

    async def _workload(self) -> None:
        begun = time.monotonic()
        self.observer.phase("workload", self.request.variant.title)
        visits = self._visits = await self._open_visits()
        try:
            while True:
                if self._stays is None:
                    await self._watch_until_stop(begun)
                if visits.visit is not None:
                    begun += await self._receive(visits.visit)
                    continue
                stays, self._stays = self._stays, None
                if stays == STEP:
                    self.observer.phase("pinpoint", f"{self.request.pinpoint}, by stepping")
                    await self._answer("python probes.step()", _STEPPING_LIMIT)
                    await self._ask("-exec-continue")
                elif stays == FATAL:
                    last = self.seen.events[-1]
                    where = demangled(self.seen.probes[last.probe].symbol)
                    self._watch.end(Ending(False, f"the guest came to {where} and stopped there"))
                elif stays == FOUND:
                    assert self._plugin is not None
                    self._plugin.place(self._bases)
                    await self._ask("-exec-continue")
                else:
                    await self._blame_stop()
        finally:
            self.seen.timings["workload"] = time.monotonic() - begun
            visits.close("the trial has ended")
            (self.directory / SOCKETS).unlink(missing_ok=True)

    async def _open_visits(self) -> Visits:
        """Let others attach; what this leaves is gone when the workload has ended."""
        running = Running(self.directory, self._processes.directory)
        visits = Visits(running.attach, self.no_visits, self._monitor.stop)
        await visits.open()
        announce(running)
        return visits

    async def _stop_again(self) -> None:
        """See to it that gdb has the guest stopped, whatever it was left doing."""
        while any(
            thread["state"] == "running" for thread in (await self._ask("-thread-info"))["threads"]
        ):
            await self._watch.until(self._monitor.stop(), "QEMU's answer")
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_AGAIN):
                    await self._watch.until(self._gdb.stops.get(), "the guest's stop")

    async def _stop_for_visit(self, visits: Visits) -> None:
        """Stop the guest once somebody wants in, as often as it takes."""
        await visits.asked.wait()
        while True:
            # Where QEMU has gone, or goes, the trial hears of it elsewhere.
            with suppress(GuestError):
                await self._monitor.stop()
            await asyncio.sleep(STOP_AGAIN)

    async def _receive(self, visit: Visit) -> float:
        """Give gdb a second terminal, and wait until the visitor has left it.

        Returns:
            How many seconds that took: the guest's time does not count meanwhile.
        """
        assert self._visits is not None
        begun = time.monotonic()
        self.seen.disturbed = True
        self.seen.undisturbed = len(self.seen.events)
        self.observer.phase("attached", "somebody works in the guest")
        await self._run_in_gdb(f"file {quoted(str(self.prepared.symbols))}")
        await self._run_in_gdb("python from osvtriage.gdb.inside import visit")
        path = Running(self.directory, self._processes.directory).attach
        try:
            if not visit.over.done():
                await self._run_in_gdb(f"python visit.welcome({str(path)!r}, {visit.terminal!r})")
        except GdbError:
            # A gdb that has gone is found out next; else it is the terminal that has.
            visit.end(trial=False)
        visit.tell(attached=True)
        if await self._watch.until(visit.over, "the visitor's end"):
            self._watch.end(DISTURBED)
        await self._stop_again()
        # His breakpoints go with him; the probes' are internal, and stay.
        await self._run_in_gdb("delete")
        self._visits.leave()
        self._stays = None
        await self._ask("-exec-continue")
        self.observer.phase("workload", "the visitor has left")
        seconds = time.monotonic() - begun
        self._begun += seconds
        return seconds

    async def _watch_until_stop(self, begun: float) -> None:
        """Wait until gdb stops the guest, at most as long as the workload may run."""
        workload = self.request.recipe.workload
        limit, used = self._limit(workload.limit, begun)
        duration, elapsed = self.request.duration or workload.duration, time.monotonic() - begun
        at_limit = None
        if duration is not None and duration - elapsed <= limit - used:
            limit, used = duration, elapsed
            sentence = f"the guest still ran after {duration:g} s, and was ended"
            at_limit = Ending(True, sentence, endless=True)
        assert self._visits is not None
        stopping = asyncio.create_task(self._stop_for_visit(self._visits), name="visit")
        self._watch.guard(stopping)
        try:
            self._stop = await self._watch.until(
                self._gdb.stops.get(), "the workload's end", limit, used, at_limit
            )
        finally:
            stopping.cancel()
            await asyncio.wait([stopping])

    async def _blame_stop(self) -> None:
        """A stop that no probe asked for: something failed."""
        if self._refusal is not None:
            raise GuestError(self._refusal, "give the files that the guest has loaded")
        # QEMU's end looks like a stop to gdb, too.
        await self._watch.blame(
            GdbError(
                f"a probe failed inside gdb: {self._failure.strip().splitlines()[-1]}",
                "this is a defect of osvtriage; gdb.log in the run record has the traceback",
            )
            if self._failure
            else GdbError(
                f"gdb stopped the guest unasked: {self._stop.get('reason', 'no reason given')}",
                "gdb.log in the run record tells what came before; run it again",
            )
        )

    async def _drain(self) -> None:
        """Read what is left in the pipes."""
        with suppress(TimeoutError, OsvtriageError):
            async with asyncio.timeout(_DRAIN_LIMIT):
                # Its answer comes behind every event that gdb has written.
                await self._gdb.command("-gdb-set confirm off")
        with suppress(TimeoutError, OsvtriageError):
            async with asyncio.timeout(_DRAIN_LIMIT):
                if not self._monitor.shutdown.done():
                    await self._monitor.quit()
                if self._reading is not None:
                    await asyncio.wait([self._reading])

    async def _ask(self, command: str) -> Any:
        return await self._watch.until(self._gdb.command(command), "gdb's answer")

    async def _read_memory(self, address: int, size: int) -> bytes | None:
        return await self._watch.until(self._gdb.read_memory(address, size), "gdb's answer")

    async def _run_in_gdb(self, line: str) -> None:
        await self._watch.until(self._gdb.cli(line), "gdb's answer")

    async def _answer(self, line: str, limit: float) -> dict[str, Any]:
        """Run Python in gdb that lets the guest run, and wait for what it tells.

        gdb's own answer comes as soon as the guest runs for the first time.

        Raises:
            GdbError: it failed.
        """
        told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._told = told
        await self._run_in_gdb(line)
        answer = await self._watch.until(told, f"the end of `{line}`", limit)
        if self._failure is not None:
            await self._blame_stop()
        return answer

    def _tell(self, answer: dict[str, Any]) -> None:
        if self._told is not None and not self._told.done():
            self._told.set_result(answer)

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
        elif self._watch.trouble is None:
            self._watch.trouble = self._trouble(line)

    def _on_payload(self, said: PayloadLine) -> None:
        self.seen.payload.feed(said)
        self.observer.payload(said)

    def _on_console_line(self, line: str) -> None:
        """A line of the guest's console, before anything is made of it."""

    def _on_gdb_text(self, text: str) -> None:
        if text.startswith(EVENT_PREFIX):
            self._on_event(json.loads(text[len(EVENT_PREFIX) :]))
        elif text.startswith(FAILURE_PREFIX):
            self._failure = json.loads(text[len(FAILURE_PREFIX) :])
            self._tell({})
        elif text.startswith(REFUSAL_PREFIX):
            self._refusal = json.loads(text[len(REFUSAL_PREFIX) :])
        elif text.startswith(PROCESS_PREFIX):
            self._bases, self._stays = json.loads(text[len(PROCESS_PREFIX) :]), FOUND
        elif text.startswith(PINPOINT_PREFIX):
            found = json.loads(text[len(PINPOINT_PREFIX) :])
            self.seen.pinpoint = pinpoint.read(found, self._elf)
            self._tell(found)
        elif text.startswith(STACKS_PREFIX):
            self.seen.stacks = decode(StacksSeen, json.loads(text[len(STACKS_PREFIX) :]))
        elif text.startswith(ANSWER_PREFIX):
            self._tell(json.loads(text[len(ANSWER_PREFIX) :]))
        elif text.startswith("GNU gdb"):
            self.seen.gdb_version = text.strip()

    def _on_event(self, record: dict[str, Any]) -> None:
        hits, disarmed = record.pop("hits"), record.pop("disarmed")
        self._stays = record.pop("stays") or self._stays
        event = self._add_event(decode(Event, record))
        count = self.seen.probes[event.probe]
        count.hits, count.disarmed = hits, disarmed
        self.observer.probe(count)

    def _add_event(self, event: Event) -> Event:
        """Add an event of whatever engine, with names; they are numbered as they come."""
        frames = event.backtrace
        if (callee := self._callee(event.probe)) is not None:
            frames = (Frame(f"{callee:016x}"), *frames)
        event = replace(
            event,
            number=len(self.seen.events) + 1,
            backtrace=self._named(frames),
            threads=tuple(
                replace(thread, backtrace=self._named(thread.backtrace)) for thread in event.threads
            ),
        )
        self.seen.events.append(event)
        return event

    def _callee(self, probe: str) -> int | None:
        assert self.resolved is not None
        return self.resolved.callee(probe)

    def _named(self, frames: Iterable[Frame]) -> tuple[Frame, ...]:
        return tuple(self._elf.name_frame(frame) for frame in frames)
