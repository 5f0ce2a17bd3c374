"""How a guest died: the fault, the thread, and whether it is the doing of an overwritten stack."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from osvtriage.arch import Arch
from osvtriage.checks.base import Needs
from osvtriage.checks.stack import overwrites
from osvtriage.model.crash import crash_signature
from osvtriage.model.event import Event, Frame, source_name
from osvtriage.model.finding import CheckResult, Finding

OVERWRITTEN = "an overwritten stack"
OTHER = "another cause"

# No program is mapped in the first page: code that runs there came through a bad pointer.
_FIRST_PAGE = 0x1000
_PAGE_FAULT = "page fault"


@dataclass(frozen=True, slots=True)
class Crash:
    """The guest's kernel gives up, and why.

    The finding shows the recipe's bug where the fault is what became of an overwritten stack: its
    address or its program counter is a value that an overflow was seen to put into another thread's
    saved registers. Else it is a crash of another cause, for all that is known.

    Args:
        probe: the probe where the kernel gives up.
        stack: the probe that measures the stacks.
    """

    probe: str
    stack: str | None = None

    @property
    def unchanged(self) -> None:
        """There is none: every passage counts."""

    def needs(self) -> dict[str, Needs]:
        """What each probe must take for this check."""
        found = {self.probe: Needs(exit=False)}
        if self.stack is not None:
            found[self.stack] = Needs(stack=True)
        return found

    def __call__(self, arch: Arch, events: Sequence[Event]) -> CheckResult:
        """Judge the first passage of the probe: a kernel that gives up does so once."""
        deaths = [event for event in events if event.probe == self.probe and event.side == "entry"]
        if not deaths:
            return CheckResult("crash", 0, (), {})
        finding = self._finding(arch, deaths[0], events)
        kind = OVERWRITTEN if finding.shows_bug else OTHER
        return CheckResult("crash", 0, (finding,), Counter({kind: 1}))

    def _finding(self, arch: Arch, death: Event, events: Sequence[Event]) -> Finding:
        # The innermost: the one that the kernel gave up at.
        at = next((n for n, one in enumerate(death.backtrace) if one.kind == "exception"), None)
        fault = None if at is None else death.backtrace[at]
        cause = self._cause(fault, death, events)
        outer = death.backtrace if at is None else death.backtrace[at:]
        evidence: dict[str, Any] = {"events": [death.number]}
        if fault is not None and fault.registers is not None:
            evidence["exception"] = fault.note
            evidence["registers"] = dict(fault.registers)
            if "cr2" in death.registers and _what(fault) == _PAGE_FAULT:
                evidence["fault address"] = death.registers["cr2"]
        evidence |= cause
        return Finding(
            check="crash",
            title=self._title(fault, death),
            signature=crash_signature(_what(fault), outer),
            probe=self.probe,
            cpu=death.cpu,
            pid=death.thread.pid,
            comm=death.comm,
            expected={},
            seen={"pc": fault.address} if fault is not None else {},
            evidence=evidence,
            backtrace=death.backtrace,
            shows_bug="overwritten" in cause,
            threads=death.threads,
        )

    def _title(self, fault: Frame | None, death: Event) -> str:
        who = f"thread {death.thread.pid} ({death.comm})"
        if fault is None:
            callers = [source_name(one.function) for one in death.backtrace[1:] if one.function]
            return f"the guest's kernel gave up in {callers[0] if callers else '?'}; {who}"
        return f"the guest died of a {_what(fault)} at {fault.name}; {who}"

    def _cause(self, fault: Frame | None, death: Event, events: Sequence[Event]) -> dict[str, Any]:
        if fault is None:
            return {}
        there: set[str | None] = {fault.address}
        if _what(fault) == _PAGE_FAULT:
            there.add(death.registers.get("cr2"))
        # The same value lands in several threads' registers: that of the thread that died first.
        found = sorted(
            overwrites(events, self.stack or ""),
            key=lambda item: item.victim.thread != death.thread,
        )
        for item in found:
            if item.after in there:
                writer = item.writer
                by = f" by thread {writer.thread.pid} ({writer.comm})" if writer else ""
                whose = f"thread {item.victim.thread.pid} ({item.victim.comm})"
                return {
                    "cause": f"{item.before} at {item.address:016x}, in the saved registers of "
                    f"{whose}, was overwritten{by} with {item.after}",
                    "overwritten": {
                        "address": f"{item.address:016x}",
                        "before": item.before,
                        "after": item.after,
                        "of": {"pid": item.victim.thread.pid, "comm": item.victim.comm},
                        "by": writer and {"pid": writer.thread.pid, "comm": writer.comm},
                        "events": [item.victim.number, item.seen.number],
                    },
                }
        if int(fault.address, 16) < _FIRST_PAGE and int(fault.address, 16):
            return {
                "cause": "it looks like a return through an overwritten stack, for the program "
                f"counter is {int(fault.address, 16):#x}; no overflow was seen"
            }
        return {}


def _what(fault: Frame | None) -> str:
    """The exception's name, without what its error code says, and at which address it was."""
    return re.split(r"[,(]| at ", fault.note or "exception")[0].strip() if fault else "abort"
