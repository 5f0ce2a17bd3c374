"""One run of a guest, from its first instruction to its end, with gdb attached."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

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
from osvtriage.model.decode import decode
from osvtriage.model.errors import GdbError, GuestError
from osvtriage.model.event import Event, Frame
from osvtriage.model.finding import CheckResult
from osvtriage.model.plan import GdbPlan
from osvtriage.model.stacks import StacksSeen
from osvtriage.symbols.demangle import demangled
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.layout import Sample
from osvtriage.trial import checking, high_water, identity, pinpoint
from osvtriage.trial.connected import Connected, Given
from osvtriage.trial.judge import Ending, ProbeCount
from osvtriage.trial.plugin_engine import PluginEngine, compared_by
from osvtriage.trial.reception import Reception
from osvtriage.trial.record import InterventionRecord
from osvtriage.trial.resolve import Resolved, resolve
from osvtriage.trial.seen import Seen
from osvtriage.trial.visit import Visit
from osvtriage.trial.watch import Over

# Stepping 100,000 instructions, 1,000 a second.
_STEPPING_LIMIT = 150.0


class Trial(Connected):
    """A trial: :meth:`run` it once, then ask it what it found.

    Attributes:
        steers: it does to the guest what plain gdb cannot repeat, and brings its own check.
    """

    steers: ClassVar[bool] = False
    # Why nobody can be let in while it runs, where that is so.
    no_visits: ClassVar[str | None] = None

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self.resolved: Resolved | None = None
        self._failure: str | None = None
        self._told: asyncio.Future[dict[str, Any]] | None = None
        self._refusal: str | None = None
        self._stays: str | None = None
        # Where the process that the plugin is to watch has its modules.
        self._bases: dict[str, int] = {}
        self._stop: Mapping[str, Any] = {}
        self._plugin: PluginEngine | None = None
        self._reception: Reception | None = None

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
                self.seen.ending = self.watch.ending()
            finally:
                self._count_plugin()
                self.seen.stops = self.monitor.stops
                self.seen.timings["stopped"] = self.monitor.stopped_seconds
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

    def _more_arguments(self) -> list[str]:
        if self.prepared.plugin is not None:
            self._plugin = PluginEngine(
                self.prepared.plugin,
                self._processes.directory,
                self.prepared.arch,
                self._add_event,
            )
            self._stack.callback(self._plugin.close)
            return self._plugin.arguments
        if self.prepared.no_plugin is not None:
            self.seen.engine_notes.append(f"gdb watches the probes: {self.prepared.no_plugin}")
        return []

    async def _prepare_gdb(self) -> None:
        for command in (
            "-gdb-set mi-async on",
            "-gdb-set confirm off",
            "-gdb-set pagination off",
            "-gdb-set auto-load off",
            # Left in place between stops, not taken out and put back at each.
            "-gdb-set breakpoint always-inserted on",
        ):
            await self.ask(command)
        for line in self.prepared.arch.gdb_setup:
            await self.run_in_gdb(line)
        await self._resolve_probes()
        # What makes the probes, which gdb's Python finds by path.
        package = str(Path(__file__).parents[2])
        await self.run_in_gdb(f"python import sys; sys.path.insert(0, {package!r})")
        await self.run_in_gdb("python from osvtriage.gdb.inside import probes")

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
        await self.watch.until(self.monitor.resume(), "QEMU's answer")
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

    async def _boot_until_function(self) -> None:
        """Boot under gdb until the function where the guest is armed."""
        await self._prepare_gdb()
        await self._attach_gdb()
        assert self.resolved is not None
        assert self.resolved.arm_address is not None
        await self._run_to(self.resolved.arm_address, f"{self.resolved.arm_at}()")
        self.seen.timings["boot"] = time.monotonic() - self._begun

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
        await self.run_in_gdb(f"python probes.arm({str(self.directory / 'probes.json')!r})")
        if self.request.stacks:
            assert self.resolved is not None
            await high_water.arm(self._elf, self.resolved, self.directory, self.run_in_gdb)
        if self._plugin is not None:
            for start, end in self._plugin.wants_code:
                # What is gone after the boot is no code that anything returns to.
                if await self._read_memory(start, 1) is not None:
                    code = await self._read_sample(Sample("code", start, end - start))
                    self._plugin.give_code(start, code or b"")
            self._plugin.arm()
            following = asyncio.create_task(self._plugin.follow(), name="plugin")
            self._stack.callback(following.cancel)
            self.watch.guard(following)
        await self.ask("-exec-continue")
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

    async def _workload(self) -> None:
        begun = time.monotonic()
        self.observer.phase("workload", self.request.variant.title)
        reception = self._reception = Reception(self, self.no_visits)
        await reception.open()
        try:
            while True:
                if self._stays is None:
                    await self._watch_until_stop(begun)
                if reception.visit is not None:
                    begun += await self._receive(reception.visit)
                    continue
                stays, self._stays = self._stays, None
                if stays == STEP:
                    self.observer.phase("pinpoint", f"{self.request.pinpoint}, by stepping")
                    await self._answer("python probes.step()", _STEPPING_LIMIT)
                    await self.ask("-exec-continue")
                elif stays == FATAL:
                    last = self.seen.events[-1]
                    where = demangled(self.seen.probes[last.probe].symbol)
                    self.watch.end(Ending(False, f"the guest came to {where} and stopped there"))
                elif stays == FOUND:
                    assert self._plugin is not None
                    self._plugin.place(self._bases)
                    await self.ask("-exec-continue")
                else:
                    await self._blame_stop()
        finally:
            self.seen.timings["workload"] = time.monotonic() - begun
            reception.close()

    async def _receive(self, visit: Visit) -> float:
        """Have a visitor, and go on; how many seconds he was there, which do not count."""
        assert self._reception is not None
        seconds = await self._reception.receive(visit)
        self._stays = None
        await self.ask("-exec-continue")
        self.observer.phase("workload", "the visitor has left")
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
        assert self._reception is not None
        stopping = asyncio.create_task(self._reception.stop_for_visit(), name="visit")
        self.watch.guard(stopping)
        try:
            self._stop = await self.watch.until(
                self.gdb.stops.get(), "the workload's end", limit, used, at_limit
            )
        finally:
            stopping.cancel()
            await asyncio.wait([stopping])

    async def _blame_stop(self) -> None:
        """A stop that no probe asked for: something failed."""
        if self._refusal is not None:
            raise GuestError(self._refusal, "give the files that the guest has loaded")
        # QEMU's end looks like a stop to gdb, too.
        await self.watch.blame(
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

    async def _answer(self, line: str, limit: float) -> dict[str, Any]:
        """Run Python in gdb that lets the guest run, and wait for what it tells.

        gdb's own answer comes as soon as the guest runs for the first time.

        Raises:
            GdbError: it failed.
        """
        told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._told = told
        await self.run_in_gdb(line)
        answer = await self.watch.until(told, f"the end of `{line}`", limit)
        if self._failure is not None:
            await self._blame_stop()
        return answer

    def _tell(self, answer: dict[str, Any]) -> None:
        if self._told is not None and not self._told.done():
            self._told.set_result(answer)

    # What is heard.

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
