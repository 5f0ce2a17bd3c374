"""Doubly linked lists, whole and damaged in every way that a stray store can damage them."""

from __future__ import annotations

from guest_memory import Memory
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.systems.rings import check, walk

HEAD = 0x1000


def ring(count: int) -> tuple[Memory, list[int]]:
    links = [HEAD + 0x40 * number for number in range(count + 1)]
    memory = Memory()
    for at, link in enumerate(links):
        memory.word(link, links[(at + 1) % len(links)], links[at - 1])
    return memory, links


@given(st.integers(0, 20))
def test_a_whole_list_closes_both_ways(count: int) -> None:
    memory, links = ring(count)
    found = check(memory.read, HEAD)
    assert found.is_whole
    assert found.forward.links == tuple(links[1:])
    assert found.backward.links == tuple(reversed(links[1:]))


@given(st.integers(1, 12), st.data())
def test_any_pointer_changed_is_damage_and_the_walk_ends(count: int, data: st.DataObject) -> None:
    memory, links = ring(count)
    link = data.draw(st.sampled_from(links))
    back = data.draw(st.booleans())
    right = int.from_bytes(memory.read(link + 8 * back, 8) or b"", "little")
    wrong = data.draw(st.sampled_from([*links, 0, 0xDEAD_0000]).filter(lambda it: it != right))
    memory.write(link + 8 * back, wrong.to_bytes(8, "little"))
    assert not check(memory.read, HEAD).is_whole


def test_the_damage_is_told() -> None:
    memory, links = ring(3)
    memory.word(links[2], links[1])
    assert walk(memory.read, HEAD).damage == "0x1080 leads back to 0x1040, past the head"
    memory.word(links[2], 0)
    assert walk(memory.read, HEAD).damage == "0x1080 leads to 0"
    memory.word(links[2], 0x9999)
    assert walk(memory.read, HEAD).damage == "0x9999 cannot be read"
    memory, links = ring(3)
    memory.word(links[2] + 8, HEAD)
    assert check(memory.read, HEAD).broken == ((links[1], links[2], HEAD),)


def test_a_list_without_end_is_cut() -> None:
    def endless(address: int, size: int) -> bytes:
        return (address + 0x10).to_bytes(8, "little")

    found = walk(endless, HEAD, most=50)
    assert len(found.links) == 50
    assert found.damage == "it does not end within 50 links"
