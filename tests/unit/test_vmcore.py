"""Dumps of memory: registers, the kernel's log, and what is left of both in a damaged one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from consoles import text
from core_specimen import (
    COUNT_BITS,
    DESCRIPTORS,
    INFO,
    MEMORY,
    PRB,
    TABLES,
    TEXT,
    Guest,
    note,
    prstatus,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osvtriage.images.progress import silent
from osvtriage.model.errors import DumpError, UsageError
from osvtriage.triage.dump import Dump, read_dump
from osvtriage.triage.triage import triage
from osvtriage.vmcore.core_file import CoreFile
from osvtriage.vmcore.cpus import cpu_states
from osvtriage.vmcore.memory import PageTables

Write = Callable[[str, bytes], Path]

RECORDS = ("Run /init as init process", "sysrq: Trigger a crash", "Kernel panic - not syncing: x")


def dump(write: Write, data: bytes) -> Dump:
    return read_dump(write("core", data), None, silent)


def log(write: Write, guest: Guest) -> str:
    found = dump(write, guest.build().core())
    assert found.log is not None, found.without_log
    return found.log


@pytest.mark.parametrize("arch", ["x86_64", "ppc64le"])
def test_the_log_comes_out_of_memory(write: Write, arch: str) -> None:
    found = dump(write, Guest(arch, RECORDS).build().core())
    assert found.log == (
        "[    1.000000] Run /init as init process\n"
        "[    1.000001] sysrq: Trigger a crash\n"
        "[    1.000002] Kernel panic - not syncing: x\n"
    )
    assert (found.arch, found.release, found.records) == (arch, "6.1.0-50-amd64", 3)


def test_the_log_says_who_printed_where_the_kernel_keeps_that(write: Write) -> None:
    assert log(write, Guest(records=["a"], caller=81)) == "[    1.000000][   T81] a\n"
    by_cpu = Guest(records=["a"], caller=0x80000000 | 1)
    assert log(write, by_cpu) == "[    1.000000][    C1] a\n"


def test_several_lines_of_one_record_have_a_stamp_each(write: Write) -> None:
    assert log(write, Guest(records=["a\nb"])) == "[    1.000000] a\n[    1.000000] b\n"


def test_a_log_that_has_gone_round(write: Write) -> None:
    """The newest descriptors, and a text that did not fit behind the others."""
    records = [f"{number} " + "x" * 200 for number in range(40)]
    lines = log(write, Guest(records=records, first=5)).splitlines()
    assert [line.split()[2] for line in lines] == [
        str(number) for number in range(40 - (1 << COUNT_BITS), 40)
    ]
    assert all(line.endswith(" " + "x" * 200) for line in lines)


def test_a_text_that_another_one_took_the_place_of_is_lost(write: Write) -> None:
    found = dump(write, Guest(records=["x" * 500] * 16).build().core())
    assert found.records < 10
    assert (
        found.partial[-1] == f"{16 - found.records} records of the kernel's log could not be read"
    )


def test_a_record_without_text(write: Write) -> None:
    assert log(write, Guest(records=["a", "", "b"])).splitlines()[1] == "[    1.000001] "


def test_what_a_kernel_says_in_the_dumps_own_note_comes_first(write: Write) -> None:
    guest = Guest(records=RECORDS).build()
    said = note(b"VMCOREINFO", 0, guest.vmcoreinfo())
    guest.put(INFO, bytes(0x1000))
    assert dump(write, guest.core()).log is None
    assert dump(write, guest.core(said)).log is not None


def test_something_that_only_looks_like_it_is_passed_over(write: Write) -> None:
    guest = Guest(records=RECORDS).build()
    # The format in the kernel's code, and a note whose addresses lead nowhere.
    guest.put(0x100, b"VMCOREINFO\0OSRELEASE=%s\n\0")
    wrong = guest.vmcoreinfo().replace(b"SYMBOL(prb)=", b"SYMBOL(prb)=1")
    guest.put(0x300, wrong[: wrong.index(b"OFFSET")] + b"\0")
    assert dump(write, guest.core()).log is not None


def test_registers_of_x86(write: Write) -> None:
    state = bytearray(440)
    struct.pack_into("<Q", state, 8 + 18 * 8 + 24 * 4 + 16, 0xFF1100000F400000)
    struct.pack_into("<5Q", state, 392, 0x80050033, 0, 0xDEAD, 0x295A000, 0x751EF0)
    notes = prstatus(range(1, 28)) + prstatus(range(101, 128)) + note(b"QEMU", 0, bytes(state))
    with CoreFile(write("core", Guest().build().core(notes))) as core:
        first, second = cpu_states(core)
    assert first.registers["r15"] == f"{1:016x}"
    assert first.registers["rip"] == f"{17:016x}"
    assert first.registers["rsp"] == f"{20:016x}"
    assert first.registers["gs_base"] == "ff1100000f400000"
    assert first.registers["cr2"] == "000000000000dead"
    assert (second.number, second.pc) == (1, 117)
    # What the dump does not have is absent.
    assert "cr2" not in second.registers


def test_registers_of_a_big_endian_dump_of_ppc64le(write: Write) -> None:
    notes = prstatus(range(48), ">")
    guest = Guest("ppc64le", RECORDS).build()
    with CoreFile(write("core", guest.core(notes, ">"))) as core:
        (state,) = cpu_states(core)
    assert state.registers["r31"] == f"{31:016x}"
    assert state.registers["nip"] == f"{32:016x}"
    assert state.registers["link"] == f"{36:016x}"
    assert dump(write, guest.core(notes, ">")).log is not None


def test_the_kernels_page_tables_are_taken_also_where_a_cpu_was_in_user_mode() -> None:
    assert PageTables.of_registers(0x295B000, 0) == PageTables(0x295A000, 4)
    assert PageTables.of_registers(0x295A000, 1 << 12) == PageTables(0x295A000, 5)


def crashed() -> Guest:
    lines = text("linux-6.1-x86_64-null").splitlines()
    records = [line.partition("] ")[2] for line in lines if line.startswith("[")]
    return Guest(records=records[:70])


def test_a_dump_and_a_console_of_one_crash_have_one_signature(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core_specimen.COUNT_BITS", 7)
    monkeypatch.setattr("core_specimen.SIZE_BITS", 14)
    from_dump = triage(write("core", crashed().build().core(prstatus(range(27)))))
    from_console = triage(write("log", text("linux-6.1-x86_64-null").encode()))
    assert from_dump.crash is not None
    assert from_console.crash is not None
    assert from_dump.crash.signature == from_console.crash.signature
    assert from_dump.crash.registers == from_console.crash.registers
    assert (from_dump.source.form, from_console.source.form) == ("vmcore", "console")
    assert [cpu.number for cpu in from_dump.cpus] == [0]
    assert from_dump.partial == []


def test_a_living_guest_has_no_cause(write: Write) -> None:
    found = triage(write("core", Guest(records=["Linux version 6.1"]).build().core()))
    assert not found.found
    assert found.reason == "the kernel's log, 1 records, tells of no crash"
    assert found.kernel_version == "6.1.0-50-amd64"
    assert found.partial == ["there are no registers in the dump"]


def test_a_cut_dump_says_how_much_is_missing(write: Write) -> None:
    data = Guest(records=RECORDS).build().core(prstatus(range(27)))
    found = triage(write("core", data[: len(data) - MEMORY // 2]))
    # All that is wanted of it lies in the first half.
    assert found.found
    assert found.partial == ["the dump is cut short: 0 of 1 MiB are not there"]
    found = triage(write("core", data[: len(data) - MEMORY + PRB]))
    assert not found.found
    assert "is not in the dump" in found.reason or "nothing is at" in found.reason
    assert [cpu.number for cpu in found.cpus] == [0]
    assert found.kernel_version == "6.1.0-50-amd64"
    found = triage(write("core", data[:100]))
    assert "it has 0 of its 2 program headers" in found.partial[0]
    found = triage(write("core", data[:20]))
    assert "cut short: it has 20 bytes" in found.reason


@pytest.mark.parametrize(
    ("start", "data", "reason"),
    [
        (4, b"\x01", "is of no 64-bit guest"),
        (5, b"\x07", "is of no 64-bit guest"),
        (16, b"\x02\0", "no dump of memory"),
        (18, b"\x28\0", "ELF machine 40; known are x86_64, ppc64le"),
        (54, b"\x07\0", "damaged"),
        (0, b"KDUMP   ", "is a kdump-compressed"),
        (0, b"makedumpfile\0", "is a flattened kdump-compressed"),
    ],
)
def test_no_dump_that_is_known(write: Write, start: int, data: bytes, reason: str) -> None:
    core = bytearray(Guest(records=RECORDS).build().core())
    core[start : start + len(data)] = data
    found = triage(write("core", bytes(core)))
    assert not found.found
    assert reason in found.reason
    with pytest.raises(DumpError, match=reason):
        CoreFile(write("core", bytes(core)))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"count_bits": 40}, "2^40 descriptors"),
        ({"size_bits": 60}, "2^60 bytes"),
    ],
)
def test_a_damaged_ring_is_named(write: Write, changed: dict[str, int], reason: str) -> None:
    found = dump(write, Guest(records=RECORDS, changed=changed).build().core())
    assert found.log is None
    assert found.without_log is not None
    assert reason in found.without_log


def test_records_that_are_damaged_are_counted(write: Write) -> None:
    guest = Guest(records=RECORDS).build()
    # Another descriptor's number in the second's place, and no memory where the last's text is.
    guest.put(DESCRIPTORS + 24, struct.pack("<Q", 2 << 62 | 7777))
    found = dump(write, guest.core())
    assert found.log is not None
    assert found.log.count("\n") == 2
    assert found.partial[-1] == "1 records of the kernel's log could not be read"


def test_a_log_of_the_form_before_5_10_is_named(write: Write) -> None:
    guest = Guest(records=RECORDS, release="4.19.0").build()
    guest.put(INFO, bytes(0x1000))
    old = guest.vmcoreinfo().replace(b"SYMBOL(prb)", b"SYMBOL(log_buf)")
    guest.put(INFO, old)
    without = dump(write, guest.core()).without_log
    assert without == "Linux 4.19.0 keeps its log in a form from before 5.10"


def test_a_head_that_is_never_reached_ends_the_walk(write: Write) -> None:
    guest = Guest(records=RECORDS, changed={"head_id": 1 << 60}).build()
    found = dump(write, guest.core())
    assert found.records == 3


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_whatever_is_damaged_is_a_sentence(write: Write, data: st.DataObject) -> None:
    """Bytes changed where they matter: nothing is raised, and there is an answer."""
    guest = Guest(data.draw(st.sampled_from(["x86_64", "ppc64le"])), RECORDS).build()
    core = bytearray(guest.core(prstatus(range(27))))
    base = len(core) - MEMORY
    places = [range(200), range(base + PRB, base + PRB + 0x100)]
    places += [range(base + DESCRIPTORS, base + DESCRIPTORS + 0x100)]
    places += [range(base + INFO, base + INFO + 0x600), range(base + TEXT, base + TEXT + 64)]
    places += [range(base + TABLES, base + TABLES + 0x3000)]
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.sampled_from(places))
        at = data.draw(st.integers(place.start, place.stop - 9))
        core[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    end = data.draw(st.integers(0, len(core)) | st.just(len(core)))
    assert triage(write("core", bytes(core[:end]))).reason


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        triage(tmp_path / "none")
