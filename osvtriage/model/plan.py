"""What gdb is asked to do: probes with every name resolved to an address.

Written as JSON by the trial, read by the modules inside gdb.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from osvtriage.model.context import ContextsPlan
from osvtriage.model.decode import decode
from osvtriage.model.orc import OrcPlan


@dataclass(frozen=True, slots=True)
class Field:
    """Bytes of the current thread: ``path`` offsets, all but the last followed as pointers."""

    path: tuple[int, ...]
    size: int


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """How the guest's current thread is found and told from all others.

    ``base`` is a register. Its value is the thread's address; with ``offset`` it points to a block
    that holds the thread's address so far in. ``fields`` has ``pid``, ``comm`` and, where the
    system has one, ``start_time``.

    Where two registers change places between user and kernel mode, ``other_base`` is the second.
    The block then holds its own base at ``own``, so that it can be told which of them leads to it:
    the mode does not tell, for a kernel is entered some instructions before it exchanges them.
    """

    base: str
    offset: int | None
    fields: Mapping[str, Field]
    other_base: str | None = None
    own: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """An address in a module of a user process: so far behind where the module was loaded.

    The program itself is the module with the empty name.
    """

    module: str
    offset: int

    def at(self, bases: Mapping[str, int]) -> int:
        """The address, where *bases* says at which one each module was loaded."""
        return bases[self.module] + self.offset


@dataclass(frozen=True, slots=True)
class ModulePlan:
    """A file that the process must have loaded: its build-id, and where in it that is.

    ``path`` is where it is on this machine. Without one that is ``needed`` the process is not
    complete; others only help to name what is in them.
    """

    name: str
    path: str
    needed: bool
    build_id: str
    build_id_offset: int


@dataclass(frozen=True, slots=True)
class ListHeads:
    """The heads of glibc's lists of thread stacks, and what guards them.

    ``in_flight`` is ``None`` in a glibc from before the remedy of January 2009.
    """

    used: Place
    cache: Place
    lock: Place
    user: Place | None
    in_flight: Place | None


@dataclass(frozen=True, slots=True)
class ProcessListsPlan:
    """The lists of thread stacks, before it is known where the process's files are."""

    heads: ListHeads
    list_offset: int
    tid_offset: int

    def at(self, bases: Mapping[str, int]) -> StackListsPlan:
        """Where a process has them that has its modules at *bases*."""
        heads = self.heads
        return StackListsPlan(
            used=heads.used.at(bases),
            cache=heads.cache.at(bases),
            user=heads.user.at(bases) if heads.user else None,
            in_flight=heads.in_flight.at(bases) if heads.in_flight else None,
            lock=heads.lock.at(bases),
            list_offset=self.list_offset,
            tid_offset=self.tid_offset,
        )


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """The user process that is looked at, and how it is found.

    A thread called ``comm`` that comes to one of the kernel addresses ``found_at`` is of it; the
    field ``auxiliary`` of that thread is the auxiliary vector, which leads to ``modules``.
    """

    comm: str
    found_at: tuple[int, ...]
    auxiliary: Field
    modules: tuple[ModulePlan, ...]
    lists: ProcessListsPlan | None = None


@dataclass(frozen=True, slots=True)
class StackPlan:
    """A stack whose use is measured: ``size`` bytes that end ``reserved`` above its top.

    ``top`` leads from the current thread to the stack's top. ``canary`` is the number of bytes at
    its lowest end that are never painted, for the guest may keep a canary there.
    """

    top: Field
    size: int
    reserved: int
    canary: int


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """One probe: where it stops, what it takes, and when it is armed.

    ``limit`` is the number of stops at its entries after which it disarms for good. A thread that
    passes the probe ``arm_after`` arms this one until it has passed here ``arm_stops`` times; the
    first ``arm_first`` passages are those of any thread. Where ``arm_after`` is ``None`` the probe
    is armed at once. ``callee`` is the function about to be called, where the entries are calls;
    ``exits_at_return`` says that each passage's exit is its own return address. ``fatal``: the
    guest is stopped there for good. ``threads`` says when all threads are listed. The ``places`` of
    a probe in a user process become addresses when the process is found. ``in_child``: the exits
    are those of fork, they count where it returns 0, and there is no entry.
    """

    name: str
    symbol: str
    entries: tuple[int, ...]
    exits: tuple[int, ...]
    at_function_entry: bool
    registers: tuple[str, ...]
    fields: Mapping[str, Field]
    limit: int
    required: int
    arm_after: str | None = None
    arm_stops: int = 0
    arm_first: int = 0
    callee: int | None = None
    exits_at_return: bool = False
    fatal: bool = False
    threads: str | None = None
    stack: StackPlan | None = None
    entry_places: tuple[Place, ...] = ()
    exit_places: tuple[Place, ...] = ()
    in_child: bool = False
    lists: bool = False


@dataclass(frozen=True, slots=True)
class ExceptionEntry:
    """The code that builds an exception frame, and where the frame is: ``above`` bytes over the
    slot of the return address that its call pushes."""

    what: str
    start: int
    end: int
    above: int


@dataclass(frozen=True, slots=True)
class SystemCallSite:
    """A call made by a system call's entry code, with the caller's registers pushed.

    ``call`` and ``back`` are the addresses of the call and behind it; ``saved`` the registers from
    the stack pointer upward, as they were pushed; ``pc`` names the one that holds the caller's pc.
    """

    call: int
    back: int
    saved: tuple[str, ...]
    pc: str


@dataclass(frozen=True, slots=True)
class UnwindPlan:
    """What the walker of frame pointers must know of a kernel: where chains cross its entries.

    ``frame`` gives offset and size in bytes of every register in an exception frame. ``outermost``
    are the ranges of code that nothing called.
    """

    exceptions: tuple[ExceptionEntry, ...] = ()
    frame: Mapping[str, tuple[int, int]] | None = None
    system_calls: tuple[SystemCallSite, ...] = ()
    outermost: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ThreadListPlan:
    """Where the list of all threads is, and its members' offsets: see :mod:`osvtriage.systems`."""

    address: int
    offsets: Mapping[str, int]
    statuses: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StackListsPlan:
    """Where a process has glibc's lists of thread stacks: see :mod:`osvtriage.systems.glibc`.

    The addresses of the heads, of ``in_flight_stack`` (``None`` before the glibc of 2009 that
    announces moves) and of the lock; the offsets of ``list`` and ``tid`` in ``struct pthread``.
    """

    used: int
    cache: int
    user: int | None
    in_flight: int | None
    lock: int
    list_offset: int
    tid_offset: int


@dataclass(frozen=True, slots=True)
class InterleavePlan:
    """How a fork is made to happen while a thread is in its critical section.

    The thread comes to ``thread`` last of all before it; the section is where it holds the lock of
    the lists. It is held by pointing it to ``spin``, a ``jmp .``. Writing 1 into ``go`` makes
    another thread fork. Children are looked at from ``reclaim`` to ``returns``; one that loops in
    between passes one of the jumps ``turns``. Without ``recovery`` what announces the move is
    overwritten first.
    """

    thread: Place
    go: Place
    spin: Place
    reclaim: tuple[Place, ...]
    returns: tuple[Place, ...]
    turns: tuple[Place, ...]
    recovery: bool


@dataclass(frozen=True, slots=True)
class GdbPlan:
    """All probes of a trial, and what is known of the guest that they are in.

    ``pinpoint`` is the register whose first change within a span is to be found by stepping.
    ``process`` is the one that probes with places are in; ``tells_process``: where it is found, the
    guest stays stopped, and the trial is told where its modules are. ``orc``: backtraces go by
    these tables. ``contexts`` are places where they are compared. ``counted``: QEMU counts the
    instructions.
    """

    arch: str
    thread: ThreadPlan
    probes: tuple[ProbePlan, ...]
    unwind: UnwindPlan | None = None
    threads: ThreadListPlan | None = None
    pinpoint: str | None = None
    process: ProcessPlan | None = None
    interleave: InterleavePlan | None = None
    orc: OrcPlan | None = None
    contexts: ContextsPlan | None = None
    tells_process: bool = False
    counted: bool = False

    def to_json(self) -> str:
        """The plan as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that :meth:`to_json` wrote."""
        return decode(cls, json.loads(text))
