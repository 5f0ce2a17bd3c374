"""Linux on x86-64: what its types, symbols and tables tell, and the current task in gdb."""

from __future__ import annotations

import importlib
import struct
from pathlib import Path

import gdb_stand_in
import pytest
import x86_kernel as x86

from osvtriage.arch import X86_64
from osvtriage.images.progress import silent
from osvtriage.images.vmlinuz import kernel_symbols
from osvtriage.model.errors import SymbolError
from osvtriage.model.plan import Field, GdbPlan, ThreadPlan
from osvtriage.symbols import linux
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.linux_x86_64 import CodeRanges

TABLES = 0xFFFFFFFF85000000


def opened(directory: Path, kernel: bytes) -> ElfImage:
    path = directory / "vmlinuz"
    path.write_bytes(x86.bzimage(kernel))
    return ElfImage(kernel_symbols(path, silent), X86_64)


def test_the_fields_of_a_task(tmp_path: Path) -> None:
    with opened(tmp_path, x86.elf()) as elf:
        layout = linux.layout(elf)
    assert {name: (field.path, field.size) for name, field in layout.fields.items()} == {
        "comm": ((24,), 16),
        "pid": ((8,), 4),
        "tgid": ((12,), 4),
        "start_time": ((16,), 8),
        "mm": ((40,), 8),
        "mm.pgd": ((40, 16), 8),
        "stack": ((0,), 8),
    }
    (banner,) = layout.samples
    assert (banner.address, banner.size) == (x86.RODATA, len(x86.BANNER) - 1)
    assert set(layout.thread.fields) == {"pid", "comm", "start_time"}


@pytest.mark.parametrize(("form", "base"), [("before", 0), ("relative", x86.PERCPU)])
def test_the_current_task_is_a_per_cpu_variable(tmp_path: Path, form: x86.Form, base: int) -> None:
    with opened(tmp_path, x86.elf(form)) as elf:
        thread = linux.layout(elf).thread
    assert (thread.base, thread.other_base) == ("gs_base", "k_gs_base")
    assert (thread.offset, thread.own) == (base + 0x40, base + 0x48)


def test_the_current_task_in_the_hot_structure(tmp_path: Path) -> None:
    table = [("pcpu_hot" if name == "current_task" else name, *at) for name, *at in x86.symbols()]
    with opened(tmp_path, x86.elf(table=[(n, str(k), int(a)) for n, k, a in table])) as elf:
        assert linux.layout(elf).thread.offset == 0x40 + 8


def test_a_kernel_without_types(tmp_path: Path) -> None:
    kernel = x86.elf().replace(b".BTF\0", b".xyz\0")
    with opened(tmp_path, kernel) as elf, pytest.raises(SymbolError) as caught:
        linux.layout(elf)
    assert "has no type information (.BTF)" in str(caught.value)
    assert caught.value.hint is not None
    assert "CONFIG_DEBUG_INFO_BTF" in caught.value.hint


def test_types_that_are_damaged_name_the_file(tmp_path: Path) -> None:
    with (
        opened(tmp_path, x86.elf(btf=b"no types at all, and long enough")) as elf,
        pytest.raises(SymbolError, match="vmlinux: its types cannot be read: it is no little"),
    ):
        linux.layout(elf)


def test_a_comm_of_another_size_is_not_believed(tmp_path: Path) -> None:
    btf = x86.types(comm_bytes=32).data()
    with opened(tmp_path, x86.elf(btf=btf)) as elf, pytest.raises(SymbolError, match="32 bytes"):
        linux.layout(elf)


def test_an_init_task_of_another_name_is_not_believed(tmp_path: Path) -> None:
    kernel = x86.elf().replace(b"swapper\0", b"sweeper\0")
    with opened(tmp_path, kernel) as elf, pytest.raises(SymbolError, match=r"comm.*not to b'swap"):
        linux.layout(elf)


def relative(at: int, *entries: tuple[int, bytes]) -> bytes:
    """A table at *at* whose entries begin with the distance to an address."""
    table = b""
    for address, rest in entries:
        table += struct.pack("<i", address - at - len(table)) + rest
    return table


# Section or the symbols round it, an entry's address and what follows the distance, how far.
@pytest.mark.parametrize(
    ("section", "rest", "size"),
    [
        (".altinstructions", bytes(6) + b"\x07\x05", 7),
        (".retpoline_sites", b"", 5),
        (".return_sites", b"", 5),
        (".ibt_endbr_seal", b"", 4),
        (".smp_locks", b"", 1),
        ("runtime_ptr_table", b"", 8),
        ("runtime_shift_table", b"", 1),
    ],
)
def test_what_a_table_lists_is_rewritten(
    tmp_path: Path, section: str, rest: bytes, size: int
) -> None:
    sites = [x86.function(3)[2], x86.function(5)[2] + 2]
    table = relative(TABLES, *((site, rest) for site in sites))
    with opened(tmp_path, x86.elf(sections={section: (TABLES, table)})) as elf:
        rewritten = linux.layout(elf).rewritten
    for site in sites:
        assert site - 1 not in rewritten
        assert all(at in rewritten for at in range(site, site + size))
        assert site + size not in rewritten


@pytest.mark.parametrize("code", [b"\x2e\xe8", b"\x0f\x84"])
def test_a_thunk_with_a_prefix_is_a_byte_longer(tmp_path: Path, code: bytes) -> None:
    site = x86.function(3)[2]
    kernel = x86.elf(sections={".retpoline_sites": (TABLES, relative(TABLES, (site, b"")))})
    at = kernel.index(b"\x90" * 64) + site - x86.TEXT
    with opened(tmp_path, kernel[:at] + code + kernel[at + 2 :]) as elf:
        rewritten = linux.layout(elf).rewritten
    assert site + 5 in rewritten
    assert site + 6 not in rewritten


@pytest.mark.parametrize(
    ("name", "rest", "code", "size"),
    [
        ("static_call_sites", bytes(4), b"\xe8", 5),
        ("__jump_table", bytes(12), b"\xe9", 5),
        ("__jump_table", bytes(12), b"\xeb", 2),
        ("__jump_table", bytes(12), b"\x66\x90", 2),
    ],
)
def test_what_lies_between_two_symbols_is_rewritten(
    tmp_path: Path, name: str, rest: bytes, code: bytes, size: int
) -> None:
    site = x86.function(3)[2]
    start = f"__start_{name}"
    stop = f"__stop_{name}"
    content = relative(TABLES, (site, rest))
    table = [*x86.symbols(), (start, "D", TABLES), (stop, "D", TABLES + len(content))]
    kernel = x86.elf(table=table, sections={name: (TABLES, content)})
    at = kernel.index(b"\x90" * 64) + site - x86.TEXT
    with opened(tmp_path, kernel[:at] + code + kernel[at + len(code) :]) as elf:
        rewritten = linux.layout(elf).rewritten
    assert site + size - 1 in rewritten
    assert site + size not in rewritten


def test_the_last_paravirt_site_can_lack_its_padding(tmp_path: Path) -> None:
    sites = [x86.function(3)[2], x86.function(5)[2]]
    content = b"".join(struct.pack("<QBB6x", site, 1, 7) for site in sites)[:-4]
    with opened(tmp_path, x86.elf(sections={".parainstructions": (TABLES, content)})) as elf:
        rewritten = linux.layout(elf).rewritten
    assert all(site + 6 in rewritten and site + 7 not in rewritten for site in sites)


def test_ranges_in_any_order() -> None:
    ranges = CodeRanges([(30, 34), (10, 12), (32, 33), (34, 36), (20, 20)])
    inside = [at for at in range(40) if at in ranges]
    assert inside == [10, 11, *range(30, 36)]
    assert "x" not in ranges
    assert 5 not in CodeRanges([])


# What gdb does with the plan.

PLAN = GdbPlan(
    "x86_64",
    ThreadPlan("gs_base", 0x40, {"comm": Field((24,), 16)}, other_base="k_gs_base", own=0x48),
    (),
)
PERCPU, TASK = 0xFFFF88801F400000, 0xFFFF888004000000


@pytest.fixture
def gdb(monkeypatch: pytest.MonkeyPatch) -> gdb_stand_in.Gdb:
    stand_in = gdb_stand_in.Gdb()
    gdb_stand_in.take_the_place_of_gdb(stand_in, monkeypatch)
    stand_in.memory.write(PERCPU + 0x40, struct.pack("<QQ", TASK, PERCPU))
    stand_in.memory.write(TASK + 24, b"init".ljust(16, b"\0"))
    return stand_in


def current(gdb: gdb_stand_in.Gdb, gs: int, kernel_gs: int, plan: GdbPlan = PLAN) -> int | None:
    gdb.registers |= {"gs_base": gs, "k_gs_base": kernel_gs}
    guest = importlib.import_module("osvtriage.gdb.inside.guest")
    found: int | None = guest.Guest(plan, X86_64).current()
    return found


def test_the_task_in_kernel_mode_and_in_user_mode(gdb: gdb_stand_in.Gdb) -> None:
    assert current(gdb, PERCPU, 0) == TASK
    assert current(gdb, 0, PERCPU) == TASK
    assert current(gdb, PERCPU, 0x7F0000000000) == TASK


def test_a_program_cannot_pretend_to_be_another_task(gdb: gdb_stand_in.Gdb) -> None:
    fake = 0x10000
    gdb.memory.write(fake + 0x40, struct.pack("<QQ", 0xBAD, fake))
    assert current(gdb, fake, PERCPU) == TASK


def test_no_task_where_no_base_is_the_kernels(gdb: gdb_stand_in.Gdb) -> None:
    assert current(gdb, 0, 0) is None
    assert current(gdb, PERCPU + 8, 0) is None


def test_offsets_that_are_addresses_wrap_round(gdb: gdb_stand_in.Gdb) -> None:
    linked = 0xFFFFFFFF83E0C000
    thread = ThreadPlan("gs_base", linked + 0x40, {}, "k_gs_base", linked + 0x48)
    base = (PERCPU - linked) % 2**64
    gdb.memory.write(PERCPU + 0x48, struct.pack("<Q", base))
    plan = GdbPlan("x86_64", thread, ())
    assert GdbPlan.from_json(plan.to_json()) == plan
    assert current(gdb, base, 0, plan) == TASK
