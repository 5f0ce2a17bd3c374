"""What OSv's own gdb scripts show beside its threads: memory, waiters, run queues, callouts.

The least that its users expect (scripts/loader.py of OSv: `osv memory`, `osv mmap`, `osv waiters`,
`osv runqueue`, `osv info callouts`). Where things are is told by the debug information; nothing of
the guest is called or written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

import gdb

from osvtriage.gdb.inside import types
from osvtriage.gdb.inside.commands.base import Command, table
from osvtriage.gdb.inside.guest import read
from osvtriage.gdb.inside.interactive import guest, session
from osvtriage.model.text import printable
from osvtriage.systems import osv, rings, trees

# boost's intrusive sets (boost/intrusive/detail/rbtree_node.hpp), and libstdc++'s std::set.
_BOOST = ("parent_", "left_", "right_")
_STD = ("_M_parent", "_M_left", "_M_right")
_PERMISSIONS = {"r": "read", "w": "write", "x": "exec"}
# include/osv/mmu-defs.hh
_FLAGS = (
    *("fixed", "populate", "shared", "uninitialized", "jvm_heap", "small", "jvm_balloon"),
    *("file", "stack"),
)
# bsd/porting/callout.h: macros, of which debug information knows nothing.
_CALLOUT_FLAGS = {0x2: "active", 0x4: "pending", 0x20: "completed"}
_LONGEST_PATH = 4096
# sched::max_cpus, include/osv/sched.hh: as many as a word has bits.
_MOST_CPUS = 64


def read_types() -> None:
    """Have gdb read the debug information that the commands here need.

    That takes it half a second: while a session begins, and not when somebody waits for an answer.
    """
    for name in ("mmu::vma", "mmu::file_vma", "file", "dentry", "sched::thread", "callout"):
        with suppress(gdb.GdbError):
            types.of(name)
    for name in ("mmu::vma_list", "memory::reclaimer_thread", "callouts::_callouts"):
        with suppress(gdb.GdbError):
            types.variable(name)


class _OsvCommand(Command):
    """A command for OSv alone. ``on_linux`` is what does the like there."""

    on_linux = ""

    def run(self, words: Sequence[str]) -> None:
        system = session().session_plan.system
        guest()
        if system != "osv":
            raise gdb.GdbError(
                f"it shows what OSv's kernel has; on Linux `{self.on_linux}` of crash(8) does, on "
                "what `monitor dump-guest-memory FILE` writes and a kernel with debug information"
            )
        self.show(words)

    def show(self, words: Sequence[str]) -> None:
        """What the command does with its *words*."""
        raise NotImplementedError


class Memory(_OsvCommand):
    """OSv's memory: how much there is and how much is free, and what is mapped.

    Usage: ot memory             all areas (mmu::vma_list)
           ot memory ADDRESS     the area that has this address

    Areas are what applications map, and their stacks and files. The kernel itself, and all memory
    a second time for it, are in none."""

    name = "memory"
    on_linux = "kmem -i` or `vm"

    def show(self, words: Sequence[str]) -> None:
        if len(words) > 1:
            raise self.usage()
        address = int(gdb.parse_and_eval(words[0])) & (1 << 64) - 1 if words else None
        areas, damage = _areas()
        if address is not None:
            areas = [area for area in areas if area[0] <= address < area[1]]
            if not areas:
                raise gdb.GdbError(f"0x{address:x} is in no area that is mapped")
        else:
            total = _word(types.variable("memory::phys_mem_size")[0])
            free = _word(types.variable("memory::free_memory")[0])
            mapped = sum(end - start for start, end, *_ in areas)
            for name, size in (("total", total), ("free", free), ("mapped", mapped)):
                share = f" ({size / total:.2%})" if total else ""
                gdb.write(f"{name:<7} {size} bytes{share}\n")
        rows = [
            (f"0x{start:016x}", f"0x{end:016x}", f"{(end - start) // 1024} kB", *rest)
            for start, end, *rest in areas
        ]
        gdb.write(table(rows, ("START", "END", "SIZE", "PERM", "FLAGS", "FILE")))
        _tell(damage)


def _areas() -> tuple[list[tuple[int, int, str, str, str]], str | None]:
    """Start, end, permissions, flags and file of each area; and where the tree is damaged."""
    kind = types.of("mmu::vma")
    start_at, end_at = (types.offset(kind, "_range", name) for name in ("_start", "_end"))
    perm_at, flags_at = types.offset(kind, "_perm"), types.offset(kind, "_flags")
    permissions = {
        letter: types.enumerator(f"mmu::perm_{name}") or 0 for letter, name in _PERMISSIONS.items()
    }
    flags = {name: types.enumerator(f"mmu::mmap_{name}") or 0 for name in _FLAGS}
    walk = _tree(*types.variable("mmu::vma_list"), _BOOST)
    hook = types.offset(kind, "_vma_list_hook", _BOOST[0])
    areas = []
    for vma in (node - hook for node in walk.nodes):
        start, end = _word(vma + start_at), _word(vma + end_at)
        # The two that are the edges of the address space are empty.
        if start >= end:
            continue
        perm, flag = _word(vma + perm_at, 4), _word(vma + flags_at, 4)
        allowed = "".join(one if perm & bit else "-" for one, bit in permissions.items())
        set_ = [name for name, bit in flags.items() if flag & bit]
        file = _file(vma) if flag & flags["file"] else ""
        areas.append((start, end, allowed, ",".join(set_) or "-", file))
    return areas, walk.damage


def _file(vma: int) -> str:
    """Path and offset of the file that is mapped there."""
    kind = types.of("mmu::file_vma")
    file = _word(vma + types.offset(kind, "_file", "px"))
    entry = _word(file + types.offset(types.of("file"), "f_dentry", "px"))
    path = _text(_word(entry + types.offset(types.of("dentry"), "d_path")), _LONGEST_PATH)
    return f"{path} +0x{_word(vma + types.offset(kind, '_offset')):x}"


class Waiters(_OsvCommand):
    """OSv's threads that wait for memory, and for how much.

    Usage: ot waiters"""

    name = "waiters"
    on_linux = "foreach UN bt"

    def show(self, words: Sequence[str]) -> None:
        address, kind = types.variable("memory::reclaimer_thread")
        head = address + types.offset(kind, "_oom_blocked", "_waiters", "next_")
        node = types.of("memory::reclaimer_waiters::wait_node")
        hook, owner, size = (types.offset(node, name) for name in ("next_", "owner", "bytes"))
        walk = rings.walk(read, head)
        rows = [
            (*_thread(_word(link - hook + owner)), str(_word(link - hook + size)))
            for link in walk.links
            # The last one of a damaged list can lead anywhere.
            if read(link - hook, node.sizeof) is not None
        ]
        text = table(rows, ("ID", "NAME", "BYTES")) if rows else "No thread waits for memory.\n"
        gdb.write(text)
        _tell(walk.damage)


class RunQueue(_OsvCommand):
    """Each of OSv's CPUs, and the threads that are ready there, in the order of their turns.

    RUNTIME is what they are ordered by, PRIORITY that of a realtime thread.

    Usage: ot runqueue"""

    name = "runqueue"
    on_linux = "runq"

    def show(self, words: Sequence[str]) -> None:
        cpu_kind, thread = types.of("sched::cpu"), types.of("sched::thread")
        queue_at, id_at = (types.offset(cpu_kind, name) for name in ("runqueue", "id"))
        queue = next(one for one in cpu_kind.fields() if one.name == "runqueue").type
        hook = types.offset(thread, "_runqueue_link", _BOOST[0])
        runtime = types.offset(thread, "_runtime", "_Rtt")
        priority = types.offset(thread, "_realtime", "_priority")
        rows, damage = [], None
        for cpu in _cpus():
            walk = _tree(cpu + queue_at, queue.strip_typedefs(), _BOOST)
            damage = damage or walk.damage
            number = str(_word(cpu + id_at, 4))
            for address in (node - hook for node in walk.nodes):
                (local,) = struct.unpack("<f", _bytes(address + runtime, 4))
                rank = str(_word(address + priority, 4))
                rows.append((number, *_thread(address), f"{local:g}", rank))
            if not walk.nodes:
                rows.append((number, "-", "nothing is ready", "", ""))
        gdb.write(table(rows, ("CPU", "ID", "NAME", "RUNTIME", "PRIORITY")))
        _tell(damage)


class Callouts(_OsvCommand):
    """OSv's callouts: functions that are called when their time has come.

    TIME is since the guest began, in seconds.

    Usage: ot callouts"""

    name = "callouts"
    on_linux = "timer"

    def show(self, words: Sequence[str]) -> None:
        kind = types.of("callout")
        at = {name: types.offset(kind, f"c_{name}") for name in ("fn", "arg", "to_ns", "flags")}
        # The value is behind that.
        node_base = types.of("std::_Rb_tree_node_base")
        before = types.offset(node_base, _STD[0])
        walk = _tree(*types.variable("callouts::_callouts"), _STD, before)
        callouts = [_word(node + node_base.sizeof) for node in walk.nodes]
        functions = session().name(_word(callout + at["fn"]) for callout in callouts)
        rows = [
            (
                f"0x{callout:016x}",
                function.removesuffix("+0x0"),
                f"0x{_word(callout + at['arg']):x}",
                f"{_word(callout + at['to_ns']) / 1e9:.9f}",
                ",".join(_callout_flags(_word(callout + at["flags"], 4))) or "-",
            )
            for callout, function in zip(callouts, functions, strict=True)
        ]
        header = ("ADDRESS", "FUNCTION", "ARGUMENT", "TIME", "FLAGS")
        gdb.write(table(rows, header) if rows else "There is no callout.\n")
        _tell(walk.damage)


def _callout_flags(flags: int) -> Iterator[str]:
    return (name for bit, name in _CALLOUT_FLAGS.items() if flags & bit)


def _cpus() -> list[int]:
    """The addresses of all sched::cpu."""
    address, kind = types.variable("sched::cpus")
    start, end = (_word(address + types.offset(kind, name)) for name in ("_M_start", "_M_finish"))
    count = (end - start) // 8
    if not 0 <= count <= _MOST_CPUS:
        raise gdb.GdbError(f"the guest's list of CPUs is damaged: it has {count}")
    return [_word(start + 8 * number) for number in range(count)]


def _tree(address: int, kind: object, names: tuple[str, str, str], before: int = 0) -> trees.Walk:
    """The tree in the container of that type at *address*; see :func:`types.tree`."""
    header, layout = types.tree(kind, names, before)
    return trees.walk(read, address + header, layout)


def _thread(address: int) -> tuple[str, str]:
    """Number and name of the thread at *address*."""
    plan = guest().plan.threads
    if plan is None:
        return "?", f"0x{address:x}"
    return str(_word(address + plan.offsets["id"], 4)), _text(
        address + plan.offsets["name"], osv.NAME_BYTES
    )


def _text(address: int, most: int) -> str:
    """The string at *address*, escaped; as far as it can be read."""
    text = b""
    while b"\0" not in text and len(text) < most:
        # Up to the end of a page at most: the next one may not be mapped.
        piece = read(address + len(text), min(most - len(text), 64 - (address + len(text)) % 64))
        if piece is None:
            break
        text += piece
    return printable(text.split(b"\0", 1)[0].decode("utf-8", "replace"))


def _bytes(address: int, size: int) -> bytes:
    raw = read(address, size)
    if raw is None:
        raise gdb.GdbError(f"the guest's memory at 0x{address:x} cannot be read")
    return raw


def _word(address: int, size: int = 8) -> int:
    return int.from_bytes(_bytes(address, size), "little")


def _tell(damage: str | None) -> None:
    if damage is not None:
        gdb.write(f"damaged: {damage}; what is behind is missing here\n", gdb.STDERR)
