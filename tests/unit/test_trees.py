"""Red-black trees, whole and damaged."""

from __future__ import annotations

import pytest
from guest_memory import Memory
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.systems import trees
from osvtriage.systems.trees import NodeLayout, walk

# boost's compact nodes, and libstdc++'s, which have the colour first.
BOOST, STD = NodeLayout(0, 8, 16), NodeLayout(8, 16, 24)
HEADER = 0x1000


def grown(addresses: list[int], layout: NodeLayout, colour: int) -> Memory:
    """A tree of nodes at *addresses*, each put in as the next one by its address."""
    memory = Memory()
    links = {HEADER: [0, 0, 0]}
    for address in addresses:
        parent, side = HEADER, 0
        at = links[HEADER][0]
        while at:
            parent, side = at, 1 if address < at else 2
            at = links[at][side]
        links[parent][side] = address
        links[address] = [parent, 0, 0]
    for address, (parent, left, right) in links.items():
        back = parent if address == HEADER else parent | colour
        memory.write(address, bytes(40))
        memory.word(address + layout.parent, back)
        memory.word(address + layout.left, left)
        memory.word(address + layout.right, right)
    return memory


NODES = st.lists(st.integers(1, 99).map(lambda at: HEADER + 64 * at), unique=True)


@given(NODES, st.sampled_from([(BOOST, 1), (BOOST, 0), (STD, 0)]))
def test_the_nodes_come_in_their_order(addresses: list[int], kind: tuple[NodeLayout, int]) -> None:
    layout, colour = kind
    seen = walk(grown(addresses, layout, colour).read, HEADER, layout)
    assert seen.damage is None
    assert list(seen.nodes) == sorted(addresses)


@given(NODES.filter(bool), st.data())
def test_any_damage_ends_the_walk(addresses: list[int], data: st.DataObject) -> None:
    memory = grown(addresses, BOOST, 1)
    words = [at for address in addresses for at in (address, address + 8, address + 16)]
    values = st.sampled_from([0x10, (1 << 64) - 8, HEADER, *addresses])
    for _ in range(data.draw(st.integers(1, 4))):
        memory.word(data.draw(st.sampled_from(words)), data.draw(values))
    seen = walk(memory.read, HEADER, BOOST)
    assert len(set(seen.nodes)) == len(seen.nodes) <= len(addresses)


def test_a_node_that_leads_back_elsewhere_is_named() -> None:
    low, root, high = HEADER + 64, HEADER + 128, HEADER + 192
    memory = grown([root, low, high], BOOST, 1)
    memory.word(high, low | 1)
    seen = walk(memory.read, HEADER, BOOST)
    assert seen.nodes == (low, root)
    assert seen.damage is not None
    assert f"{high:#x} is below {root:#x}, and leads back to {low:#x}" in seen.damage


def test_a_large_tree_is_not_walked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MOST_NODES", 3)
    memory = grown([HEADER + 64 * at for at in range(1, 9)], BOOST, 0)
    seen = walk(memory.read, HEADER, BOOST)
    assert len(seen.nodes) <= 3
    assert seen.damage == "there are more than 3 nodes"
