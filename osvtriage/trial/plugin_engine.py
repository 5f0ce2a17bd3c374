"""The plugin engine: the probes of a trial that QEMU's plugin takes, so that nothing is stopped.

What it takes, gdb does not get; what it cannot take (a place where the guest is to stop, one in a
user process) stays with gdb. Either way the trial hears events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from osvtriage.arch import Arch
from osvtriage.checks import Needs
from osvtriage.model.errors import GuestError
from osvtriage.model.event import Event
from osvtriage.model.plan import GdbPlan
from osvtriage.plugin import build, obstacles
from osvtriage.plugin.captures import Captures, Compared, Samples
from osvtriage.plugin.memory import Memory
from osvtriage.plugin.process import Found, found
from osvtriage.plugin.shared import Counter, Record, RecordKind, Shared
from osvtriage.plugin.table import Table, Watch
from osvtriage.recipe.recipe import Recipe
from osvtriage.trial import checking
from osvtriage.trial.judge import ProbeCount

# The ring holds 1,700 records of 9 KB; that many are not written in a twentieth of a second.
_INTERVAL = 0.05
# As gdb's engine: spans that are looked at until one changes the register. A register that is saved
# and used and put back changes once in each function that does so.
_WATCHED_SPANS = 3
_CHANGES = 64
# Passages that may be under way at once: threads inside any of the probes; and children of one
# process between fork and its return, each of which takes half a megabyte for the lists.
_PASSAGES, _PROCESS_PASSAGES = 4096, 64


class PluginEngine:
    """QEMU's plugin, for one guest."""

    def __init__(
        self, plugin: Path, directory: Path, arch: Arch, on_event: Callable[[Event], object]
    ) -> None:
        """Make the file that the plugin writes to, in *directory*."""
        self._arch = arch
        self._on_event = on_event
        self._plugin = plugin
        self._shared = Shared(directory / "plugin")
        self._taken: list[Captures] = []
        # The guest's kernel, where backtraces look at code; it is read before the plugin is armed.
        self._code = Memory()
        self.wants_code: tuple[tuple[int, int], ...] = ()
        self._table: Table | None = None
        # What is in a user process that is not found yet, and what settles passages there.
        self._waiting: tuple[GdbPlan, Mapping[str, Compared | None]] | None = None
        # Of each probe, the samples of equal passages that came as events.
        self._samples: list[int] = []
        # Changes of the register that is looked for, of the span that is watched.
        self._changes: list[Record] = []
        self.pinpointed: dict[str, Any] | None = None

    @property
    def arguments(self) -> list[str]:
        """What QEMU's command line gets."""
        return build.argument(self._plugin, self._shared.path)

    def take(
        self,
        plan: GdbPlan,
        compared: Mapping[str, Compared | None],
        shown: Samples | None = None,
    ) -> tuple[GdbPlan, list[str]]:
        """Take the probes that the plugin can watch.

        Args:
            compared: by probe, what settles a passage; see :func:`compared_by`.

        Returns:
            The plan with the others, for gdb; and for each probe that stays, or is not seen whole,
            a sentence that says why.
        """
        left, wanted, notes = [], [], []
        for probe in plan.probes:
            if (why := obstacles.obstacle(plan, probe, self._arch)) is not None:
                left.append(probe)
                notes.append(f"probe {probe.name} is watched by gdb: {why}")
                continue
            wanted.append(probe)
            if hidden := obstacles.unseen(probe, self._arch):
                notes.append(f"the plugin sees of probe {probe.name} no {', '.join(hidden)}")
        mine = replace(plan, probes=tuple(wanted))
        rest = replace(plan, probes=tuple(left))
        if wanted and obstacles.in_process(wanted[0]):
            self._waiting = (mine, compared)
            return replace(rest, tells_process=True), notes
        if wanted and plan.orc is not None:
            self.wants_code = plan.orc.code
        self._make(mine, compared, shown)
        return rest, notes

    def give_code(self, address: int, content: bytes) -> None:
        """Part of the code that is wanted (``wants_code``), as it is in the guest."""
        self._code.add(address, content)

    def _make(
        self,
        plan: GdbPlan,
        compared: Mapping[str, Compared | None],
        shown: Samples | None = None,
        found: Found | None = None,
    ) -> None:
        """Make the table for all probes of *plan*."""
        registers: dict[str, int] = {}
        code = self._code
        self._taken = [
            Captures(plan, one, self._arch, compared.get(one.name), registers, shown, found, code)
            for one in plan.probes
        ]
        self._samples = [0] * len(self._taken)
        self._table = Table(
            registers=list(registers),
            probes=[one.probe_for_plugin() for one in self._taken],
            big_endian=self._arch.byte_order == "big",
            passages=_PASSAGES if found is None else _PROCESS_PASSAGES,
            watch=Watch(_WATCHED_SPANS, _CHANGES) if plan.pinpoint else None,
        )

    def drop(self) -> None:
        """Take nothing after all."""
        self._taken, self._waiting = [], None

    def arm(self) -> None:
        """Have the plugin watch from when the guest, which is stopped, is let go."""
        if self._taken:
            assert self._table is not None
            self._shared.arm(self._table)

    def place(self, bases: Mapping[str, int]) -> None:
        """Have the plugin watch the process that was found, whose modules are at *bases*."""
        assert self._waiting is not None
        plan, compared = self._waiting
        assert plan.process is not None
        self._make(plan, compared, found=found(plan.process, plan.probes, bases, self._arch))
        self.arm()

    async def follow(self) -> None:
        """Hand out events as they come, for ever.

        Raises:
            GuestError: the plugin cannot do what it was told.
        """
        while True:
            self.read()
            if (error := self._shared.error) is not None:
                raise GuestError(
                    f"QEMU's plugin cannot watch this guest: {error}",
                    "--engine gdb needs no plugin",
                )
            await asyncio.sleep(_INTERVAL)

    def read(self) -> None:
        """Hand out what has come until now; also when QEMU has ended, however it did."""
        for record in self._shared.records():
            self._read(record)

    def _read(self, record: Record) -> None:
        if record.kind is RecordKind.CHANGE:
            self._changes.append(record)
            return
        if record.kind is RecordKind.WATCHED:
            if self.pinpointed is None or self.pinpointed["culprit"] is None:
                self.pinpointed = self._taken[record.probe].pinpointed(self._changes, record)
            self._changes = []
            return
        if record.kind is not RecordKind.ENTRY and not record.words[3]:
            self._samples[record.probe] += 1
        for event in self._taken[record.probe].events(record):
            self._on_event(event)

    def count(self, counts: Mapping[str, ProbeCount]) -> dict[str, int]:
        """Write the plugin's counts into *counts*.

        Returns:
            By probe, the passages that were compared, found equal, and handed out as no events.
        """
        unchanged = {}
        for number, one in enumerate(self._taken):
            counters = self._shared.counters(number)
            count = counts[one.probe.name]
            count.hits = counters[Counter.HITS]
            if one.spans:
                count.passages = counters[Counter.PASSAGES]
                count.unseen = sum(
                    counters[what] for what in (Counter.UNSENT, Counter.DROPPED, Counter.LOST)
                )
                unchanged[one.probe.name] = counters[Counter.SAME] - self._samples[number]
            else:
                count.unseen = counters[Counter.DROPPED]
        return unchanged

    def counters(self) -> dict[str, Sequence[int]]:
        """By probe, its counters; see :class:`osvtriage.plugin.shared.Counter`."""
        return {
            one.probe.name: self._shared.counters(number) for number, one in enumerate(self._taken)
        }

    def close(self) -> None:
        """Give the file back, which goes with its directory."""
        self._shared.close()


def compared_by(recipe: Recipe, arch: Arch) -> dict[str, Compared | None]:
    """By probe, what settles a passage for every check; ``None`` where one wants to see each."""
    found: dict[str, list[Needs]] = {}
    for check in checking.build(recipe):
        for probe, needs in check.needs().items():
            found.setdefault(probe, []).append(needs)
    return {probe: _together(needs, arch) for probe, needs in found.items()}


def _together(needs: Sequence[Needs], arch: Arch) -> Compared | None:
    names: set[str] = set()
    for one in needs:
        if one.compared is None:
            return None
        names.update(arch.words_of(one.compared))
    # What settles a passage for one check must not hide it from another.
    return Compared(frozenset(names), needs[0].holds if len(needs) == 1 else None)
