"""Probes as gdb breakpoints that take what they see and let the guest go on.

A ``gdb.Breakpoint`` whose ``stop()`` returns False costs one stop and no round trip to osvtriage.
Events leave gdb as lines on its console stream, so they stand in the MI transcript in the order of
the stops.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import gdb

from osvtriage.arch import ARCHES, Arch
from osvtriage.gdb.inside import (
    EVENT_PREFIX,
    FAILURE_PREFIX,
    FATAL,
    PROCESS_PREFIX,
    REFUSAL_PREFIX,
    STEP,
)
from osvtriage.gdb.inside import process as user
from osvtriage.gdb.inside.guest import Guest, all_registers, instructions, read
from osvtriage.gdb.inside.pinpoint import Pinpoint
from osvtriage.gdb.inside.stacks import PaintedStack
from osvtriage.model.event import Event, Side, StackUse, ThreadKey
from osvtriage.model.lists import ListsSnapshot
from osvtriage.model.plan import GdbPlan, ProbePlan
from osvtriage.systems.glibc import read_lists


class _Stop(gdb.Breakpoint):  # type: ignore[misc]
    """One address of one side of a probe."""

    def __init__(self, owner: Probe, side: Side, address: int) -> None:
        super().__init__(f"*{address:#x}", internal=True)
        self.silent = owner.session.silent
        self.enabled = False
        self.owner = owner
        self.side: Side = side
        self.address = address

    def stop(self) -> bool:
        """Take the event; True (which stops the guest) where the trial has to do something."""
        session = self.owner.session
        return _guarded(session, lambda: self.owner.passed(self.side, self.address))


class _Finder(gdb.Breakpoint):  # type: ignore[misc]
    """A kernel address that the process passes on its way to what the probes look at."""

    def __init__(self, session: Session, address: int) -> None:
        super().__init__(f"*{address:#x}", internal=True)
        self.silent = True
        self.session = session

    def stop(self) -> bool:
        """Look whether it is the process; True (which stops the guest) where it is a wrong one."""
        return _guarded(self.session, self.session.look_for_process)


def _guarded(session: Session, stop: Callable[[], bool]) -> bool:
    """What *stop* says; where it fails, the guest stays stopped and the trial is told.

    An exception in a breakpoint would be printed by gdb, and the breakpoint treated as hit.
    """
    try:
        return stop()
    except user.NotThatFile as refusal:
        session.say(REFUSAL_PREFIX, str(refusal))
    except Exception:
        session.say(FAILURE_PREFIX, traceback.format_exc())
    return True


# The address of a thread, its key and its name.
_Who = tuple[int | None, ThreadKey, str | None]


@dataclass(slots=True)
class _Passage:
    """A thread between the entry and the exit of a probe."""

    entry: Event
    sp: int
    stack: PaintedStack | None


class Probe:
    """The breakpoints of one probe and the state of its arming."""

    def __init__(self, plan: ProbePlan, session: Session) -> None:
        self.plan = plan
        self.session = session
        self.hits = 0
        self.inside: dict[ThreadKey, _Passage] = {}
        # Passages for which the entries stay armed: of any thread, and of one thread each.
        self.left = plan.limit if plan.arm_after is None else plan.arm_first
        self.left_of: dict[ThreadKey, int] = {}
        # Whether the entries were ever disarmed: then there may have been more passages than hits.
        self.was_disarmed = False
        self.entries = [_Stop(self, "entry", address) for address in plan.entries]
        self.exits = {address: _Stop(self, "exit", address) for address in plan.exits}

    def place(self, process: user.Process) -> None:
        """Make the breakpoints in *process*, which was just found, and arm them."""
        self.entries += [
            _Stop(self, "entry", process.address(place)) for place in self.plan.entry_places
        ]
        for place in self.plan.exit_places:
            address = process.address(place)
            self.exits[address] = _Stop(self, "exit", address)
        self.settle()

    def arm_for(self, thread: ThreadKey) -> None:
        """Let the entries stop the guest until *thread* has passed as often as the plan says."""
        self.left_of[thread] = self.plan.arm_stops
        self.settle()

    def settle(self) -> None:
        """Arm or disarm the entries as the passages left demand."""
        wanted = (self.left > 0 or bool(self.left_of)) and self.hits < self.plan.limit
        self.was_disarmed |= not wanted
        _enable(self.exits.values() if self.plan.in_child else self.entries, wanted)

    def _count(self, thread: ThreadKey) -> None:
        self.hits += 1
        if thread in self.left_of:
            self.left_of[thread] -= 1
            if not self.left_of[thread]:
                del self.left_of[thread]
        elif self.left:
            self.left -= 1
        self.settle()

    def passed(self, side: Side, address: int) -> bool:
        """One stop: capture, send, and see to what is armed next.

        A thread that an interrupt takes away from the instruction that it stopped at comes to it,
        and to the breakpoint, a second time: that is no second passage.

        Returns:
            Whether the guest has to stay stopped.
        """
        guest = self.session.guest()
        if self.plan.exit_places and not self.session.is_in_process(guest):
            return False
        if self.plan.in_child and guest.integer(guest.arch.result) != 0:
            return False
        current = guest.current()
        who = (current, *guest.identity(current))
        passage = self.inside.get(who[1])
        if side == "entry":
            if passage is not None and self._is_again(guest, passage):
                return False
            event = self._enter(guest, address, who)
        elif passage is not None:
            event = self._leave(guest, address, who, passage)
        elif self.plan.in_child:
            self._count(who[1])
            event = self._event(guest, "exit", address, who, None, threads=False)
        else:
            return False
        step = side == "entry" and self._has_exits and self.session.steps_from(self, event)
        record = event.to_json() | {
            "hits": self.hits,
            "disarmed": self.was_disarmed,
            "stays": STEP if step else FATAL if self.plan.fatal else None,
        }
        if self.session.plan.counted:
            record["all_registers"] = all_registers()
        wanted = self.session.hand_out(event, record)
        if side == "exit" or not self._has_exits:
            self.session.arm_followers(self.plan.name, event.thread)
        return step or self.plan.fatal or wanted

    @property
    def _has_exits(self) -> bool:
        return bool(self.exits) or self.plan.exits_at_return

    def _is_again(self, guest: Guest, passage: _Passage) -> bool:
        """Whether the passage is still at its entry: what was called has not returned, yet the
        stack pointer is the same."""
        plan = self.plan
        returns = plan.callee is not None or plan.exits_at_return or bool(plan.entry_places)
        return returns and passage.sp == guest.integer(guest.arch.stack_pointer)

    def _enter(self, guest: Guest, address: int, who: _Who) -> Event:
        self._count(who[1])
        back = guest.return_address() if self.plan.exits_at_return else None
        if back is not None and back not in self.exits:
            self.exits[back] = _Stop(self, "exit", back)
        stack = PaintedStack(guest, self.plan.stack, who[0]) if self.plan.stack else None
        wanted = self.plan.threads == "always"
        event = self._event(guest, "entry", address, who, stack.use if stack else None, wanted)
        if self.exits:
            self.inside[who[1]] = _Passage(event, guest.integer(guest.arch.stack_pointer), stack)
            _enable(self.exits.values(), True)
        return event

    def _leave(self, guest: Guest, address: int, who: _Who, passage: _Passage) -> Event:
        del self.inside[who[1]]
        # Exits stay armed only while a thread is inside: the same address may be a hot one.
        if not self.inside:
            _enable(self.exits.values(), False)
        use = passage.stack.measure() if passage.stack else None
        changed = passage.entry.registers != guest.registers(self.plan.registers)
        wanted = self.plan.threads == "differs" and changed
        return self._event(guest, "exit", address, who, use, wanted)

    def _event(
        self,
        guest: Guest,
        side: Side,
        address: int,
        who: _Who,
        stack: StackUse | None,
        threads: bool,
    ) -> Event:
        current, thread, comm = who
        return Event(
            number=self.session.number(),
            probe=self.plan.name,
            side=side,
            address=f"{address:016x}",
            cpu=guest.cpu,
            thread=thread,
            comm=comm,
            registers=guest.registers(self.plan.registers),
            fields={name: guest.field(current, field) for name, field in self.plan.fields.items()},
            backtrace=tuple(guest.backtrace(self.plan.at_function_entry and side == "entry")),
            stack=stack,
            threads=tuple(guest.threads()) if threads else (),
            lists=self.session.lists() if self.plan.lists else None,
            instructions=instructions() if self.session.plan.counted else None,
        )


def _enable(stops: Iterable[_Stop | _Finder], enabled: bool) -> None:
    for stop in stops:
        if stop.enabled != enabled:
            stop.enabled = enabled


class Session:
    """All probes of a plan over one inferior."""

    # Whether gdb keeps to itself that a probe stopped the guest.
    silent = True

    def __init__(self, plan: GdbPlan) -> None:
        self.plan = plan
        self.arch: Arch = ARCHES[plan.arch]
        self.events = 0
        self.probes = {probe.name: Probe(probe, self) for probe in plan.probes}
        self.pinpoint = Pinpoint(plan.pinpoint, self.guest) if plan.pinpoint else None
        self.process: user.Process | None = None
        found_at = plan.process.found_at if plan.process else ()
        self.finders = [_Finder(self, address) for address in found_at]

    def guest(self) -> Guest:
        """The guest as it is stopped now."""
        return Guest(self.plan, self.arch)

    def hand_out(self, event: Event, record: dict[str, Any]) -> bool:
        """Give an event away; whether the guest has to stay stopped for it."""
        self.say(EVENT_PREFIX, record)
        return False

    def say(self, prefix: str, what: Any) -> None:
        """Write a line for osvtriage on gdb's console stream."""
        gdb.write(prefix + json.dumps(what, separators=(",", ":")) + "\n")

    def number(self) -> int:
        """The number of the next event."""
        self.events += 1
        return self.events

    def arm(self) -> None:
        """Arm every probe that does not wait for another before its first passage."""
        for probe in self.probes.values():
            probe.settle()

    def remove(self) -> None:
        """Delete every breakpoint."""
        for probe in self.probes.values():
            for stop in (*probe.entries, *probe.exits.values()):
                stop.delete()
        for finder in self.finders:
            finder.delete()

    def arm_followers(self, passed: str, thread: ThreadKey) -> None:
        """Arm, for *thread*, the probes that wait for the probe *passed*."""
        for probe in self.probes.values():
            if probe.plan.arm_after == passed:
                probe.arm_for(thread)

    def look_for_process(self) -> bool:
        """Place the probes of the process, once the guest is stopped in it; whether it has to stay
        stopped, for the probes that are not gdb's."""
        assert self.plan.process is not None
        if self.process is None:
            self.process = user.find(self.plan.process, self.guest())
        if self.process is not None:
            _enable(self.finders, False)
            for probe in self.probes.values():
                probe.place(self.process)
            if self.plan.tells_process:
                self.say(PROCESS_PREFIX, self.process.bases)
                return True
        return False

    def lists(self) -> ListsSnapshot | None:
        """The process's lists of thread stacks as they are now."""
        assert self.plan.process is not None
        assert self.process is not None
        plan = self.plan.process.lists
        return read_lists(read, self.process.lists(plan)) if plan else None

    def is_in_process(self, guest: Guest) -> bool:
        """Whether the guest is stopped in the process, or a child of it, in user mode."""
        return self.process is not None and self.process.is_in(guest)

    def steps_from(self, probe: Probe, entry: Event) -> bool:
        """Whether the guest has to stay stopped to be stepped through the span that begins."""
        return self.pinpoint is not None and self.pinpoint.begins(probe, entry)


_session: Session | None = None


def arm(path: str) -> None:
    """Make the probes of the plan in the file *path*, and arm those that wait for no other.

    Those of an earlier plan are removed: the guest was made what it was before them.
    """
    global _session
    if _session is not None:
        _session.remove()
    with open(path, encoding="utf-8") as file:
        _session = Session(GdbPlan.from_json(file.read()))
    _session.arm()


def step() -> None:
    """Step the guest through the span at whose entry it is stopped, to find the clobber."""
    assert _session is not None
    assert _session.pinpoint is not None
    _session.pinpoint.step()
