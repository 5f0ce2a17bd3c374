"""The file that the plugin writes: what is put into the ring is read again, and counted."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osvtriage.model.errors import GuestError
from osvtriage.plugin import shared as shared_module
from osvtriage.plugin.shared import Counter, RecordKind, Shared
from osvtriage.plugin.table import Capture, Kind, PluginProbe, Site, Table, Watch, When

RING = 4096

Value = bytes | None


def probe(captures: int) -> PluginProbe:
    taken = Capture(Kind.REGISTER, When.ENTRY | When.EXIT, 0, 64)
    return PluginProbe((Site(0x1000),), (Site(0x1004),), (taken,) * captures, returns=True)


class Writer:
    """What probes.c does with the ring, in Python."""

    def __init__(self, file: Shared) -> None:
        self.file = file
        self.head = 0

    def put(self, entry: list[Value], exit_: list[Value]) -> bool:
        body = b""
        for before, after in zip(entry, exit_, strict=True):
            body += struct.pack("=2I", len(before or b""), len(after or b""))
            for value in (before or b"", after or b""):
                body += value + bytes(-len(value) % 8)
        size = 48 + len(body)
        record = struct.pack("=6Q", size << 8 | RecordKind.SPAN, 0, 1, 2, 3, 4) + body
        to_end = RING - self.head % RING
        skip = to_end if to_end < size else 0
        used = self.head - self.file._get("tail")
        if used + skip + size > RING:
            self.file._set("dropped", self.file.dropped + 1)
            return False
        if skip:
            struct.pack_into("=Q", self.file._map, self.at(), 0)
            self.head += skip
        self.file._map[self.at() : self.at() + size] = record
        self.head += size
        self.file._set("head", self.head)
        return True

    def at(self) -> int:
        return self.file._ring_at + self.head % RING


values = st.one_of(st.none(), st.binary(min_size=1, max_size=64))
sides = st.lists(st.tuples(values, values), min_size=3, max_size=3)


@settings(deadline=None)  # every example makes a file
@given(st.lists(st.one_of(st.just("read"), sides), max_size=60))
def test_records_come_out_as_they_went_in_or_are_counted(
    tmp_path_factory: pytest.TempPathFactory, script: list[str | list[tuple[Value, Value]]]
) -> None:
    file = Shared(tmp_path_factory.mktemp("shared") / "file", RING)
    file.arm(Table(["r1"], [probe(3)]))
    writer = Writer(file)
    waiting: list[list[tuple[Value, Value]]] = []
    dropped = 0
    for step in [*script, "read"]:
        if isinstance(step, list):
            if writer.put([pair[0] for pair in step], [pair[1] for pair in step]):
                waiting.append(step)
            else:
                dropped += 1
            continue
        got = [list(zip(one.entry, one.exit, strict=True)) for one in file.records()]
        assert got == waiting
        waiting = []
    assert file.dropped == dropped
    file.close()


def test_a_probe_has_its_own_counters(tmp_path: Path) -> None:
    file = Shared(tmp_path / "file", RING)
    at = file._counters_at + 8 * (shared_module._COUNTERS * 1 + Counter.SAME)
    struct.pack_into("=Q", file._map, at, 7)
    assert file.counters(1)[Counter.SAME] == 7
    assert not any(file.counters(0))
    assert not any(file.counters(2))
    file.close()


def test_a_table_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_module, "_TABLE_BYTES", 256)
    file = Shared(tmp_path / "file", RING)
    with pytest.raises(GuestError, match="more than the plugin engine can watch"):
        file.arm(Table(["r1"], [probe(8)]))
    file.close()


def test_what_the_plugin_complains_of_is_told(tmp_path: Path) -> None:
    file = Shared(tmp_path / "file", RING)
    assert file.error is None
    assert file.interface == 0
    text = b"no register\xff"
    file._map[shared_module._ERROR_AT : shared_module._ERROR_AT + len(text)] = text
    assert file.error == "no register\N{REPLACEMENT CHARACTER}"
    file.close()


def test_the_table_counts_its_sites_and_ends_with_what_is_watched() -> None:
    watch = Watch(spans=3, changes=4)
    words = list(Table(["r1", "vs0h"], [probe(3)], watch=watch).words())
    assert words[2:5] == [2, 1, 2]
    names = struct.pack("=6Q", *words[5:11])
    assert [names[:24].rstrip(b"\0"), names[24:].rstrip(b"\0")] == [b"r1", b"vs0h"]
    assert words[-3:] == [1, 3, 4]


def test_a_negative_offset_is_a_word() -> None:
    words = list(Capture(Kind.PATH, When.ENTRY, 0, 8, (-8,)).words())
    assert words[-2:] == [2**64 - 8, 0]
