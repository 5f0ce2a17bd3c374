"""The kernel's file beside a dump: names, tasks, KASLR's slide, and another kernel refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import x86_kernel as x86
from core_specimen import INFO, SLIDE, TABLES, Guest, note, prstatus

from osvtriage.images.progress import silent
from osvtriage.model.errors import ImageError, UsageError
from osvtriage.triage.dump import Dump, read_dump

# Where the banner, the vCPU's variables and its task are in the guest's memory.
BANNER, PERCPU, TASK = 0x80000, 0x90000, 0x91000
ADDRESS = (1 << 64) - 1


@pytest.fixture(autouse=True)
def _phys_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's map as it must be for the banner to be in this little memory."""
    base = BANNER - (x86.RODATA + SLIDE - 0xFFFFFFFF80000000)
    monkeypatch.setattr("core_specimen.PHYS_BASE", base)


def running(form: x86.Form, gs_base: str = "gs_base") -> tuple[Guest, bytes]:
    """A guest whose vCPU runs task 81, "busybox", in function_5."""
    guest = Guest(records=["Kernel panic - not syncing: x"]).build()
    guest.put(BANNER, x86.BANNER)
    linked = x86.PERCPU + SLIDE if form == "relative" else 0
    base = (guest.in_direct_map(PERCPU) - linked) & ADDRESS
    guest.put(PERCPU + 0x40, struct.pack("<2Q", guest.in_direct_map(TASK), base))
    guest.put(TASK + 8, struct.pack("<I", 81))
    guest.put(TASK + x86.COMM_AT, b"busybox\0")
    pc = x86.function(5)[2] + SLIDE + 3
    registers = [0] * 16 + [pc] + [0] * 10
    state = bytearray(440)
    struct.pack_into("<Q", state, 8 + 18 * 8 + 24 * 9 + 16, guest.in_direct_map(0xA0000))
    struct.pack_into("<Q", state, 392 + 8 * 3, TABLES)
    at = 432 if gs_base == "k_gs_base" else 8 + 18 * 8 + 24 * 4 + 16
    struct.pack_into("<Q", state, at, base)
    return guest, prstatus(registers) + note(b"QEMU", 0, bytes(state))


def read(directory: Path, guest: Guest, notes: bytes, kernel: bytes) -> Dump:
    (directory / "core").write_bytes(guest.core(notes))
    (directory / "vmlinuz").write_bytes(x86.bzimage(kernel))
    return read_dump(directory / "core", directory / "vmlinuz", silent)


@pytest.mark.parametrize("form", ["before", "relative"])
@pytest.mark.parametrize("gs_base", ["gs_base", "k_gs_base"])
def test_places_and_tasks_have_names(tmp_path: Path, form: x86.Form, gs_base: str) -> None:
    guest, notes = running(form, gs_base)
    found = read(tmp_path, guest, notes, x86.elf(form))
    (cpu,) = found.cpus
    assert (cpu.place, cpu.pid, cpu.comm) == ("function_5+0x3", 81, "busybox")
    assert found.partial == []


def test_another_kernel_is_refused(tmp_path: Path) -> None:
    guest, notes = running("before")
    guest.put(BANNER, x86.BANNER.replace(b"2026", b"2027"))
    with pytest.raises(
        UsageError, match=r"the kernel given is Linux 6\.1\.0-50-test, and the dump"
    ):
        read(tmp_path, guest, notes, x86.elf())


def test_what_is_no_kernel_is_refused(tmp_path: Path) -> None:
    guest, notes = running("before")
    (tmp_path / "core").write_bytes(guest.core(notes))
    with pytest.raises(ImageError):
        read_dump(tmp_path / "core", tmp_path / "core", silent)


def test_a_task_that_cannot_be_read_has_no_name(tmp_path: Path) -> None:
    guest, notes = running("before")
    # A pid that none can have.
    guest.put(TASK + 8, struct.pack("<I", 1 << 30))
    (cpu,) = read(tmp_path, guest, notes, x86.elf()).cpus
    assert (cpu.place, cpu.pid, cpu.comm) == ("function_5+0x3", None, None)


def test_the_slide_is_found_without_vmcoreinfo(tmp_path: Path) -> None:
    """By the interrupt descriptor table, and all memory by a vCPU's page tables."""
    guest, notes = running("before")
    guest.put(INFO, bytes(0x1000))
    table = [*x86.symbols()]
    table[table.index(x86.function(7))] = ("asm_exc_page_fault", "t", x86.function(7)[2])
    handler = x86.function(7)[2] + SLIDE
    raw = struct.pack("<Q", handler)
    guest.put(0xA0000 + 14 * 16, raw[:2] + bytes(4) + raw[2:] + bytes(2))
    # The kernel's own map: the banner's page of 2 MiB, at the bottom of memory.
    linked = x86.RODATA + SLIDE
    for level, (shift, entry) in enumerate(
        ((39, TABLES + 0x3000 | 1), (30, TABLES + 0x4000 | 1), (21, 0x81))
    ):
        at = (TABLES, TABLES + 0x3000, TABLES + 0x4000)[level]
        guest.put(at + 8 * (linked >> shift & 511), struct.pack("<Q", entry))
    guest.put(linked & 0x1FFFFF, x86.BANNER)
    found = read(tmp_path, guest, notes, x86.elf(table=table))
    assert found.cpus[0].place == "function_5+0x3"
    assert found.cpus[0].comm == "busybox"
    # These types have no printk_ringbuffer.
    assert found.log is None
    assert found.without_log is not None
    assert "by the kernel's types: the kernel's types have no structure" in found.without_log
