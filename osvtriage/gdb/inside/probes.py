"""Probes as gdb breakpoints that take what they see and let the guest go on.

A ``gdb.Breakpoint`` whose ``stop()`` returns False costs one stop and no round trip to osvtriage.
Events leave gdb as lines on its console stream, so they stand in the MI transcript in the order of
the stops.
"""

from __future__ import annotations

import json
import traceback

import gdb

from osvtriage.arch import ARCHES, Arch
from osvtriage.gdb.inside import EVENT_PREFIX, FAILURE_PREFIX
from osvtriage.model.event import Event, Frame, Side, ThreadKey
from osvtriage.model.plan import Field, GdbPlan, ProbePlan
from osvtriage.unwind import backchain


class _Stop(gdb.Breakpoint):  # type: ignore[misc]
    """One address of one side of a probe."""

    def __init__(self, owner: Probe, side: Side, address: int) -> None:
        super().__init__(f"*{address:#x}", internal=True)
        self.silent = True
        self.enabled = False
        self.owner = owner
        self.side: Side = side
        self.address = address

    def stop(self) -> bool:
        """Take the event; True (which stops the guest) only when osvtriage itself fails."""
        try:
            self.owner.passed(self.side, self.address)
        except Exception:
            # An exception here would be printed by gdb and the breakpoint treated as hit: say it in
            # a form that the trial reads, and stop.
            gdb.write(FAILURE_PREFIX + json.dumps(traceback.format_exc()) + "\n")
            return True
        return False


class Probe:
    """The breakpoints of one probe and the state of its arming."""

    def __init__(self, plan: ProbePlan, session: Session) -> None:
        self.plan = plan
        self.session = session
        self.hits = 0
        self.open_threads: set[ThreadKey] = set()
        # Passages for which the entries stay armed: of any thread, and of one thread each.
        self.left = plan.limit if plan.arm_after is None else plan.arm_first
        self.left_of: dict[ThreadKey, int] = {}
        # Whether the entries were ever disarmed: then there may have been more passages than hits.
        self.was_disarmed = False
        self.entries = [_Stop(self, "entry", address) for address in plan.entries]
        self.exits = [_Stop(self, "exit", address) for address in plan.exits]

    def arm_for(self, thread: ThreadKey) -> None:
        """Let the entries stop the guest until *thread* has passed as often as the plan says."""
        self.left_of[thread] = self.plan.arm_stops
        self.settle()

    def settle(self) -> None:
        """Arm or disarm the entries as the passages left demand."""
        wanted = (self.left > 0 or bool(self.left_of)) and self.hits < self.plan.limit
        self.was_disarmed |= not wanted
        _enable(self.entries, wanted)

    def _count(self, thread: ThreadKey) -> None:
        self.hits += 1
        if thread in self.left_of:
            self.left_of[thread] -= 1
            if not self.left_of[thread]:
                del self.left_of[thread]
        elif self.left:
            self.left -= 1
        self.settle()

    def passed(self, side: Side, address: int) -> None:
        """One stop: capture, send, and see to what is armed next."""
        event = self.session.capture(self.plan, side, address)
        if side == "entry":
            self._count(event.thread)
            if self.exits:
                self.open_threads.add(event.thread)
                _enable(self.exits, True)
        else:
            self.open_threads.discard(event.thread)
            # Exits stay armed only while a thread is inside: the same address may be a hot one.
            if not self.open_threads:
                _enable(self.exits, False)
        record = event.to_json() | {"hits": self.hits, "disarmed": self.was_disarmed}
        gdb.write(EVENT_PREFIX + json.dumps(record, separators=(",", ":")) + "\n")
        if side == "exit" or not self.exits:
            self.session.arm_followers(self.plan.name, event.thread)


def _enable(stops: list[_Stop], enabled: bool) -> None:
    for stop in stops:
        if stop.enabled != enabled:
            stop.enabled = enabled


class Session:
    """All probes of a plan over one inferior."""

    def __init__(self, plan: GdbPlan) -> None:
        self.plan = plan
        self.arch: Arch = ARCHES[plan.arch]
        self.events = 0
        self.probes = {probe.name: Probe(probe, self) for probe in plan.probes}

    def arm(self) -> None:
        """Arm every probe that does not wait for another before its first passage."""
        for probe in self.probes.values():
            probe.settle()

    def arm_followers(self, passed: str, thread: ThreadKey) -> None:
        """Arm, for *thread*, the probes that wait for the probe *passed*."""
        for probe in self.probes.values():
            if probe.plan.arm_after == passed:
                probe.arm_for(thread)

    def capture(self, plan: ProbePlan, side: Side, address: int) -> Event:
        """Read what *plan* asks for at this stop."""
        self.events += 1
        current = self._current()
        task = {name: self._field(current, field) for name, field in self.plan.task_fields.items()}
        comm = task.get("comm")
        pid, start = task.get("pid"), task.get("start_time")
        fields = {name: self._field(current, field) for name, field in plan.fields.items()}
        return Event(
            number=self.events,
            probe=plan.name,
            side=side,
            address=f"{address:016x}",
            cpu=int(gdb.selected_thread().ptid[1]) - 1,
            thread=ThreadKey(
                None if current is None else f"{current:016x}",
                None if pid is None else _signed32(pid),
                None if start is None else int(start, 16),
            ),
            comm=None if comm is None else _text(comm),
            registers={name: self._register(name) for name in plan.registers},
            fields=fields,
            backtrace=tuple(self._backtrace(plan.at_function_entry and side == "entry")),
        )

    def _register(self, name: str) -> str | None:
        word = self.arch.words[name]
        try:
            value = gdb.selected_frame().read_register(word.gdb_name)
            if word.elements is None:
                return f"{int(value) & ((1 << word.bits) - 1):0{word.bits // 4}x}"
            parts = value[word.elements]
            low, high = parts.type.range()
            words = [int(parts[index]) & 0xFFFFFFFF for index in range(low, high + 1)]
        except (gdb.error, ValueError):
            return None
        return "".join(f"{part:08x}" for part in reversed(words))

    def _integer(self, name: str) -> int:
        value = self._register(name)
        if value is None:
            raise gdb.error(f"register {name} cannot be read")
        return int(value, 16)

    def _current(self) -> int | None:
        raw = read(self._integer(self.plan.current_base) + self.plan.current_offset, 8)
        return None if raw is None else int.from_bytes(raw, self.arch.byte_order)

    def _field(self, base: int | None, field: Field) -> str | None:
        for offset in field.path[:-1]:
            raw = None if base is None else read(base + offset, 8)
            base = None if raw is None else int.from_bytes(raw, self.arch.byte_order)
        raw = None if base is None else read(base + field.path[-1], field.size)
        if raw is None:
            return None
        return f"{int.from_bytes(raw, self.arch.byte_order):0{2 * field.size}x}"

    def _backtrace(self, at_function_entry: bool) -> list[Frame]:
        link = self.arch.link_register
        return backchain.walk(
            self.arch,
            read,
            self._integer(self.arch.pc),
            self._integer(self.arch.stack_pointer),
            self._integer(link) if link and at_function_entry else None,
        )


def read(address: int, size: int) -> bytes | None:
    """*size* bytes of guest memory at virtual *address*; ``None`` where nothing is mapped."""
    try:
        return gdb.selected_inferior().read_memory(address, size).tobytes()  # type: ignore[no-any-return]
    except (gdb.MemoryError, OverflowError):
        return None


def _signed32(text: str) -> int:
    value = int(text, 16)
    return value - (1 << 32) if value >> 31 else value


def _text(little_endian: str) -> str:
    raw = bytes.fromhex(little_endian)[::-1]
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def arm(path: str) -> None:
    """Make the probes of the plan in the file *path*, and arm those that wait for no other."""
    with open(path, encoding="utf-8") as file:
        Session(GdbPlan.from_json(file.read())).arm()
