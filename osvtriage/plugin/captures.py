"""From a resolved probe to what the plugin captures for it, and from its records to events.

The same probes, the same events as gdb's: what is captured where is decided here, and what was
captured is read by the same unwinders.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from osvtriage.arch import Arch
from osvtriage.model.event import Event, Frame, Side, StackUse
from osvtriage.model.plan import Field, GdbPlan, ProbePlan
from osvtriage.plugin.memory import Memory
from osvtriage.plugin.orc import OrcCaptures
from osvtriage.plugin.process import Found, Lists
from osvtriage.plugin.shared import Record, RecordKind
from osvtriage.plugin.table import Block, Capture, Chain, Kind, PluginProbe, Site, When
from osvtriage.systems.identity import identity
from osvtriage.unwind import backchain, framepointer

# A register of QEMU's stub has 16 bytes at most (a vector register; an x87 register has 10).
_REGISTER_BYTES = 16
# Of the stack, for the backtrace. From an interrupt's entry to save_fpu ppc64le's kernel uses 3 KiB
# of its 16 (measured).
_STACK_BYTES = 8192
# Of the stack that the frame pointer points into, where that is another one.
_FRAMES_BYTES = 2048
# Under a stack that is measured: as gdb's engine looks (osvtriage/gdb/inside/stacks.py).
_BELOW_BYTES = 64
# Where programs have no memory; see osvtriage.gdb.inside.guest.
_UPPER_HALF = 1 << 63
# Records of passages whose sides differ. A kernel that loses a register at each of 30,000 context
# switches a second shows that in the first ones; more would only fill the disk.
_EXAMPLES = 2000
# First passages that are shown in any case, so that a record has something to look at.
_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Compared:
    """What settles a passage: registers and fields that are equal at both sides, or a value that
    does not hold a status word; see :class:`osvtriage.checks.base.Needs`."""

    names: frozenset[str]
    holds: tuple[str, str] | None = None
    # A field and a mask: a passage counts only where it has one of the bits at both sides.
    bits: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """Of each probe, how many passages are shown: that differ, and the first in any case."""

    examples: int = _EXAMPLES
    first: int = _SAMPLES


@dataclass(frozen=True, slots=True)
class _Value:
    """Where the parts of a value are among the captures, most significant first."""

    parts: tuple[int, ...]
    bits: int


class Captures:
    """The captures of one probe, by what they are for."""

    def __init__(
        self,
        plan: GdbPlan,
        probe: ProbePlan,
        arch: Arch,
        compared: Compared | None,
        registers: dict[str, int],
        shown: Samples | None = None,
        found: Found | None = None,
        code: Memory | None = None,
    ) -> None:
        """Decide what is captured.

        Args:
            compared: a passage that this settles is only counted. ``None``: each is sent.
            registers: the stub's registers and their places in the table, which grows.
            found: the user process that the probe is in.
            code: the kernel's code, as it is in the guest, where backtraces need it.
        """
        self.plan, self.probe, self.arch = plan, probe, arch
        self._found = found
        self._code = code or Memory()
        self.compared = compared
        self._shown = shown or Samples()
        self._registers = registers
        self._captures: list[Capture] = []
        self._places: dict[tuple[object, ...], int] = {}
        self.spans = spans = bool(probe.exits or (probe.entry_places and probe.exit_places))
        # A check that wants each passage may go by which threads are inside at the same time.
        self.streamed = spans and compared is None
        # What a single entry needs, it needs when the record is sent, which is then.
        self._later = When.SENT_EXIT if spans else When.ENTRY
        if self.streamed:
            self._later |= When.ENTRY
        both = When.ENTRY | self._later
        calls = probe.callee is not None
        # A call returns to the same stack pointer, and a kernel's stacks are each one thread's.
        key = (When.KEY | When.EXIT) if spans else When(0)
        mine = When.WITH_KEY if found is not None else When(0)
        self.sp = self._register(arch.stack_pointer, both | mine | (key if calls else When(0)))
        self.fp = self._register(arch.frame_pointer, both) if arch.frame_pointer else None
        self.link = (
            self._register(arch.link_register, When.ENTRY)
            if arch.link_register and probe.at_function_entry
            else None
        )
        self.thread = self._thread(both | mine | (When(0) if calls else key))
        names = compared.names if compared else frozenset()
        # What decides whether a passage counts is taken at both sides of each.
        masked = {compared.bits[0]} if compared and compared.bits else set()
        compares = When.COMPARED | When.EXIT
        self.values = {
            name: self._word(name, both | (compares if name in names else When(0)))
            for name in probe.registers
            if arch.words[name].stub is not None
        }
        self.fields = {
            name: self._field(
                field,
                both
                | (compares if name in names else When(0))
                | (When.EXIT | When.WITH_KEY if name in masked else When(0)),
            )
            for name, field in probe.fields.items()
        }
        self.identity = {
            name: self._field(field, self._later) for name, field in plan.thread.fields.items()
        }
        self._guards = self._whose(found, key) if found is not None else ()
        # The register whose clobber is looked for: where a check goes by it.
        self.pinpoint = (
            self._word(plan.pinpoint, both)
            if plan.pinpoint is not None and spans and (compared is None or plan.pinpoint in names)
            else None
        )
        self.block = self._block(both) if probe.stack else None
        self.lists = (
            Lists(found.lists, both, self._add)
            if found is not None and found.lists is not None and probe.lists
            else None
        )
        self.orc = self._orc()
        # A user process's own callers are not looked for.
        self.stack = (
            self._add(Kind.AREA, self.sp, 8 + _STACK_BYTES, self._later, (0,))
            if found is None
            else None
        )
        # A chain of frame pointers can go on on another stack, from a system call's on.
        self.frames = (
            self._add(Kind.AREA, self.fp, 8 + _FRAMES_BYTES, self._later | When.FROM_ENTRY, (0,))
            if plan.unwind is not None and self.fp is not None and found is None
            else None
        )

    def _orc(self) -> OrcCaptures | None:
        """What backtraces by ORC tables need, where the kernel has them."""
        plan = self.plan.orc
        if plan is None or self._found is not None:
            return None
        block = self._captures[self.thread].base
        return OrcCaptures(
            plan,
            self.arch,
            self.thread,
            block,
            self._later,
            self._add,
            lambda name: self._register(name, self._later),
        )

    def _whose(self, found: Found, key: When) -> tuple[tuple[int, bytes], ...]:
        """What tells hits of *found* from those of other processes."""
        name = found.comm.encode()
        # With its end, where the name does not fill its room.
        size = self.plan.thread.fields["comm"].size
        comm = self._field(self.plan.thread.fields["comm"], When.WITH_KEY)
        guards = [(comm, (name + b"\0")[:size])]
        if self.probe.in_child:
            result = self._register(self.arch.result, When.WITH_KEY)
            guards.append((result, bytes(self.arch.words[self.arch.result].bits // 8)))
        # A child may never leave, and its task_struct become another one's.
        since = next(name for name in ("start_time", "pid") if name in self.plan.thread.fields)
        self._field(self.plan.thread.fields[since], When.WITH_KEY | key)
        return tuple(guards)

    def _add(
        self,
        kind: Kind,
        base: int,
        size: int,
        when: When,
        offsets: tuple[int, ...] = (),
        more: Chain | Block | None = None,
    ) -> int:
        known = (kind, base, offsets, more)
        place = self._places.get(known)
        if place is None:
            place = self._places[known] = len(self._captures)
            self._captures.append(Capture(kind, when, base, size, offsets, more))
        else:
            old = self._captures[place]
            self._captures[place] = replace(old, when=old.when | when, size=max(old.size, size))
        return place

    def _stub_register(self, name: str, when: When) -> int:
        number = self._registers.setdefault(name, len(self._registers))
        return self._add(Kind.REGISTER, number, _REGISTER_BYTES, when)

    def _register(self, name: str, when: When) -> int:
        return self._stub_register(self.arch.words[name].gdb_name, when)

    def _word(self, name: str, when: When) -> _Value:
        word = self.arch.words[name]
        parts = word.stub or (word.gdb_name,)
        return _Value(tuple(self._stub_register(part, when) for part in parts), word.bits)

    def _thread(self, when: When) -> int:
        thread = self.plan.thread
        if thread.offset is None:
            return self._register(thread.base, when)
        # r13 leads to the PACA of the vCPU, which is another one after a migration.
        above = (when & ~When.KEY) | When.WITH_KEY
        base = self._register(thread.base, above)
        if thread.other_base is not None and thread.own is not None:
            block = Block(thread.own, self._register(thread.other_base, above), _UPPER_HALF)
            base = self._add(Kind.BLOCK, base, 8, above, (), block)
        return self._add(Kind.PATH, base, 8, when, (thread.offset,))

    def _field(self, field: Field, when: When) -> int:
        if when & (When.COMPARED | When.WITH_KEY):
            self._captures[self.thread] = _with(self._captures[self.thread], When.WITH_KEY)
        return self._add(Kind.PATH, self.thread, field.size, when, field.path)

    def _block(self, when: When) -> int:
        """The stack that is measured, with what is just below it."""
        plan = self.probe.stack
        assert plan is not None
        # The code between the two sides gives the thread another stack.
        top = self._field(plan.top, When.ENTRY)
        start = plan.reserved - plan.size - _BELOW_BYTES
        return self._add(
            Kind.AREA, top, 8 + _BELOW_BYTES + plan.size, when | When.FROM_ENTRY, (start,)
        )

    def probe_for_plugin(self) -> PluginProbe:
        """The probe as the plugin gets it."""
        probe = self.probe
        entries, exits = self._sites(probe)
        one_sided = not exits
        return PluginProbe(
            entries=entries,
            exits=exits,
            captures=tuple(self._captures),
            returns=probe.callee is not None and not probe.at_function_entry,
            examples=probe.limit if one_sided else self._shown.examples,
            samples=self._shown.first,
            bits=(self.fields[self.compared.bits[0]], self.compared.bits[1])
            if self.compared is not None and self.compared.bits is not None
            else None,
            holds=self._holds(),
            streamed=self.streamed,
            watched=(self.pinpoint.parts[0], self.pinpoint.parts[-1], self.thread)
            if self.pinpoint is not None
            else None,
            guards=self._guards,
            again=self.sp if self._found is not None else None,
        )

    def _sites(self, probe: ProbePlan) -> tuple[tuple[Site, ...], tuple[Site, ...]]:
        """The entries and the exits; a probe without entries is looked at at its exits."""
        if self._found is None:
            entries = tuple(Site(address) for address in probe.entries)
            return entries, tuple(Site(address) for address in probe.exits)
        places = probe.entry_places, probe.exit_places
        ways = [tuple(self._found.sites[place] for place in some) for some in places]
        return (ways[1], ()) if probe.in_child else (ways[0], ways[1])

    def _holds(self) -> tuple[int, int] | None:
        if self.compared is None or self.compared.holds is None:
            return None
        value, status = self.compared.holds
        places = [
            self.fields[name] if name in self.fields else self.values[name].parts[0]
            for name in (value, status)
        ]
        return places[0], places[1]

    # What came back.

    def pinpointed(self, changes: Sequence[Record], end: Record) -> dict[str, Any]:
        """What was found in one span that was looked at instruction by instruction.

        Where the register was changed and put back and changed again, the last change counts, for
        it lasted; where it is at the exit as it was at the entry, the first, but for those of a
        switch of threads, which were another thread's registers on their way out.

        Returns:
            What gdb's stepping tells (osvtriage/gdb/inside/pinpoint.py).
        """
        before, at_exit = (
            self._value(end.entry, self.pinpoint),
            self._value(end.exit, self.pinpoint),
        )
        culprit = None
        if at_exit == before:
            changes = [change for change in changes if not change.words[0] >> 32][:1]
        if changes:
            change = changes[-1]
            memory = self._memory(change.exit)
            frames = self._backtrace(change.exit, change.exit, change.words[3], "exit", memory)
            culprit = {
                "address": f"{change.words[2]:016x}",
                "after": self._value(change.exit, self.pinpoint),
                "backtrace": [asdict(frame) for frame in frames],
            }
        known = {name: self._digits(end.exit[place]) for name, place in self.identity.items()}
        thread, comm = identity(self._number(end.exit[self.thread]), known)
        return {
            "register": self.plan.pinpoint,
            "probe": self.probe.name,
            "pid": thread.pid,
            "comm": comm,
            "before": before,
            "steps": end.words[2],
            "whole": True,
            "at_exit": at_exit,
            "culprit": culprit,
        }

    def events(self, record: Record) -> Iterator[Event]:
        """The events of one record; their numbers are 0."""
        left = record.kind is not RecordKind.ENTRY
        side = record.exit if left else record.entry
        memory = self._memory(side)
        cpus = record.words[0]
        if record.kind is not RecordKind.EXIT:
            at: Side = "exit" if self.probe.in_child else "entry"
            yield self._event(record, at, cpus & 0xFFFF_FFFF, record.words[1], side, memory)
        if left:
            yield self._event(record, "exit", cpus >> 32, record.words[2], side, memory)

    def _memory(self, taken: tuple[bytes | None, ...]) -> Memory:
        places = [place for place in (self.stack, self.frames) if place is not None]
        areas = (self._area(taken, place) for place in places)
        return Memory(area for area in areas if area is not None)

    def _event(
        self,
        record: Record,
        side: Side,
        cpu: int,
        address: int,
        who: tuple[bytes | None, ...],
        memory: Memory,
    ) -> Event:
        one_sided = record.kind is RecordKind.ENTRY
        taken = record.entry if side == "entry" or one_sided else record.exit
        current = self._number(who[self.thread])
        known = {name: self._digits(who[place]) for name, place in self.identity.items()}
        thread, comm = identity(current, known)
        return Event(
            number=0,
            probe=self.probe.name,
            side=side,
            address=f"{address:016x}",
            cpu=cpu,
            thread=thread,
            comm=comm,
            registers={
                name: self._value(taken, self.values.get(name)) for name in self.probe.registers
            },
            fields={name: self._digits(taken[place]) for name, place in self.fields.items()},
            backtrace=tuple(self._backtrace(taken, who, address, side, memory)),
            stack=self._stack_use(record, side) if self.block is not None else None,
            lists=self.lists.snapshot(taken) if self.lists is not None else None,
        )

    def _backtrace(
        self,
        taken: tuple[bytes | None, ...],
        sent: tuple[bytes | None, ...],
        pc: int,
        side: Side,
        memory: Memory,
    ) -> list[Frame]:
        sp = self._number(taken[self.sp])
        if sp is None or self._found is not None:
            return [Frame(f"{pc:016x}")]
        if self.orc is not None:
            return self.orc.frames(self._code, pc, taken, sent)
        at_entry = self.probe.at_function_entry and side == "entry"
        if self.plan.unwind is not None and self.fp is not None:
            fp = self._number(taken[self.fp]) or 0
            start = framepointer.Registers(pc, sp, fp, at_entry)
            return framepointer.walk(self.arch, memory.read, start, self.plan.unwind)
        link = self._number(taken[self.link]) if self.link is not None and at_entry else None
        return backchain.walk(self.arch, memory.read, pc, sp, link)

    def _stack_use(self, record: Record, side: Side) -> StackUse | None:
        """The stack that is measured. Without paint: the lowest address whose byte changed."""
        plan = self.probe.stack
        assert plan is not None
        assert self.block is not None
        taken = record.entry if side == "entry" else record.exit
        area, first = self._area(taken, self.block), self._area(record.entry, self.block)
        sp = self._number(record.entry[self.sp])
        if area is None or first is None or sp is None:
            return None
        start, now = area
        begin = start + _BELOW_BYTES
        if len(now) != _BELOW_BYTES + plan.size or not begin <= sp < begin + plan.size:
            return None
        lowest = None
        if side == "exit":
            before = first[1][_BELOW_BYTES : sp - start]
            touched = (at for at, old in enumerate(before) if now[_BELOW_BYTES + at] != old)
            # Stores are of whole doublewords, of which some bytes may be as they were.
            lowest = begin + next(touched, len(before)) // 8 * 8
        return StackUse(
            begin=f"{begin:016x}",
            size=plan.size,
            sp=f"{sp:016x}",
            lowest=None if lowest is None else f"{lowest:016x}",
            saved=now[sp - start :].hex(),
            below=now[:_BELOW_BYTES].hex(),
        )

    def _value(self, taken: tuple[bytes | None, ...], value: _Value | None) -> str | None:
        if value is None:
            return None
        whole, bits = 0, value.bits // len(value.parts)
        for part in value.parts:
            number = self._number(taken[part])
            if number is None:
                return None
            whole = whole << bits | number & ((1 << bits) - 1)
        return f"{whole:0{value.bits // 4}x}"

    def _digits(self, raw: bytes | None) -> str | None:
        number = self._number(raw)
        return None if number is None or raw is None else f"{number:0{2 * len(raw)}x}"

    def _number(self, raw: bytes | None) -> int | None:
        return None if raw is None else int.from_bytes(raw, self.arch.byte_order)

    def _area(self, taken: tuple[bytes | None, ...], place: int) -> tuple[int, bytes] | None:
        """The address of an area, which is in this machine's order, and its bytes."""
        raw = taken[place]
        return None if raw is None else (int.from_bytes(raw[:8], sys.byteorder), raw[8:])


def _with(capture: Capture, when: When) -> Capture:
    return replace(capture, when=capture.when | when)
