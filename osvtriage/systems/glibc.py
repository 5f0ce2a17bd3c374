"""glibc: its lists of thread stacks, and what fork's child does to mend them.

Every thread whose stack glibc allocated is on the list ``stack_used``; when it has ended, its stack
is kept on ``stack_cache``. A fork can take its copy of the memory in the middle of a move from one
to the other, so that the child's ``__reclaim_stacks`` finds half-done lists.

Source: glibc's nptl/allocatestack.c up to 2.33, nptl/nptl-stack.c and sysdeps/nptl/fork.h from 2.34
on, include/list.h. The heads are in libpthread's .data and .bss, and from 2.34 on in the dynamic
linker's ``_rtld_global``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from osvtriage.model.lists import ListNode, ListsSnapshot
from osvtriage.model.plan import StackListsPlan

# The number of elements that are read, of both lists together. A healthy process has fewer: a stack
# and its guard are two mappings, of which Linux gives a process 65,530 (DEFAULT_MAX_MAP_COUNT,
# include/linux/mm.h). Where a wrong link leads through memory that is no list at all, this bounds
# the time: an element is two reads, of 0.1 ms each through QEMU's gdb stub.
MOST_ELEMENTS = 32768

Read = Callable[[int, int], bytes | None]
IsWritable = Callable[[int], bool | None]

_WORD = 8
_LIST_BYTES = 2 * _WORD  # list_t {next, prev}: sysdeps/nptl/list_t.h
_INT_BYTES = 4  # pid_t, and the lock
_NULL = f"{0:016x}"


def read_lists(
    read: Read,
    plan: StackListsPlan,
    *,
    limit: int = MOST_ELEMENTS,
    is_writable: IsWritable = lambda _: None,
) -> ListsSnapshot | None:
    """Walk both lists both ways, whatever is in memory.

    The third list, ``stack_user`` (the first thread, and threads on stacks of the program's own),
    is not walked. Moves to it are announced by nothing, and the child throws it away unread, so
    that it is found half-done on a healthy glibc.

    Args:
        read: ``(address, size)`` to the process's bytes, or ``None`` where nothing can be read.
        plan: where the lists are in this process.
        limit: the number of elements that are read at most.
        is_writable: whether the process may write at an address, where that is known.

    Returns:
        ``None`` where a head, the lock or ``in_flight_stack`` cannot be read: that is no damage,
        but a library that is not there, or elsewhere.
    """
    lock = _integer(read(plan.lock, _INT_BYTES))
    in_flight = 0 if plan.in_flight is None else _integer(read(plan.in_flight, _WORD))
    heads = (plan.used, plan.cache)
    found = {head: _links(read, head) for head in heads}
    if lock is None or in_flight is None or None in found.values():
        return None

    def links(address: int) -> tuple[int, int] | None:
        if address not in found:
            found[address] = _links(read, address)
        return found[address]

    for head in heads:
        for direction in (0, 1):
            at, seen = head, set[int]()
            while at not in seen and (at in found or len(found) < limit + len(heads)):
                seen.add(at)
                pair = links(at)
                if pair is None:
                    break
                at = pair[direction]
    # What is moving can be on neither list, and the child writes to its neighbours.
    if element := in_flight & ~1:
        for neighbour in links(element) or ():
            links(neighbour)
    tid_from_list = plan.tid_offset - plan.list_offset

    def node(address: int, pair: tuple[int, int] | None) -> ListNode:
        name, writable = f"{address:016x}", is_writable(address)
        if pair is None:
            return ListNode(name, None, None, None, writable)
        is_head = address in (*heads, plan.user)
        raw = None if is_head else read((address + tid_from_list) % (1 << 64), _INT_BYTES)
        tid = None if raw is None else int.from_bytes(raw, "little", signed=True)
        return ListNode(name, f"{pair[0]:016x}", f"{pair[1]:016x}", tid, writable)

    return ListsSnapshot(
        used=f"{plan.used:016x}",
        cache=f"{plan.cache:016x}",
        user=None if plan.user is None else f"{plan.user:016x}",
        in_flight=None if plan.in_flight is None else f"{in_flight:016x}",
        lock=lock,
        nodes=tuple(node(address, pair) for address, pair in found.items()),
    )


def repaired(snapshot: ListsSnapshot) -> ListsSnapshot | None:
    """What ``__reclaim_stacks`` makes of the lists before it uses them.

    It ends the move that ``in_flight_stack`` announces (glibc 5846e22fbf and df9293cb16, January
    2009). A removal is done again from its start: the element's own links still say what to store.
    An addition has stored into the list's first element when it is seen at all, and is always at
    the list's head; one that is not seen was not begun, and the element is lost.

    Returns:
        ``None`` where it would die instead: of its assertion, or of an address that is not there.
    """
    moving = snapshot.moving()
    if moving is None:
        return snapshot
    element, adding = moving
    nodes = snapshot.by_address()
    try:
        if adding:
            _add_again(nodes, element, (snapshot.used, snapshot.cache))
        else:
            _delete(nodes, element)
    except _WouldDie:
        return None
    return replace(snapshot, in_flight=_NULL, nodes=tuple(nodes.values()))


class _WouldDie(Exception):
    """glibc would not get past this store."""


def _add_again(nodes: dict[str, ListNode], element: str, heads: tuple[str, str]) -> None:
    for head in heads:
        first = _there(nodes, head).next
        back = _there(nodes, first).prev
        if back == head:
            continue
        if back != element:
            raise _WouldDie("assert (l->next->prev == elem)")
        nodes[element] = replace(_there(nodes, element), next=first, prev=head)
        nodes[head] = replace(nodes[head], next=element)
        return


def _delete(nodes: dict[str, ListNode], element: str) -> None:
    after = _there(nodes, _there(nodes, element).next)
    nodes[after.address] = replace(after, prev=nodes[element].prev)
    before = _there(nodes, nodes[element].prev)
    nodes[before.address] = replace(before, next=nodes[element].next)


def _there(nodes: dict[str, ListNode], address: str | None) -> ListNode:
    node = nodes.get(address or _NULL)
    if node is None or node.wild:
        raise _WouldDie(f"nothing can be stored at {address}")
    return node


def _links(read: Read, address: int) -> tuple[int, int] | None:
    raw = read(address, _LIST_BYTES)
    if raw is None:
        return None
    return int.from_bytes(raw[:_WORD], "little"), int.from_bytes(raw[_WORD:], "little")


def _integer(raw: bytes | None) -> int | None:
    return None if raw is None else int.from_bytes(raw, "little")
