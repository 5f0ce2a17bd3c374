"""Checks of the floating-point and vector registers of powerpc's FPU save routines.

Source: the linuxppc-dev thread of November 2023 behind commit 5e1d824f9a28, "powerpc: Don't clobber
f0/vs0 during fp|altivec register save".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from osvtriage.arch import Arch
from osvtriage.checks.base import Needs
from osvtriage.model.event import Event, Span, road, spans
from osvtriage.model.finding import CheckResult, Finding

# Classes of fp-clobber.
PRESERVED = "preserved"
RELOADED = "changed, but reloaded before user space runs"
CLOBBERED = "clobbered"
UNREADABLE = "unreadable"

# Classes of giveup-conditions.
HARMLESS = "harmless save"
INDISTINCT = "indistinct"
SETTLED = "harmless or indistinct"
ALREADY_CORRUPTED = "already corrupted task"
DAMAGING = "damaging save"


@dataclass(frozen=True, slots=True)
class FpClobber:
    """A register differs between entry and return of a save, and user space goes on with it.

    User space does so when the MSR bit of that register file is set in the task's saved MSR and in
    the live one: then nothing is reloaded on the way out.

    Args:
        probe: the probe whose spans are looked at.
        register: the live register that must be the same at both sides.
        status: the status register that the routine moves through it, shown as evidence.
        live: the MSR bit that says that the registers are the user's (FP, VEC).
    """

    probe: str
    register: str
    status: str
    live: str

    @property
    def unchanged(self) -> str:
        """The class of a passage that leaves the register as it was."""
        return PRESERVED

    def needs(self) -> dict[str, Needs]:
        """What each probe must take for this check."""
        return {
            self.probe: Needs(
                (self.register, self.status, "msr"),
                ("thread.regs.msr",),
                msr_bit=self.live,
                compared=(self.register,),
            )
        }

    def __call__(self, arch: Arch, events: Sequence[Event]) -> CheckResult:
        """Judge every span of the probe."""
        classes: Counter[str] = Counter()
        findings: list[Finding] = []
        examined = spans(events, self.probe)
        for span in examined:
            kind = self.classify(arch, span)
            classes[kind] += 1
            if kind == CLOBBERED:
                findings.append(self._finding(arch, span))
        return CheckResult("fp-clobber", len(examined), tuple(findings), classes)

    def classify(self, arch: Arch, span: Span) -> str:
        """The class of one span."""
        before = span.entry.registers.get(self.register)
        after = span.exit.registers.get(self.register)
        if before is None or after is None:
            return UNREADABLE
        if before == after:
            return PRESERVED
        live = _goes_on_live(arch, self.live, span.exit)
        if live is None:
            return UNREADABLE
        return CLOBBERED if live else RELOADED

    def _finding(self, arch: Arch, span: Span) -> Finding:
        before, after = span.entry.registers[self.register], span.exit.registers[self.register]
        status = span.exit.registers.get(self.status)
        assert before is not None
        assert after is not None
        holds_status = status is not None and _holds(after, status)
        what = f"now holds the {self.status.upper()}" if holds_status else "changed"
        return Finding(
            check="fp-clobber",
            title=f"{self.register} {what} after {self.probe}, and user space goes on with it",
            signature=f"fp-clobber:{self.register}:{road(span.entry.backtrace)}",
            probe=self.probe,
            cpu=span.exit.cpu,
            pid=span.exit.thread.pid,
            comm=span.exit.comm,
            expected={self.register: before},
            seen={self.register: after},
            evidence={
                self.status: status,
                f"{self.register} holds {self.status}": holds_status,
                "live msr": span.exit.registers.get("msr"),
                "saved msr": span.exit.fields.get("thread.regs.msr"),
                f"MSR_{self.live} in both": True,
                "before": dict(span.entry.fields),
                "after": dict(span.exit.fields),
                "events": [span.entry.number, span.exit.number],
            },
            backtrace=span.entry.backtrace,
        )


@dataclass(frozen=True, slots=True)
class GiveupConditions:
    """The thread's three conditions at ``__giveup_fpu``, evaluated literally, with their class.

    (1) ``thread.fp_state.fpr`` does not hold the FPSCR before the save, (2) it does after it, and
    (3) MSR_FP is set in the task's saved MSR and in the live one. They are necessary, not
    sufficient: with FPSCR = 0 and a task whose f0 becomes 0.0 they hold on a fixed kernel. So they
    are a finding only where the save itself put the FPSCR into the slot, or where an earlier
    damaging save of the same task was seen; all else that meets them is *indistinct*.

    Args:
        probe: the probe at ``__giveup_fpu``, whose exit follows the save.
        after: the probe whose clobbers count as earlier damage.
    """

    probe: str
    after: str
    register: str = "vs0"
    status: str = "fpscr"
    slot: str = "thread.fp_state.fpr[0]"
    live: str = "FP"

    @property
    def unchanged(self) -> str:
        """The class of a passage that leaves the slot as it was, or without an FPSCR in it."""
        return SETTLED

    def needs(self) -> dict[str, Needs]:
        """What each probe must take for this check."""
        registers = (self.register, self.status, "msr")
        # Conditions (1) and (2) do not both hold where the slot stays as it is; FPSCR = 0 is never
        # a finding.
        return {
            self.probe: Needs(
                registers,
                (self.slot, "thread.regs.msr"),
                msr_bit=self.live,
                compared=(self.slot,),
                holds=(self.slot, self.status),
            ),
            self.after: Needs(
                registers, ("thread.regs.msr",), msr_bit=self.live, compared=(self.register,)
            ),
        }

    def __call__(self, arch: Arch, events: Sequence[Event]) -> CheckResult:
        """Judge every span of the probe, in the order in which they happened."""
        clobber = FpClobber(self.after, self.register, self.status, self.live)
        damaged = {
            span.exit.thread: span.exit.number
            for span in reversed(spans(events, self.after))
            if clobber.classify(arch, span) == CLOBBERED
        }
        classes: Counter[str] = Counter()
        findings: list[Finding] = []
        examined = spans(events, self.probe)
        for span in examined:
            conditions = self.conditions(arch, span)
            first = damaged.get(span.entry.thread)
            earlier = first if first is not None and first < span.entry.number else None
            kind = self._class(span, conditions, earlier)
            classes[kind] += 1
            if kind in (ALREADY_CORRUPTED, DAMAGING):
                findings.append(self._finding(span, conditions, kind, earlier))
        return CheckResult("giveup-conditions", len(examined), tuple(findings), classes)

    def conditions(self, arch: Arch, span: Span) -> dict[str, bool | None]:
        """The three conditions; ``None`` where something could not be read."""
        status = span.entry.registers.get(self.status)
        before, after = span.entry.fields.get(self.slot), span.exit.fields.get(self.slot)
        if status is None or before is None or after is None:
            return {"(1)": None, "(2)": None, "(3)": None}
        return {
            "(1)": not _holds(before, status),
            "(2)": _holds(after, status),
            "(3)": _goes_on_live(arch, self.live, span.entry),
        }

    def _class(self, span: Span, conditions: Mapping[str, bool | None], earlier: int | None) -> str:
        if False in conditions.values():
            return HARMLESS
        if None in conditions.values():
            return UNREADABLE
        status, register = span.entry.registers[self.status], span.entry.registers[self.register]
        assert status is not None
        if int(status, 16) == 0 or register is None:
            return INDISTINCT
        if not _holds(register, status):
            return DAMAGING
        return INDISTINCT if earlier is None else ALREADY_CORRUPTED

    def _finding(
        self,
        span: Span,
        conditions: Mapping[str, bool | None],
        kind: str,
        earlier: int | None,
    ) -> Finding:
        status = span.entry.registers[self.status]
        before, after = span.entry.fields[self.slot], span.exit.fields[self.slot]
        assert status is not None
        assert before is not None
        assert after is not None
        return Finding(
            check="giveup-conditions",
            title=f"{self.probe}: the three conditions hold: {kind}",
            signature=f"giveup-conditions:{kind.replace(' ', '-')}:{self.probe}",
            probe=self.probe,
            cpu=span.entry.cpu,
            pid=span.entry.thread.pid,
            comm=span.entry.comm,
            expected={self.slot: before},
            seen={self.slot: after},
            evidence={
                self.status: status,
                "conditions": dict(conditions),
                "class": kind,
                f"live {self.register} at entry": span.entry.registers.get(self.register),
                "live msr": span.entry.registers.get("msr"),
                "saved msr": span.entry.fields.get("thread.regs.msr"),
                "earlier damaging save": earlier,
                "events": [span.entry.number, span.exit.number],
            },
            backtrace=span.entry.backtrace,
        )


def _holds(register: str, status: str) -> bool:
    """Whether the FPR or VR holds the status word.

    ``mffs`` puts the FPSCR into the doubleword that is f0, the high one of vs0, and leaves the low
    one to the processor; ``mfvscr`` puts the VSCR into the low word of a quadword of zeros.
    """
    value, word = int(register, 16), int(status, 16) & 0xFFFFFFFF
    return word in ((value >> 64) & 0xFFFFFFFFFFFFFFFF, value)


def _goes_on_live(arch: Arch, bit: str, event: Event) -> bool | None:
    """Whether the bit is set in both MSRs; ``None`` where one that could not be read decides."""
    mask = arch.msr_bits[bit]
    msrs = (event.registers.get("msr"), event.fields.get("thread.regs.msr"))
    if any(msr is not None and not int(msr, 16) & mask for msr in msrs):
        return False
    return None if None in msrs else True
