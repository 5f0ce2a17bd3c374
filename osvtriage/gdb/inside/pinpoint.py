"""The first instruction of a span after which a register differs, found by stepping.

QEMU masks interrupts and timers while it steps (sstepbits 0x7), so what only a preemption does is
not seen this way; a thread that gives way by itself is followed through to its return.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import gdb

from osvtriage.gdb.inside import PINPOINT_PREFIX
from osvtriage.gdb.inside.guest import Guest
from osvtriage.model.event import Event

if TYPE_CHECKING:
    from osvtriage.gdb.inside.probes import Probe

# Instructions. A first malloc of 32 KiB on OSv takes some 2,000; a `rep movs` is as many as it
# has iterations. gdb steps about 1,000 a second.
_MOST_STEPS = 100_000
# Spans that are stepped until one changes the register.
_MOST_SPANS = 3


class Pinpoint:
    """The search for what changes *register*."""

    def __init__(self, register: str, guest: Callable[[], Guest]) -> None:
        self._register = register
        self._guest = guest
        self._spans = 0
        self._probe: Probe | None = None
        self._entry: Event | None = None
        self._found = False

    def begins(self, probe: Probe, entry: Event) -> bool:
        """Whether the span that begins now is to be stepped through."""
        if self._found or self._probe is not None or self._spans == _MOST_SPANS:
            return False
        self._spans += 1
        self._probe, self._entry = probe, entry
        return True

    def step(self) -> None:
        """Step to the span's end; tell what was found, and let the probe see its exit."""
        probe, entry = self._probe, self._entry
        assert probe is not None
        assert entry is not None
        self._probe = self._entry = None
        ends = set(probe.exits)
        guest = self._guest()
        cpu, before = guest.cpu, guest.register(self._register)
        pc = guest.integer(guest.arch.pc)
        culprit: dict[str, Any] | None = None
        steps = 0
        ended = False
        while not ended and steps < _MOST_STEPS:
            _step_one()
            steps += 1
            guest = self._guest()
            if guest.cpu != cpu:
                break
            last, pc = pc, guest.integer(guest.arch.pc)
            if culprit is not None and pc not in ends:
                continue
            # Another thread's exit is not the span's.
            if guest.identity(guest.current())[0] != entry.thread:
                continue
            ended = pc in ends
            after = guest.register(self._register)
            if culprit is None and after != before:
                frames = guest.backtrace(at_entry=False)
                culprit = {
                    "address": f"{last:016x}",
                    "after": after,
                    "backtrace": [asdict(frame) for frame in frames],
                }
        self._found = culprit is not None
        record = {
            "register": self._register,
            "probe": probe.plan.name,
            "pid": entry.thread.pid,
            "comm": entry.comm,
            "before": before,
            "steps": steps,
            "whole": ended,
            "at_exit": guest.register(self._register) if ended else None,
            "culprit": culprit,
        }
        gdb.write(PINPOINT_PREFIX + json.dumps(record, separators=(",", ":")) + "\n")


def _step_one() -> None:
    """Step one instruction. What probes wrote meanwhile, the span's own exit among them, gdb hands
    back with its own chatter."""
    for line in gdb.execute("stepi", to_string=True).splitlines(keepends=True):
        if line.startswith("osvtriage-"):
            gdb.write(line)
