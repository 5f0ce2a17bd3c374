"""A trial whose workload is steered: a fork at every instruction of a critical section."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from osvtriage.checks.interleave import interleaved
from osvtriage.images.places import cache_directory
from osvtriage.model.boundary import Boundary, Generation
from osvtriage.model.decode import decode
from osvtriage.model.errors import UsageError
from osvtriage.model.event import Frame
from osvtriage.model.finding import CheckResult
from osvtriage.model.lists import ListsSnapshot
from osvtriage.symbols import disassembly
from osvtriage.symbols.dwarf import lines
from osvtriage.symbols.glibc import Module
from osvtriage.trial import identity
from osvtriage.trial.journal import Journal
from osvtriage.trial.judge import Ending
from osvtriage.trial.record import InterventionRecord
from osvtriage.trial.scratch import with_snapshots
from osvtriage.trial.trial import Trial
from osvtriage.trial.user_process import open_modules

# Finding the process, the snapshot and the boundaries take 2 s; each boundary 0.3 s, and where a
# grandchild hangs some seconds more, until it was seen often enough. A busy host takes ten times
# that.
_PREPARING_LIMIT = 120.0
_BOUNDARY_LIMIT = 120.0
_LONGEST = 16
_HOLD = (
    ("hold", "at each boundary the thread's program counter was pointed at a `jmp .`"),
    ("write", "the variable that makes another thread fork was set to 1"),
)
_STEERING = {
    "recovery": _HOLD,
    "recovery-disabled": (*_HOLD, ("write", "in_flight_stack was overwritten with 0 in the child")),
}


class Interleaving(Trial):
    """A trial that forks at boundaries: all of them, or those that the request names."""

    steers = True

    def check(self) -> list[CheckResult]:
        """What became of the fork at each boundary."""
        self.observer.phase("check", f"{len(self.seen.boundaries)} boundaries")
        return [interleaved(self.seen.boundaries)]

    def interventions(self) -> list[InterventionRecord]:
        """What was done to the thread that is held, and to its process."""
        if not self.seen.boundaries:
            return []
        told = _STEERING[self.request.variant.interleave or "recovery"]
        return [InterventionRecord(stimulus=name, thread=None, what=what) for name, what in told]

    async def _start(self) -> None:
        boot, scratch = with_snapshots(self.prepared.boot, self.directory)
        self.prepared = replace(self.prepared, boot=boot)
        self._stack.callback(scratch.unlink)
        await super()._start()

    def _count_probes(self) -> None:
        """No probe is armed: the section itself is looked at."""

    async def _arm(self) -> None:
        self.observer.phase("arm", "the critical section")
        assert self.resolved is not None
        for sample in self.resolved.samples:
            identity.compare(sample, self._elf, await self._read_sample(sample))
        self._console.send("go")
        await self.run_in_gdb("python from osvtriage.gdb.inside import interleave")
        plan = str(self.directory / "probes.json")
        answer = await self._answer(f"python interleave.prepare({plan!r})", _PREPARING_LIMIT)
        self._boundaries = [(int(pc), int(nth)) for pc, nth in answer["boundaries"]]
        self._bases = dict(answer["bases"])

    async def _workload(self) -> None:
        assert self.prepared.files is not None
        with ExitStack() as opened:
            modules = list(open_modules(self.prepared.files, self.prepared.arch, opened))
            wanted = self._wanted(modules)
            self.observer.phase("workload", f"{len(wanted)} boundaries, a fork at each")
            journal = Journal(self._journal_path(), resume=self.request.steering.resume)
            with journal:
                for number, (pc, nth) in enumerate(wanted, 1):
                    name, *_ = self._described(pc, modules)
                    boundary = journal.done.get((name, nth))
                    told = f"{number} of {len(wanted)}, {name}"
                    self.observer.phase("boundary", f"{told}, done before" if boundary else told)
                    if boundary is None:
                        line = f"python interleave.replay({pc}, {nth})"
                        answer = await self._answer(line, _BOUNDARY_LIMIT)
                        boundary = self._boundary(pc, nth, answer, modules)
                        journal.add(boundary)
                    self.seen.boundaries.append(boundary)
                journal.remove()
        self.watch.end(Ending(True, "every boundary was forked at", endless=True))

    def _journal_path(self) -> Path:
        """A name for everything that the outcome of a boundary hangs on."""
        assert self.resolved is not None
        assert self.resolved.plan.process is not None
        files = {one.name: one.build_id for one in self.resolved.plan.process.modules}
        parts = (
            self.request.recipe.model_dump(mode="json"),
            self.request.variant.name,
            self.prepared.kernel.sha256,
            self.prepared.boot.append,
            self.prepared.boot.smp,
            files,
        )
        told = json.dumps(parts, sort_keys=True).encode()
        return cache_directory() / "interleavings" / f"{hashlib.sha256(told).hexdigest()}.jsonl"

    def _wanted(self, modules: list[Module]) -> list[tuple[int, int]]:
        """The boundaries to fork at.

        Raises:
            UsageError: the one that is asked for is none.
        """
        steering = self.request.steering
        if steering.boundary is None:
            return self._boundaries[: steering.limit]
        named = {
            f"{self._described(pc, modules)[0]}:{nth}": (pc, nth) for pc, nth in self._boundaries
        }
        name, _, nth = steering.boundary.partition(":")
        found = named.get(f"{name}:{nth or 0}")
        if found is None:
            raise UsageError(
                f"there is no boundary {steering.boundary!r} in the critical section",
                f"there are: {', '.join(key.removesuffix(':0') for key in named)}",
            )
        return [found]

    def _boundary(
        self, pc: int, nth: int, answer: dict[str, Any], modules: list[Module]
    ) -> Boundary:
        name, instruction, line = self._described(pc, modules)
        return Boundary(
            address=f"{pc:016x}",
            nth=nth,
            name=name,
            instruction=instruction,
            line=line,
            parent=decode(ListsSnapshot, answer["parent"]) if answer["parent"] else None,
            child=self._generation(answer["child"], modules),
            grandchild=self._generation(answer["grandchild"], modules),
        )

    def _generation(self, raw: dict[str, Any], modules: list[Module]) -> Generation:
        seen = decode(Generation, raw)
        if seen.hang is None:
            return seen
        return replace(seen, hang=tuple(self._frames(seen.hang, modules)))

    def _frames(self, frames: tuple[Frame, ...], modules: list[Module]) -> Iterator[Frame]:
        for frame in frames:
            module, base = self._module(int(frame.address, 16), modules)
            if module is None:
                yield replace(frame, kind="call")
                continue
            here = replace(frame, address=f"{int(frame.address, 16) - base:016x}")
            named = (module.debug or module.elf).name_frame(here)
            yield replace(named, address=frame.address)

    def _described(self, pc: int, modules: list[Module]) -> tuple[str, str | None, str | None]:
        module, base = self._module(pc, modules)
        if module is None:
            return f"0x{pc:x}", None, None
        code = module.elf.read(pc - base, _LONGEST)
        text = disassembly.disassemble(module.elf.arch, code, pc - base)[0].text
        symbols = module.debug or module.elf
        name = symbols.name_frame(Frame(f"{pc - base:016x}")).name
        line = lines(module.debug.path, [pc - base]).get(pc - base) if module.debug else None
        return name, text, line

    def _module(self, address: int, modules: list[Module]) -> tuple[Module | None, int]:
        for module in modules:
            base = self._bases.get(module.name)
            if base is None:
                continue
            for section in module.elf.sections:
                start = base + section.address
                if section.executable and start <= address < start + section.size:
                    return module, base
        return None, 0
