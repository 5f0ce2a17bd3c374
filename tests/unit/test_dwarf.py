"""Structures of a C++ program, from the debug information of a small one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import osv_kernel
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from osvtriage.arch import X86_64
from osvtriage.model.errors import SymbolError
from osvtriage.symbols.dwarf import Types
from osvtriage.symbols.elf import ElfImage


@pytest.fixture(scope="module")
def types() -> Iterator[Types]:
    with ElfImage(osv_kernel.KERNEL, X86_64) as elf:
        code = elf.symbol("thread_main_c").address
    with Types(osv_kernel.KERNEL, code) as made:
        yield made


def test_a_structure_has_its_members_offsets(types: Types) -> None:
    assert types.members("thread_state") == {"rsp": 0, "rbp": 8, "rip": 16}
    assert types.members("sched::cpu") == {"arch": 0, "id": 40}


def test_a_class_inside_a_class_inside_a_namespace(types: Types) -> None:
    assert types.members("sched::thread::attr") == {
        "_stack": 0,
        "_pinned_cpu": 16,
        "_detached": 24,
        "_name": 25,
    }


def test_static_members_are_no_part_of_an_object(types: Types) -> None:
    members = types.members("sched::thread")
    assert "count" not in members
    assert members["_state"] == 72


def test_an_enumeration_has_its_values_names(types: Types) -> None:
    assert types.enumerators("sched::thread::status") == {
        0: "invalid",
        1: "prestarted",
        3: "waiting",
        5: "running",
    }


@pytest.mark.parametrize(
    "name",
    [
        "sched::process",
        "thread",
        "sched::thread::nothing",
        "process::thread",
        # Only declared.
        "sched::thread::undefined",
        # An enumeration.
        "sched::thread::status",
    ],
)
def test_a_type_that_is_not_there(types: Types, name: str) -> None:
    with pytest.raises(SymbolError, match=f"no debug information on {name}$"):
        types.members(name)


def test_code_that_no_compilation_unit_covers() -> None:
    with pytest.raises(SymbolError, match="no debug information for the code at 0x1234"):
        Types(osv_kernel.KERNEL, 0x1234)


def test_a_file_without_debug_information(tmp_path: Path) -> None:
    with osv_kernel.with_changes(tmp_path, osv_kernel.without(".debug_aranges")) as elf:
        code = elf.symbol("thread_main_c").address
        with pytest.raises(SymbolError, match="no debug information for the code at"):
            Types(elf.path, code)


def test_debug_information_without_its_half_cannot_be_read(tmp_path: Path) -> None:
    with osv_kernel.with_changes(tmp_path, osv_kernel.without(".debug_abbrev")) as elf:
        code = elf.symbol("thread_main_c").address
        with pytest.raises(SymbolError, match="debug information cannot be read"):
            Types(elf.path, code).members("sched::thread")


# The sections are in the file's order.
with ElfImage(osv_kernel.KERNEL, X86_64) as _elf:
    CODE = _elf.symbol("thread_main_c").address
DEBUG = osv_kernel.WHOLE.index(b"GCC: ("), osv_kernel.WHOLE.index(b"\0.symtab\0")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(*DEBUG), st.integers(0, 255)), max_size=6),
    length=st.one_of(st.just(len(osv_kernel.WHOLE)), st.integers(0, len(osv_kernel.WHOLE))),
)
# An entry whose sibling is itself.
@example(changes=[(8553, 112), (10513, 133), (9025, 75)], length=12464)
def test_damaged_debug_information_gives_a_symbol_error_and_nothing_else(
    tmp_path: Path, changes: list[tuple[int, int]], length: int
) -> None:
    damaged = bytearray(osv_kernel.WHOLE)
    for at, value in changes:
        damaged[at] = value
    path = osv_kernel.write(tmp_path, bytes(damaged[:length]))
    try:
        with Types(path, CODE) as types:
            types.members("sched::thread::attr")
            types.enumerators("sched::thread::status")
    except SymbolError:
        pass
