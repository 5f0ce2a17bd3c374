"""A trial whose workload is one access again and again, with RSP around a kernel stack's end."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from osvtriage.arch.x86_exceptions import FRAME_BYTES
from osvtriage.checks.overflow import overflowed
from osvtriage.guest import interrupt_log
from osvtriage.model.decode import decode
from osvtriage.model.errors import GuestError
from osvtriage.model.event import Frame
from osvtriage.model.finding import CheckResult
from osvtriage.model.overflow import Case, CaseSeen, Gate, KernelStack, OverflowPlan, OverflowSeen
from osvtriage.model.stacks import StacksSeen
from osvtriage.recipe.recipe import Sweep, Variant
from osvtriage.stimuli import sweep_rsp
from osvtriage.symbols import accesses
from osvtriage.symbols.btf import Btf
from osvtriage.symbols.layout import Sample
from osvtriage.symbols.layouts import LAYOUTS
from osvtriage.symbols.linux_stacks import stack_bytes
from osvtriage.trial import high_water, identity
from osvtriage.trial.judge import Ending
from osvtriage.trial.record import InterventionRecord
from osvtriage.trial.scratch import with_snapshots
from osvtriage.trial.trial import Trial

# Finding a task takes a second or two, the snapshot and the measurement 0.5 s, and each case 0.13 s
# on an idle machine. gdb itself gives up after 100 s each; a busy one may then be slow to say so.
_PREPARING_LIMIT = 300.0
_CASE_LIMIT = 150.0
# Progress is told every so many cases, somewhat more than a second.
_TOLD = 12


class Overflow(Trial):
    """A trial that moves RSP as the recipe's ``[sweep]`` says."""

    steers = True

    def check(self) -> list[CheckResult]:
        """Whether every access came to what was predicted; nothing where none was tried."""
        if self.seen.overflow is None:
            return []
        self.observer.phase("check", f"{len(self.seen.overflow.cases)} accesses")
        return [overflowed(self.seen.overflow, frame_bytes(self.request.variant))]

    def interventions(self) -> list[InterventionRecord]:
        """What was done to the task whose stack it is."""
        if (sweep := self.seen.overflow) is None:
            return []
        ist = self.request.variant.page_fault_ist
        return [
            InterventionRecord(
                stimulus=stimulus, thread=f"{sweep.comm}, pid {sweep.pid}", what=what
            )
            for stimulus, what in sweep_rsp.told(len(sweep.cases), sweep.sites, ist)
        ]

    @property
    def _sweep(self) -> Sweep:
        assert self.request.recipe.sweep is not None
        return self.request.recipe.sweep

    async def _start(self) -> None:
        boot, scratch = with_snapshots(self.prepared.boot, self.directory)
        self.prepared = replace(self.prepared, boot=boot)
        self._stack.callback(scratch.unlink)
        await super()._start()

    async def _resolve_probes(self) -> None:
        await super()._resolve_probes()
        assert self.resolved is not None
        elf = self._elf
        layout = LAYOUTS[self.request.recipe.system](elf)
        types = Btf.of(elf)
        entries = {probe.name: probe.entries[0] for probe in self.resolved.plan.probes}
        assert self.resolved.sleep_address is not None
        self._plan = OverflowPlan(
            stop_at=self.resolved.sleep_address,
            page_fault=entries[self._sweep.page_fault],
            double_fault=entries[self._sweep.double_fault],
            stack=layout.fields["stack"],
            stack_bytes=stack_bytes(elf),
            pt_regs={name: types.member("pt_regs", name)[0] for name in ("ip", "sp")},
            sites=accesses.sites(elf, layout.rewritten),
            page_fault_ist=self.request.variant.page_fault_ist,
        )
        (self.directory / "sweep.json").write_text(self._plan.to_json(), encoding="utf-8")

    async def _arm(self) -> None:
        begun = time.monotonic()
        self.observer.phase("arm", "a task's stack")
        assert self.resolved is not None
        code = [Sample("access", site.address, site.size) for site in self._plan.sites]
        for sample in (*self.resolved.samples, *code):
            identity.compare(sample, self._elf, await self._read_sample(sample))
        if self.request.stacks:
            await high_water.load(self._elf, self.resolved, self.directory, self.run_in_gdb)
            answer = await self._answer("python high_water.tasks()", _PREPARING_LIMIT)
            self.seen.stacks = decode(StacksSeen, answer)
        self._console.send("go")
        await self.run_in_gdb("python from osvtriage.gdb.inside import overflow")
        plans = (str(self.directory / name) for name in ("probes.json", "sweep.json"))
        line = f"python overflow.prepare({', '.join(map(repr, plans))})"
        self._found = await self._fit(line, _PREPARING_LIMIT)
        # QEMU gets a short path of osvtriage's own: it takes no other characters in it.
        self._log = self._processes.directory / "interrupts"
        await self.run_in_gdb(f"python overflow.log_interrupts({str(self._log)!r})")
        self.seen.timings["arm"] = time.monotonic() - begun

    async def _fit(self, line: str, limit: float) -> dict[str, Any]:
        answer = await self._answer(line, limit)
        if "unfit" in answer:
            raise GuestError(
                f"RSP cannot be swept in this guest: {answer['unfit']}",
                "gdb.log in the run record has the whole conversation",
            )
        if "astray" in answer:
            self.watch.end(Ending(False, f"the guest went elsewhere: {answer['astray']}"))
        return answer

    async def _workload(self) -> None:
        begun = time.monotonic()
        found = self._found
        stack = decode(KernelStack, found["stack"])
        wanted = sweep_rsp.cases(stack, self._sweep.accesses, found["handler_bytes"])
        seen = OverflowSeen(
            pid=found["pid"],
            comm=found["comm"],
            stack=stack,
            gates=tuple(decode(Gate, gate) for gate in found["gates"]),
            sites=self._plan.sites,
            handler_bytes=found["handler_bytes"],
            cases=(),
        )
        self.observer.phase("workload", f"{len(wanted)} accesses from one snapshot")
        cases: list[CaseSeen] = []
        try:
            for number, case in enumerate(wanted, 1):
                if number % _TOLD == 1:
                    offset = case.rsp - stack.base
                    what = f"{number} of {len(wanted)}, {case.access} with RSP at {offset:+d}"
                    self.observer.phase("case", what)
                cases.append(await self._try(case))
        finally:
            self.seen.overflow = self._with_names(replace(seen, cases=tuple(cases)))
            self.seen.timings["workload"] = time.monotonic() - begun
            if self._log.exists():
                shutil.copyfile(self._log, self.directory / "interrupts.log")
        self.watch.end(Ending(True, "every access was tried", endless=True))

    def _with_names(self, seen: OverflowSeen) -> OverflowSeen:
        addresses = {gate.handler for gate in seen.gates} | {site.address for site in seen.sites}
        addresses |= {case.rip for case in seen.cases}
        names = {at: self._elf.name_frame(Frame(f"{at:016x}")).name for at in addresses}
        return replace(seen, names=names)

    async def _try(self, case: Case) -> CaseSeen:
        before = _size(self._log)
        line = f"python overflow.case({case.access!r}, {case.rsp}, {case.address})"
        answer = await self._fit(line, _CASE_LIMIT)
        for name, stop in (
            (self._sweep.page_fault, "page-fault"),
            (self._sweep.double_fault, "double-fault"),
        ):
            if answer["stop"] == stop:
                self.seen.probes[name].hits += 1
                self.observer.probe(self.seen.probes[name])
        # It writes a line whole, before the guest comes to the next instruction.
        with self._log.open("rb") as file:
            file.seek(before)
            text = file.read().decode("utf-8", "replace")
        return CaseSeen(
            case=case,
            stop=answer["stop"],
            rip=answer["rip"],
            rsp=answer["rsp"],
            cr2=answer["cr2"],
            error=answer["error"],
            interrupts=tuple(interrupt_log.parse(text)),
        )


def frame_bytes(variant: Variant) -> int:
    """The exception frame's size that a sweep is predicted by."""
    return variant.frame_bytes or FRAME_BYTES


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
