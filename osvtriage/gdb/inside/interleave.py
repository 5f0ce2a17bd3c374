"""Hold a thread at one instruction of its critical section, let another fork, follow the children.

Each boundary starts from one snapshot of the whole guest: what a hung process leaves behind is
thrown away with it. The thread is held by pointing it at a ``jmp .``: freezing a vCPU would stop
the others on cross-CPU calls.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import gdb

from osvtriage.arch import ARCHES
from osvtriage.gdb.inside import process as user
from osvtriage.gdb.inside.guest import Guest, read, write
from osvtriage.gdb.inside.running import NotReached, run_to
from osvtriage.gdb.inside.steering import answer, load_snapshot, save_snapshot
from osvtriage.model.event import Frame
from osvtriage.model.lists import ListsSnapshot
from osvtriage.model.plan import GdbPlan, InterleavePlan, Place
from osvtriage.systems.glibc import read_lists

_MOST_FRAMES = 64
# A critical section has some 30 instructions (measured on glibc 2.31, 2.36 and 2.41); with the page
# faults and the interrupts that can come in between, stepped in the kernel, a few thousand.
_MOST_STEPS = 20_000
# Seconds. From the snapshot to any place takes 0.3 s; a busy host may need a hundred times that.
_LONGEST_WAY = 30.0
# Seconds. A fork takes 0.1 s on an idle machine: a process that is not back after this long is
# looked for. What it does then is told by what it does, never by the time that it takes.
_PATIENCE = 2.0
# Reclaim's longest loop is over the first level of thread-specific data, 32 blocks for each stack.
_MOST_TURNS = 1_000
# Bytes around the stack pointer that tell two passages of a loop apart, beside the registers.
_RED_ZONE, _FRAME = 128, 512


class Interleaving:
    """One critical section of one thread, from one snapshot."""

    def __init__(self, plan: GdbPlan) -> None:
        assert plan.interleave is not None
        assert plan.process is not None
        self.plan = plan
        self.steer: InterleavePlan = plan.interleave
        self.process = self._found(plan)
        assert plan.process.lists is not None
        self.lists = self.process.lists(plan.process.lists)
        self._run_to([self.process.address(self.steer.thread)], self.process.is_in)
        guest = self._guest()
        self.key, _ = guest.identity(guest.current())
        self.space = guest.address_space()
        save_snapshot()
        self.boundaries = self._list_boundaries()

    def _found(self, plan: GdbPlan) -> user.Process:
        """Run until the process passes through the kernel with all of its libraries."""
        assert plan.process is not None
        wanted = plan.process
        found: list[user.Process] = []

        def here(guest: Guest) -> bool:
            process = user.find(wanted, guest)
            if process is not None:
                found.append(process)
            return bool(found)

        self._run_to(list(wanted.found_at), here)
        return found[0]

    def _at(self, places: Sequence[Place]) -> list[int]:
        return [self.process.address(place) for place in places]

    def _guest(self) -> Guest:
        return Guest(self.plan, ARCHES[self.plan.arch])

    def _run_to(self, addresses: list[int], wanted: Callable[[Guest], bool]) -> Guest:
        return run_to(addresses, self._guest, wanted, _LONGEST_WAY)

    def _is_held_thread(self, guest: Guest) -> bool:
        return guest.in_user_mode and guest.identity(guest.current())[0] == self.key

    def _locked(self) -> bool:
        raw = read(self.lists.lock, 4)
        return raw is not None and any(raw)

    def _list_boundaries(self) -> list[tuple[int, int]]:
        """Every instruction of the thread while it holds the lock: (pc, how often before)."""
        watch = gdb.Breakpoint(
            f"*(unsigned int *){self.lists.lock:#x}",
            gdb.BP_WATCHPOINT,
            gdb.WP_WRITE,
            internal=True,
        )
        watch.silent = True
        try:
            while True:
                gdb.execute("continue", to_string=True)
                if self._is_held_thread(self._guest()) and self._locked():
                    break
        finally:
            watch.delete()
        found: list[int] = []
        for _ in range(_MOST_STEPS):
            guest = self._guest()
            if self._is_held_thread(guest):
                if not self._locked():
                    return [(pc, found[:at].count(pc)) for at, pc in enumerate(found)]
                pc = guest.integer(guest.arch.pc)
                # An instruction that faults, or that an interrupt comes before, is seen twice.
                if not found or found[-1] != pc:
                    found.append(pc)
            gdb.execute("stepi", to_string=True)
        raise gdb.error(f"the lock was not released within {_MOST_STEPS} steps")

    def replay(self, pc: int, nth: int) -> dict[str, Any]:
        """What becomes of a fork while the thread is at the boundary."""
        load_snapshot()
        visits = -1

        def there(guest: Guest) -> bool:
            nonlocal visits
            visits += self._is_held_thread(guest) and self._locked()
            return visits == nth

        try:
            self._run_to([pc], there)
        except NotReached:
            return {"parent": None, "child": _NOTHING, "grandchild": _NOTHING}
        parent = self._look()
        spin = self.process.address(self.steer.spin)
        gdb.execute(f"set $pc = {spin:#x}", to_string=True)
        write(self.process.address(self.steer.go), (1).to_bytes(4, "little"))
        spaces = {self.space}
        child = grandchild = _NOTHING
        try:
            child = self._generation(spaces, None if self.steer.recovery else self.lists.in_flight)
            grandchild = self._generation(spaces, None) if child["after"] else _NOTHING
        except NotReached:
            pass
        return {"parent": parent, "child": child, "grandchild": grandchild}

    def _generation(self, spaces: set[str], overwrite: int | None) -> dict[str, Any]:
        """A new process of that name, from where it enters reclaim to where fork returns in it."""

        def is_new(guest: Guest) -> bool:
            return self.process.is_in(guest) and guest.address_space() not in spaces

        guest = self._run_to(self._at(self.steer.reclaim), is_new)
        space = guest.address_space()
        spaces.add(space)
        entry = self._look()
        if overwrite is not None:
            write(overwrite, bytes(8))
        returns = self._at(self.steer.returns)

        def is_it(guest: Guest) -> bool:
            return self.process.is_in(guest) and guest.address_space() == space

        if self._loops(is_it, returns):
            return {"entry": entry, "after": None, "hang": self._backtrace()}
        return {"entry": entry, "after": self._look(), "hang": None}

    def _loops(self, is_it: Callable[[Guest], bool], returns: list[int]) -> bool:
        """Whether the process goes round for ever in reclaim, or comes to *returns*.

        Slow is not looping. It loops where it comes again to a jump that it has executed, with the
        same registers and the same stack: reclaim keeps nothing else that changes.

        Raises:
            NotReached: neither was seen.
        """
        try:
            run_to(returns, self._guest, is_it, _PATIENCE)
        except NotReached:
            return self._repeats_itself(is_it, returns)
        return False

    def _repeats_itself(self, is_it: Callable[[Guest], bool], returns: list[int]) -> bool:
        states: set[tuple[object, ...]] = set()
        while len(states) < _MOST_TURNS:
            guest = self._run_to([*returns, *self._at(self.steer.turns)], is_it)
            pc, state = guest.integer(guest.arch.pc), _state(guest)
            if pc in returns or state in states:
                return pc not in returns
            states.add(state)
            self._step_past(pc, is_it)
        raise NotReached(f"a process neither returned nor repeated itself in {_MOST_TURNS} turns")

    def _step_past(self, pc: int, is_it: Callable[[Guest], bool]) -> None:
        """Execute the instruction at *pc*, through the faults that it makes."""
        for _ in range(_MOST_STEPS):
            gdb.execute("stepi", to_string=True)
            guest = self._guest()
            if is_it(guest) and guest.integer(guest.arch.pc) != pc:
                return
        raise NotReached(f"the instruction at {pc:#x} was not executed in {_MOST_STEPS} steps")

    def _backtrace(self) -> list[dict[str, Any]]:
        """The frames of the stopped process, by the unwind information in its files."""
        assert self.plan.process is not None
        for module in self.plan.process.modules:
            base = self.process.bases.get(module.name)
            if base is None:
                continue
            gdb.execute(f"add-symbol-file {shlex.quote(module.path)} -o {base:#x}", to_string=True)
        gdb.execute("maintenance set dwarf unwinders on", to_string=True)
        try:
            addresses: list[int] = []
            frame = gdb.newest_frame()
            while frame is not None and len(addresses) < _MOST_FRAMES:
                addresses.append(int(frame.pc()))
                frame = frame.older()
        finally:
            gdb.execute("maintenance set dwarf unwinders off", to_string=True)
            gdb.execute("symbol-file", to_string=True)
        kinds = ["call", *(["return"] * len(addresses))]
        return [
            asdict(Frame(f"{address:016x}", kind=kind))
            for address, kind in zip(addresses, kinds, strict=False)
        ]

    def _look(self) -> dict[str, Any] | None:
        found: ListsSnapshot | None = read_lists(read, self.lists)
        return None if found is None else asdict(found)


_NOTHING: dict[str, Any] = {"entry": None, "after": None, "hang": None}


def _state(guest: Guest) -> tuple[object, ...]:
    """All that a loop without memory of its own can change."""
    sp = guest.integer(guest.arch.stack_pointer)
    names = guest.arch.words_of((guest.arch.pc, "general"))
    stack = read(sp - _RED_ZONE, _RED_ZONE + _FRAME)
    return (*(guest.register(name) for name in names), stack)


_current: Interleaving | None = None


def prepare(path: str) -> None:
    """Find the process of the plan in the file *path*, take the snapshot, list the boundaries."""

    def made() -> dict[str, Any]:
        global _current
        with open(path, encoding="utf-8") as file:
            _current = Interleaving(GdbPlan.from_json(file.read()))
        return {"boundaries": _current.boundaries, "bases": _current.process.bases}

    answer(made)


def replay(pc: int, nth: int) -> None:
    """Replay one boundary; see :meth:`Interleaving.replay`."""
    interleaving = _current
    assert interleaving is not None
    answer(lambda: interleaving.replay(pc, nth))
