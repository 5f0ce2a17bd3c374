"""Types from BTF: members by path, sizes, and blobs that are damaged."""

from __future__ import annotations

import struct

import pytest
import x86_kernel as x86
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.model.errors import SymbolError
from osvtriage.symbols.btf import Btf

DATA = x86.types().data()


@pytest.fixture
def types() -> Btf:
    return Btf(DATA)


@pytest.mark.parametrize(
    ("name", "path", "place"),
    [
        ("task_struct", "comm", (24, 16)),  # an array
        ("task_struct", "stack", (0, 8)),  # a pointer
        ("task_struct", "tgid", (12, 4)),  # in an anonymous union, behind two typedefs
        ("task_struct", "thread.fsbase", (56, 8)),
        ("task_struct", "thread", (48, 16)),
        ("mm_struct", "pgd", (16, 8)),  # const, in an anonymous structure
        ("flags", "whole", (4, 4)),
    ],
)
def test_members(types: Btf, name: str, path: str, place: tuple[int, int]) -> None:
    assert types.member(name, path) == place
    assert types.has_member(name, path)


def test_structures_and_their_sizes(types: Btf) -> None:
    assert types.size("task_struct") == 128
    assert types.has("pcpu_hot")
    assert not types.has("task")
    assert not types.has("int")


@pytest.mark.parametrize(
    ("name", "path", "says"),
    [
        ("task_struct", "absent", "struct task_struct of this kernel has no member 'absent'"),
        ("task_struct", "comm.x", "no member 'comm.x'"),
        ("absent", "x", "no structure 'absent'"),
        ("twice", "a", "2 structures 'twice'"),
        ("flags", "one", "is a bit field"),
    ],
)
def test_what_is_not_there(types: Btf, name: str, path: str, says: str) -> None:
    with pytest.raises(SymbolError, match=says):
        types.member(name, path)
    assert not types.has_member(name, path)


def with_type(kind: int) -> bytes:
    made = x86.types()
    made.add(kind, "new", 0, 0)
    return made.data()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no little-endian BTF"),
        (b"\xeb\x9f" + DATA[2:], "no little-endian BTF"),
        (DATA[:2] + b"\2" + DATA[3:], "BTF of version 2"),
        (DATA[:-1], "cut short: it has"),
        (with_type(31), "of kind 31, which osvtriage does not know"),
        (with_type(1), "cut short in its last type"),
    ],
)
def test_blobs_that_are_no_btf(data: bytes, says: str) -> None:
    with pytest.raises(SymbolError, match=says):
        Btf(data)


def test_types_that_lead_in_a_circle() -> None:
    made = x86.Types()
    made.add(8, "self", 0, 1)
    made.struct("s", 8, ("m", 1, 0))
    with pytest.raises(SymbolError, match="a type leads to none"):
        Btf(made.data()).member("s", "m")


def test_a_structure_that_holds_itself() -> None:
    made = x86.Types()
    made.struct("s", 8, ("", 1, 0))
    with pytest.raises(SymbolError, match="a type holds itself"):
        Btf(made.data()).member("s", "m")


@given(st.integers(24, len(DATA) - 4), st.integers(0, 2**32 - 1))
def test_damage_is_never_a_crash(at: int, word: int) -> None:
    try:
        types = Btf(DATA[:at] + struct.pack("<I", word) + DATA[at + 4 :])
        for path in ("comm", "tgid", "thread.fsbase", "absent"):
            types.member("task_struct", path)
    except SymbolError:
        pass
