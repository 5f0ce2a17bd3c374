"""Trials whose execution is recorded.

QEMU counts the guest's instructions and logs, by that count, all that reaches it from outside:
clocks, interrupts, what is typed, what a disk answers. By the log the same instructions are
executed again. Where gdb stops the guest is no part of it (measured: 43 events in a recording, and
replays without gdb that agree in every register at each). But nothing may be written into it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from osvtriage.guest.monitor import Monitor
from osvtriage.guest.qemu import Execution
from osvtriage.model.errors import GuestError, UsageError
from osvtriage.model.plan import GdbPlan
from osvtriage.trial.connected import Given
from osvtriage.trial.prepare import Prepared
from osvtriage.trial.request import Request
from osvtriage.trial.trial import Trial

# In the run record: QEMU's log, and every event's registers.
LOG, REGISTERS = "execution.rr", "registers.jsonl"
AGAIN = "`osvtriage run RECIPE --record` makes another recording"
# QEMU completes its log when it ends, which takes 0.1 s.
_END_LIMIT = 10.0
# For how long no instruction is executed where a replay has come to a standstill: an idle guest
# has a timer long before.
_STILL = 60.0


@dataclass(frozen=True, slots=True)
class Stand:
    """The machine at an event, or (0) where the probes were armed: how many instructions were
    executed, and every vCPU's registers as QEMU prints them, a line each.

    Where the probes were armed, none: what is typed next interrupts the guest at that very count,
    and a replay stops there before the interrupt or behind it (measured: of one recording, either).
    """

    event: int
    instructions: int
    registers: tuple[str, ...]


def lines(text: str) -> tuple[str, ...]:
    """What QEMU's monitor said, line by line, whichever way it came."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def write_stands(path: Path, stands: Iterable[Stand]) -> None:
    """Write *stands* into the file *path*, one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for stand in stands:
            file.write(json.dumps(asdict(stand)) + "\n")


def require_recordable(request: Request, prepared: Prepared) -> None:
    """See that the execution of this guest can be recorded.

    Raises:
        UsageError: it cannot.
    """
    recipe, variant = request.recipe, request.variant
    painted = [probe.name for probe in recipe.probe if probe.stack]
    why = None
    if prepared.accelerator.name != "tcg":
        why = "QEMU counts instructions under TCG alone"
    elif variant.interleave or recipe.sweep or recipe.context:
        why = f"the variant {variant.name!r} steers its guest, which no replay repeats"
    elif painted:
        why = f"the probe {painted[0]!r} fills the guest's stacks, which a replay must not"
    elif request.stacks:
        why = "--stacks looks at the guest after its last instruction"
    elif request.pinpoint is not None:
        why = "--pinpoint steps, which the recording would take for the guest's own pace"
    if why is not None:
        raise UsageError(f"this run cannot be recorded: {why}", "it can be run without --record")


class Recorded(Trial):
    """A trial whose execution is recorded.

    Attributes:
        armed_at: how many instructions the guest had executed where the probes were armed.
        stands: the machine there, and at every event in their order.
        log: QEMU's log, whole once the trial has been run.
    """

    no_visits = "its execution is being recorded, and what a visitor writes would not be in it"

    def __init__(self, given: Given) -> None:
        self.log = given.directory / LOG
        super().__init__(logged(given, Execution("record", self.log)))
        self.armed_at = 0
        self.stands: list[Stand] = []

    @property
    def switched_off(self) -> bool:
        """Whether the guest ended by itself: the log then has its end."""
        shutdown = self.monitor.shutdown
        return shutdown.done() and shutdown.result().guest

    def _share_probes(self, plan: GdbPlan) -> GdbPlan:
        return super()._share_probes(replace(plan, counted=True))

    async def _compare_code(self) -> None:
        self.armed_at = await self.watch.until(self.monitor.instructions(), "QEMU's answer")
        self.stands.append(Stand(0, self.armed_at, ()))
        await super()._compare_code()

    def _on_event(self, record: dict[str, Any]) -> None:
        registers = lines(record.pop("all_registers"))
        super()._on_event(record)
        event = self.seen.events[-1]
        assert event.instructions is not None
        self.stands.append(Stand(event.number, event.instructions, registers))

    async def _drain(self) -> None:
        await super()._drain()
        await asyncio.wait([self._qemu.ended], timeout=_END_LIMIT)


async def unless_still(monitor: Monitor, awaitable: Awaitable[Any]) -> None:
    """Wait for *awaitable* while a guest is replayed.

    QEMU's threads can come to wait for each other, all busy (7.2 and 10.0 on x86-64,
    measured: each of five replays, between events 37 and 300 of 400).

    Raises:
        GuestError: for a minute the guest has executed nothing.
    """
    wanted = asyncio.ensure_future(awaitable)
    done = -1
    try:
        while not wanted.done():
            before, seen = done, -1
            with suppress(TimeoutError):
                seen = done = await asyncio.wait_for(monitor.instructions(), _STILL)
            if seen in (before, -1):
                raise GuestError(f"QEMU came to a standstill after {done} instructions", AGAIN)
            await asyncio.wait([wanted], timeout=_STILL)
    finally:
        wanted.cancel()
        await asyncio.wait([wanted])
    wanted.result()


def logged(given: Given, execution: Execution) -> Given:
    """*given*, with the log of the execution."""
    boot = replace(given.prepared.boot, execution=execution)
    return replace(given, prepared=replace(given.prepared, boot=boot))
