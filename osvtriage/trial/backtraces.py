"""A trial that brings a guest to places in its kernel, and compares backtraces with an oracle's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from osvtriage.checks.backtrace import compared
from osvtriage.consoles import payload as payload_console
from osvtriage.consoles.linux_dump import Dump, Dumps
from osvtriage.model.context import Comparison
from osvtriage.model.decode import decode
from osvtriage.model.errors import GuestError
from osvtriage.model.event import Frame
from osvtriage.model.finding import CheckResult
from osvtriage.recipe.recipe import Context
from osvtriage.symbols.layout import Sample
from osvtriage.trial import identity
from osvtriage.trial.connected import BOOT_LIMIT
from osvtriage.trial.judge import Ending, ProbeCount
from osvtriage.trial.record import InterventionRecord
from osvtriage.trial.scratch import with_snapshots
from osvtriage.trial.trial import Trial

# A visit takes a second: the workload comes by at once, and a snapshot of the guest is written and
# read. A busy host takes ten times that, and a place that only others come to is left after a
# minute.
_VISIT_LIMIT = 240.0
_PREPARING_LIMIT = 60.0
# The console is read all the time: what the payload has printed is there before a breakpoint
# behind that was hit, or a moment later.
_CONSOLE_LIMIT = 30.0
# The file of the run record with what the kernel prints on the second serial port, COM2 of a PC. It
# has one `console=` of a kind only, so that is the port of its boot console, which is kept
# (Documentation/admin-guide/kernel-parameters.txt).
_LOG, _LOG_PORT = "kernel.log", "earlycon=uart8250,io,0x2f8 keep_bootcon"
_KERNEL, _PROGRAM = "the kernel's own", "what the processor pushed"
# What SYSENTER enters in a 32-bit program: arch/x86/entry/entry_64_compat.S.
_SYSENTER = "entry_SYSENTER_compat"


@dataclass(frozen=True, slots=True)
class _Program:
    """What the payload says of its 32-bit program: where it keeps the address that the kernel
    returns to, and its stack pointer when it executes SYSENTER."""

    variable: int
    rsp: int


class Backtraces(Trial):
    """A trial that visits the contexts of its recipe, one after the other."""

    steers = True

    def check(self) -> list[CheckResult]:
        """Whether our backtraces are the oracle's."""
        self.observer.phase("check", f"{len(self.seen.comparisons)} contexts")
        return [compared(self.seen.comparisons)]

    def interventions(self) -> list[InterventionRecord]:
        """What was done to have the kernel print its own."""
        if not any(one.stacks for one in self.seen.comparisons):
            return []
        what = "at each context rip was set to dump_stack(), on a snapshot that was loaded again"
        return [InterventionRecord(stimulus="call", thread=None, what=what)]

    async def _start(self) -> None:
        # SYSENTER from 32-bit programs is Intel's alone: target/i386/tcg/translate.c.
        cpu = f"{self.prepared.boot.cpu},vendor=GenuineIntel"
        boot, scratch = with_snapshots(self.prepared.boot, self.directory)
        self._stack.callback(scratch.unlink)
        self._second_log = self.directory / _LOG
        append = f"{_LOG_PORT} {boot.append}"
        self.prepared = replace(self.prepared, boot=replace(boot, cpu=cpu, append=append))
        self._program: asyncio.Future[_Program]
        self._program = asyncio.get_running_loop().create_future()
        self._slide = self._read_until = 0
        await super()._start()

    def _count_probes(self) -> None:
        for context in self.request.recipe.context:
            count = ProbeCount(context.name, context.function, (), required=1)
            self.seen.probes[context.name] = count

    async def _boot_until_ready(self) -> None:
        """As any trial, but the kernel is looked for before anything is read at its addresses."""
        await self.watch.until(self.monitor.resume(), "QEMU's answer")
        await self._prepare_gdb()
        limit = self._limit(BOOT_LIMIT, self._begun)
        await self.watch.until(self._ready.wait(), "user space", *limit)
        await self._attach_gdb()
        await self.run_in_gdb("python from osvtriage.gdb.inside import contexts")
        plan = str(self.directory / "probes.json")
        line = f"python contexts.prepare({plan!r}, {str(self._second_log)!r})"
        found = await self._answer(line, _PREPARING_LIMIT)
        self._slide = int(found["slide"])

    async def _read_sample(self, sample: Sample) -> bytes | None:
        return await super()._read_sample(replace(sample, address=sample.address + self._slide))

    async def _arm(self) -> None:
        self.observer.phase("arm", f"the kernel is {self._slide:#x} above its file's place")
        assert self.resolved is not None
        for sample in self.resolved.samples:
            identity.compare(sample, self._elf, await self._read_sample(sample))
        self._console.send("go")

    async def _workload(self) -> None:
        contexts = self.request.recipe.context
        for number, context in enumerate(contexts, 1):
            self.observer.phase("context", f"{number} of {len(contexts)}, {context.name}")
            await self._visit(context)
        self.watch.end(Ending(True, "every context was visited", endless=True))

    async def _visit(self, context: Context) -> None:
        program = None
        if "program" in context.oracle:
            # Its addresses are on the console before the first of its system calls.
            program = await self.watch.until(
                self._program, "the payload's addresses", _CONSOLE_LIMIT
            )
        variable = None if program is None else program.variable
        line = f"python contexts.visit({context.name!r}, {variable})"
        seen = await self._answer(line, _VISIT_LIMIT)
        count = self.seen.probes[context.name]
        if seen["missed"] is not None:
            count.note = str(seen["missed"])
            return
        count.hits, count.addresses = 1, (seen["address"],)
        self.observer.probe(count)
        made = Comparison(
            context=context.name,
            address=seen["address"],
            cpu=seen["cpu"],
            pid=seen["pid"],
            comm=seen["comm"],
            ours=self._placed(decode(Frame, frame) for frame in seen["frames"]),
            oracle=_PROGRAM,
            theirs=(),
        )
        if "kernel" in context.oracle:
            dump = self._last_dump()
            made = replace(made, oracle=_KERNEL, theirs=dump.frames, stacks=dump.stacks)
        else:
            (interrupted,) = self._placed([Frame(f"{seen['pushed'][0] or 0:016x}")])
            if interrupted.function != _SYSENTER:
                raise GuestError(
                    f"the guest came to {context.function} from {interrupted.name}, not from "
                    f"{_SYSENTER}",
                    "run it again; comparisons.jsonl in the run record has what was seen before",
                )
            made = replace(made, theirs=(f"{context.function}+0x0", interrupted.name))
        if program is not None:
            made = replace(made, expected=self._expected(context, program, seen))
        self.seen.comparisons.append(made)

    def _expected(
        self, context: Context, program: _Program, seen: Mapping[str, Any]
    ) -> dict[str, str]:
        """What the outermost frame's registers are by what the program knows of itself.

        In the kernel's first instructions behind SYSENTER nothing has saved them yet: there RIP and
        RSP are what the processor pushed, and RBP has the program's stack pointer, by the calling
        convention.
        """
        if "kernel" in context.oracle:
            return {"rip": f"{seen['word'] or 0:016x}", "rsp": f"{program.rsp:016x}"}
        if seen["registers"]["rbp"] != f"{program.rsp:016x}":
            raise GuestError(
                f"the guest came to {context.function} in another program than the payload's",
                "run it again; console.log in the run record has what the payload printed",
            )
        rip, _, _, rsp = (f"{word or 0:016x}" for word in seen["pushed"])
        return {"rip": rip, "rsp": rsp}

    def _last_dump(self) -> Dump:
        """The dump that the kernel has just printed: it is in the file before the guest stops."""
        log = self.directory / _LOG
        with log.open("rb") as file:
            file.seek(self._read_until)
            new = file.read()
        self._read_until += len(new)
        dumps, last = Dumps(), None
        for line in new.decode("utf-8", "replace").split("\n"):
            last = dumps.feed(line.rstrip("\r")) or last
        if last is None:
            raise GuestError(
                "the guest's kernel printed no backtrace of its own",
                f"{_LOG} in the run record has what it printed",
            )
        return last

    def _placed(self, frames: Iterable[Frame]) -> tuple[Frame, ...]:
        """Frames with names; those of the kernel are looked up where its file has them."""
        return tuple(self._name(frame) for frame in frames)

    def _name(self, frame: Frame) -> Frame:
        there = int(frame.address, 16)
        if frame.function is not None or there < self._slide:
            return self._elf.name_frame(frame)
        named = self._elf.name_frame(replace(frame, address=f"{there - self._slide:016x}"))
        return replace(named, address=frame.address)

    def _on_console_line(self, line: str) -> None:
        said = payload_console.parse(line)
        if said is not None and said.event == "start" and not self._program.done():
            values = said.values
            try:
                words = _Program(int(values["variable"], 16), int(values["rsp"], 16))
            except (KeyError, ValueError):
                return
            self._program.set_result(words)
