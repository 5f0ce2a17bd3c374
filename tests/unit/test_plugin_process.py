"""glibc's lists as the plugin takes them: read like gdb's, or not at all."""

from __future__ import annotations

import struct
import sys

from osvtriage.model.plan import StackListsPlan
from osvtriage.plugin.memory import Memory
from osvtriage.plugin.process import Lists
from osvtriage.plugin.table import Capture, Chain, Kind, When
from osvtriage.systems.glibc import read_lists

USED, CACHE, LOCK, IN_FLIGHT = 0x1000, 0x1020, 0x1040, 0x1038
PLAN = StackListsPlan(USED, CACHE, None, IN_FLIGHT, LOCK, 0x2C0, 0x2D0)
A, B, C = 0x7000, 0x8000, 0x9000


def memory(links: dict[int, tuple[int, int]], in_flight: int = 0) -> dict[int, bytes]:
    """Bytes by address: heads and elements with a tid, 16 bytes behind the links."""
    found = {at: struct.pack("<QQI", *pair, at >> 12) for at, pair in links.items()}
    return found | {LOCK: struct.pack("<I", 0), IN_FLIGHT: struct.pack("<Q", in_flight)}


HEALTHY = {USED: (A, B), A: (B, USED), B: (USED, A), CACHE: (C, C), C: (CACHE, CACHE)}


def taken(there: dict[int, bytes], most: int = 100) -> tuple[Lists, list[bytes | None]]:
    """What the plugin would take of *there*: see take_chain() in probes.c."""
    memory_ = Memory(list(there.items()))
    values: list[bytes | None] = []

    def add(
        kind: Kind, base: int, size: int, when: When, offsets: tuple[int, ...], more: Chain | None
    ) -> int:
        assert Capture(kind, when, base, size, offsets, more).words()
        if more is None:
            values.append(memory_.read(offsets[0], size))
            return len(values) - 1
        node = offsets[0]
        for offset in offsets[1:]:
            node = int.from_bytes(memory_.read(node, 8) or b"", "little") + offset
        node &= ~more.clear
        full, nodes = 0, dict[int, bytes]()
        while node not in nodes:
            raw = memory_.read(node + more.start, more.size)
            if raw is None:
                break
            if len(nodes) == min(most, (size - 8) // more.node_bytes):
                full = 1
                break
            nodes[node] = raw
            node = int.from_bytes(raw[more.link - more.start :][:8], "little")
        body = b"".join(
            at.to_bytes(8, sys.byteorder) + raw.ljust(more.node_bytes - 8, b"\0")
            for at, raw in nodes.items()
        )
        values.append(full.to_bytes(8, sys.byteorder) + body)
        return len(values) - 1

    return Lists(PLAN, When.ENTRY, add), values


def test_the_lists_are_those_that_gdb_would_read() -> None:
    torn = HEALTHY | {A: (B, A)}
    elsewhere = HEALTHY | {0x5000: (A, C)}
    for there in (
        memory(HEALTHY),
        memory(torn),
        memory(HEALTHY | {B: (0xDEAD0000, A)}),
        memory(elsewhere, in_flight=0x5001),
        memory(HEALTHY, in_flight=0xDEAD0000),
    ):
        lists, values = taken(there)
        by_gdb = read_lists(Memory(list(there.items())).read, PLAN)
        assert by_gdb is not None
        assert lists.snapshot(values) == by_gdb


def test_a_list_that_there_was_no_room_for_is_not_judged() -> None:
    lists, values = taken(memory(HEALTHY), most=2)
    assert lists.snapshot(values) is None


def test_lists_that_are_not_there_are_none() -> None:
    lists, values = taken({})
    assert lists.snapshot(values) is None


def test_memory_is_read_where_areas_overlap() -> None:
    found = Memory([(0x100, bytes(range(64))), (0x110, b"\xff" * 4)])
    assert found.read(0x110, 4) == b"\xff" * 4
    assert found.read(0x110, 8) == bytes(range(16, 24))
    assert found.read(0x13C, 4) == bytes(range(60, 64))
    assert found.read(0x13D, 4) is None
    assert found.read(0xFF, 1) is None
