"""glibc's lists of thread stacks: what is wrong with them, and whether fork's child mends it.

Source: Red Hat bug 477705. The advice there, to follow ``next`` until a loop, misses the first
generation: measured on glibc 2.31, 2.36 and 2.41, a child whose ``stack_cache`` looks whole by
``next`` comes by ``prev`` to the head of ``stack_used``, and only the grandchild loops. So both
lists are walked both ways, and both ends of every link are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum

from osvtriage.model.lists import Direction, ListName, ListNode, ListsSnapshot, both_ways
from osvtriage.systems.glibc import repaired


class Kind(StrEnum):
    """What can be wrong with a pair of lists, the most telling first."""

    JOINED = "JOINED"  # a walk comes to the other list's head, or to an element of that list only
    SHARED = "SHARED"  # an element is on both lists
    CYCLE = "CYCLE"  # a walk comes to a node for the second time, and it is not its own head
    MISMATCH = "MISMATCH"  # what a node's link leads to does not lead back
    WILD = "WILD"  # a link leads out of the memory that can be read and written
    TOO_LONG = "TOO_LONG"  # the reader gave up


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong, and where: the link of ``node`` in a walk of ``list``.

    ``expected`` is the address that had to be there and ``seen`` the one that is: where a walk does
    not come home, that of its own head and what the link leads to; for a mismatch, ``node`` itself
    and where the node behind the link leads back to; for a shared element, the heads of both lists.
    """

    kind: Kind
    list: ListName
    direction: Direction
    node: str
    expected: str
    seen: str


@dataclass(frozen=True, slots=True)
class Walk:
    """One list, one way: its head and what follows, every node once.

    ``last`` is where the last node's link leads: back to the head, where ``end`` is ``None``; else
    ``end`` says why the walk ended there. It goes on through the heads of other lists, as glibc's
    own loops do.
    """

    list: ListName
    direction: Direction
    path: tuple[str, ...]
    last: str
    end: Kind | None

    def links(self) -> Iterator[tuple[str, str]]:
        """Each node with the one that its link leads to."""
        return zip(self.path, (*self.path[1:], self.last), strict=True)


class State(StrEnum):
    """What one look at the lists says."""

    CONSISTENT = "consistent"
    IN_FLIGHT = "in flight"  # half-done, announced, and mended by what __reclaim_stacks does first
    DAMAGED = "damaged"


def walk(snapshot: ListsSnapshot, name: ListName, direction: Direction) -> Walk:
    """Follow one list one way, to its head or to where nothing more can be said."""
    return _walk(snapshot.by_address(), snapshot.head(name), name, direction)


def _walk(nodes: dict[str, ListNode], head: str, name: ListName, direction: Direction) -> Walk:
    path, seen, end = [head], {head}, None
    while True:
        to = nodes[path[-1]].link(direction)
        assert to is not None  # Neither a head nor what is in the path is wild.
        if to == head:
            break
        if to in seen:
            end = Kind.CYCLE
        elif to not in nodes:
            end = Kind.TOO_LONG
        elif nodes[to].wild:
            end = Kind.WILD
        if end is not None:
            break
        path.append(to)
        seen.add(to)
    return Walk(name, direction, tuple(path), to, end)


def never_ends(snapshot: ListsSnapshot) -> bool:
    """Whether ``__reclaim_stacks`` loops for ever: it follows ``stack_used`` by ``next``."""
    return walk(snapshot, "stack_used", "next").end is Kind.CYCLE


def damages(snapshot: ListsSnapshot) -> tuple[Damage, ...]:
    """All that is wrong, the most telling first; nothing for a healthy pair of lists."""
    nodes = snapshot.by_address()
    walks = [_walk(nodes, snapshot.head(name), name, way) for name, way in both_ways()]
    heads = snapshot.heads().keys()
    owners = _owners(walks, heads)
    found = [
        *_joined(walks, heads, owners),
        *_shared(owners, snapshot),
        *(
            Damage(one.end, one.list, one.direction, one.path[-1], one.path[0], one.last)
            for one in walks
            if one.end is not None
        ),
        *_mismatches(walks, heads, nodes),
    ]
    rank = list(Kind)
    return tuple(sorted(found, key=lambda item: rank.index(item.kind)))


def state(snapshot: ListsSnapshot) -> State:
    """Whether the lists are whole, or would be after the repair that ``in_flight_stack`` calls for.

    For a look at the entry of ``__reclaim_stacks``, before anybody wrote into ``in_flight_stack``.
    Behind it nothing is in flight, and half-done lists are damaged.
    """
    if not damages(snapshot):
        return State.CONSISTENT
    if snapshot.moving() is None:
        return State.DAMAGED
    mended = repaired(snapshot)
    return State.DAMAGED if mended is None or damages(mended) else State.IN_FLIGHT


def own_links(one: Walk, heads: Set[str]) -> Iterator[tuple[str, str]]:
    """The links of a walk to where it comes to any head: what follows is another list's."""
    for node, to in one.links():
        yield node, to
        if to in heads:
            return


def _owners(walks: Sequence[Walk], heads: Set[str]) -> dict[str, set[ListName]]:
    """The lists that each element is on: those that come to it both ways."""
    ways = Counter((node, one.list) for one in walks for node, _ in own_links(one, heads))
    owners: dict[str, set[ListName]] = {}
    for (node, name), count in ways.items():
        if count > 1 and node not in heads:
            owners.setdefault(node, set()).add(name)
    return owners


def _joined(
    walks: Sequence[Walk], heads: Set[str], owners: Mapping[str, set[ListName]]
) -> Iterator[Damage]:
    """The link by which each walk first leaves its list for another one."""
    for one in walks:
        head = one.path[0]
        for node, to in own_links(one, heads):
            if (to in heads and to != head) or one.list not in owners.get(to, {one.list}):
                yield Damage(Kind.JOINED, one.list, one.direction, node, head, to)
                break


def _shared(owners: Mapping[str, set[ListName]], snapshot: ListsSnapshot) -> Iterator[Damage]:
    for node, names in owners.items():
        if len(names) > 1:
            heads = snapshot.used, snapshot.cache
            yield Damage(Kind.SHARED, "stack_used", "next", node, *heads)


def _mismatches(
    walks: Sequence[Walk], heads: Set[str], nodes: Mapping[str, ListNode]
) -> Iterator[Damage]:
    """The links whose other end leads elsewhere, each once."""
    compared: set[tuple[str, Direction]] = set()
    for one in walks:
        for node, to in own_links(one, heads):
            behind = nodes.get(to)
            if behind is None or behind.wild or (node, one.direction) in compared:
                continue
            compared.add((node, one.direction))
            back = behind.link("prev" if one.direction == "next" else "next")
            if back is not None and back != node:
                yield Damage(Kind.MISMATCH, one.list, one.direction, node, node, back)
