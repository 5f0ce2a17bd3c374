"""Red-black trees that may be damaged: boost's intrusive sets, and libstdc++'s std::set.

Both have a header node whose parent is the root; a node of boost's has its colour in the lowest bit
of the pointer to its parent (boost/intrusive/detail/rbtree_node.hpp).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# As many as of a list: see systems/rings.py.
MOST_NODES = 10_000
_COLOUR = 1

Read = Callable[[int, int], bytes | None]


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """The offsets of a node's three pointers."""

    parent: int
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Walk:
    """The nodes in their order, without the header, and where the tree is damaged."""

    nodes: tuple[int, ...]
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class _Node:
    address: int
    left: int
    right: int


class _Damaged(Exception):
    """The tree is none."""


def walk(read: Read, header: int, layout: NodeLayout) -> Walk:
    """All nodes of the tree with that header node, from the lowest on.

    Each node must lead back to the one that leads to it; the walk ends at the first that does not.
    """
    found: list[int] = []
    # Nodes whose left side has been gone down, the next one last.
    waiting: list[_Node] = []
    seen = {header}

    def down(at: int, parent: int) -> None:
        """To the lowest node below and with *at*."""
        while at:
            node = _node(read, at, layout, parent)
            if at in seen:
                raise _Damaged(f"the node at {at:#x} is in it twice")
            seen.add(at)
            if len(waiting) + len(found) == MOST_NODES:
                raise _Damaged(f"there are more than {MOST_NODES} nodes")
            waiting.append(node)
            at, parent = node.left, at

    try:
        down(_word(read, header + layout.parent) & ~_COLOUR, header)
        while waiting:
            node = waiting.pop()
            found.append(node.address)
            down(node.right, node.address)
    except _Damaged as damage:
        return Walk(tuple(found), str(damage))
    return Walk(tuple(found))


def _node(read: Read, at: int, layout: NodeLayout, parent: int) -> _Node:
    back = _word(read, at + layout.parent) & ~_COLOUR
    if back != parent:
        raise _Damaged(f"the node at {at:#x} is below {parent:#x}, and leads back to {back:#x}")
    return _Node(at, _word(read, at + layout.left), _word(read, at + layout.right))


def _word(read: Read, address: int) -> int:
    raw = read(address, 8) if 0 <= address < 1 << 64 else None
    if raw is None:
        raise _Damaged(f"the node at {address:#x} cannot be read")
    return int.from_bytes(raw, "little")
