"""OSv (x86-64): the names of what osvtriage looks at there, and its list of threads.

Source: cloudius-systems/osv, the files named below, as of release v0.57.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from osvtriage.model.event import Frame, GuestThread
from osvtriage.model.plan import ThreadListPlan
from osvtriage.systems.base import System

# What recipes call the stack of a thread's first system call.
SYSCALL_STACK = "syscall_stack"

# premain() is the first C++ function after the switch to 64-bit mode, loader.cc: all of the kernel
# is in place then, and none of its threads is. abort(const char*, ...), runtime.cc: what every
# death of the kernel comes to.
OSV = System(
    name="osv",
    title="OSv",
    arm_at="premain",
    stacks=(SYSCALL_STACK,),
    gives_up_in=("_Z5abortPKcz",),
)

# Every thread has a thread control block, arch/x64/arch-tls.hh.
THREAD_REGISTER = "fs_base"
# sched::s_current, include/osv/sched.hh.
CURRENT = "_ZN5sched9s_currentE"
# std::array<char, 16> thread::attr::_name, include/osv/sched.hh.
NAME_BYTES = 16
# sched::thread_map, core/sched.cc, where thread_main_c's compilation unit describes its types.
THREAD_MAP = "_ZN5sched10thread_mapE"
THREAD_CODE = "thread_main_c"

# arch/x64/syscall.S, arch/x64/arch-switch.hh.
SYSCALL_ENTRY = "syscall_entry"
FIRST_CALLS = ("setup_large_syscall_stack", "free_tiny_syscall_stack")
SETUP_TCB = "_ZN5sched6thread9setup_tcbEv"
# SYSCALL_STACK_RESERVED_SPACE_SIZE is 16: what says which stack it is, and padding.
MOST_RESERVED = 64
# Since 38c4b7b31899 the kernel keeps a canary in the lowest 8 bytes, and dies if it is overwritten.
CANARY_BYTES = 16

# Where every thread begins, arch/x64/entry.S: it has no caller.
THREAD_BEGIN = "thread_main"

# arch/x64/entry.S: the entries of exceptions, by their vectors; None for all interrupts.
EXCEPTION_ENTRIES: dict[str, int | None] = {
    "ex_de": 0,
    "ex_db": 1,
    "ex_nmi": 2,
    "ex_bp": 3,
    "ex_of": 4,
    "ex_br": 5,
    "ex_ud": 6,
    "ex_nm": 7,
    "ex_df": 8,
    "ex_ts": 10,
    "ex_np": 11,
    "ex_ss": 12,
    "ex_gp": 13,
    "ex_pf": 14,
    "ex_mf": 16,
    "ex_ac": 17,
    "ex_mc": 18,
    "ex_xm": 19,
    "interrupt_entry_common": None,
}

# libstdc++'s std::unordered_map<unsigned, T*>, whose layout is its ABI: bucket array, number of
# buckets, first node, number of elements; a node has its successor, the key (and beside it what was
# in memory before) and the value.
_FIRST_NODE, _ELEMENTS = 16, 24
_NODE_BYTES = 24
_KEY = slice(8, 12)
# The number of threads that are listed of those there are; a damaged map can say anything.
MOST_THREADS = 4096
# What is read at once of a stack, of a megabyte and mostly untouched.
_PAGE, _PIECE = 4096, 65536

Read = Callable[[int, int], bytes | None]
Backtrace = Callable[[int, int, int], "list[Frame]"]


def threads(
    read: Read,
    plan: ThreadListPlan,
    cpus: Mapping[int, Mapping[str, str]],
    backtrace: Backtrace,
    wanted: int | None = None,
) -> list[GuestThread]:
    """All threads, by their numbers, those that run with the registers that they run with.

    Args:
        read: ``(address, size)`` to the guest's bytes, or ``None`` where nothing can be read.
        cpus: the registers of every vCPU: at least ``fs_base``, ``pc``, ``rsp`` and ``rbp``.
        backtrace: ``(pc, sp, fp)`` to frames.
        wanted: the number of the only thread that is asked for.

    Returns:
        Fewer than there are where the map is damaged.
    """
    running = {
        int(words["fs_base"], 16): number
        for number, words in cpus.items()
        if {"fs_base", "pc", "rsp", "rbp"} <= words.keys()
    }
    found = []
    for thread in _addresses(read, plan):
        thread_at = _Words(read, thread, plan.offsets)
        number = thread_at.word("id", 4)
        if wanted not in (None, number):
            continue
        cpu = running.get(thread_at.word("tcb") or -1)
        if cpu is not None:
            words = cpus[cpu]
            start = [int(words[name], 16) for name in ("pc", "rsp", "rbp")]
        else:
            start = [thread_at.word(f"state.{name}") or 0 for name in ("pc", "sp", "fp")]
            cpu = thread_at.follow("detached_state", "detached_state.cpu", "cpu.id")
        status = thread_at.follow("detached_state", "detached_state.status")
        name = read(thread + plan.offsets["name"], NAME_BYTES) or b""
        found.append(
            GuestThread(
                address=f"{thread:016x}",
                id=number,
                name=name.split(b"\0", 1)[0].decode("utf-8", "replace"),
                cpu=cpu,
                status="unknown" if status is None else plan.statuses.get(str(status), str(status)),
                backtrace=tuple(backtrace(start[0], start[1], start[2])),
            )
        )
    return sorted(found, key=lambda item: item.id or 0)


def word(read: Read, plan: ThreadListPlan, thread: int, name: str) -> int | None:
    """The doubleword *name*, of the plan's offsets, of the thread at that address."""
    return _word(read, thread + plan.offsets[name])


def low_water(read: Read, begin: int, end: int) -> int:
    """The lowest word of a stack that is not zero. Pages that are not mapped were never touched:
    an application's stack gets its pages when they are, and has its guard page at the bottom."""
    for at in range(begin, end, _PIECE):
        size = min(_PIECE, end - at)
        raw = read(at, size)
        if raw is None:
            pages = (
                read(page, min(_PAGE, at + size - page)) for page in range(at, at + size, _PAGE)
            )
            raw = b"".join(page or bytes(_PAGE) for page in pages)[:size]
        if rest := raw.lstrip(b"\0"):
            return at + (len(raw) - len(rest)) // 8 * 8
    return end


def _addresses(read: Read, plan: ThreadListPlan) -> Iterator[int]:
    """The threads of the map; a node whose key is not its thread's number ends the walk."""
    node = _word(read, plan.address + _FIRST_NODE)
    count = _word(read, plan.address + _ELEMENTS) or 0
    seen = set()
    for _ in range(min(count, MOST_THREADS)):
        raw = read(node, _NODE_BYTES) if node and node not in seen else None
        if raw is None:
            return
        seen.add(node)
        node, thread = (int.from_bytes(raw[at : at + 8], "little") for at in (0, 16))
        key = int.from_bytes(raw[_KEY], "little")
        if _word(read, thread + plan.offsets["id"], 4) != key:
            return
        yield thread


class _Words:
    """The members of one thread, by the names of the plan's offsets."""

    def __init__(self, read: Read, address: int, offsets: Mapping[str, int]) -> None:
        self._read = read
        self._address = address
        self._offsets = offsets

    def word(self, name: str, size: int = 8) -> int | None:
        return _word(self._read, self._address + self._offsets[name], size)

    def follow(self, *path: str) -> int | None:
        """The 4-byte word behind pointers: every name but the last is one."""
        base: int | None = self._address
        for name in path[:-1]:
            base = _word(self._read, base + self._offsets[name]) if base else None
        return _word(self._read, base + self._offsets[path[-1]], 4) if base else None


def _word(read: Read, address: int, size: int = 8) -> int | None:
    raw = read(address, size)
    return None if raw is None else int.from_bytes(raw, "little")
