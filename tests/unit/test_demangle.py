"""C++ names as people write them."""

from __future__ import annotations

import ctypes.util
import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.symbols.demangle import demangled


@pytest.fixture(scope="module", autouse=True)
def _libraries_are_found_without_a_process() -> None:
    """The demangler is libstdc++'s; ctypes asks ldconfig where that is, when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ctypes.util, "find_library", {"c": "libc.so.6", "stdc++": "libstdc++.so.6"}.get
        )
        importlib.import_module("cxxfilt")


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        # What is not mangled stays as it is.
        ("syscall_entry", "syscall_entry"),
        ("flush_all_to_thread.part.0", "flush_all_to_thread.part.0"),
        ("_start", "_start"),
        ("", ""),
        # Neither does what only looks like it.
        ("_Z", "_Z"),
        ("_Znope", "_Znope"),
        # Parameters go, and a template's result.
        ("_ZN5sched6thread9setup_tcbEv", "sched::thread::setup_tcb"),
        ("_Z5abortPKcz", "abort"),
        ("_Z1fPFivE", "f"),
        ("_ZN6memory20page_range_allocator5allocILb1EEEvmb",
         "memory::page_range_allocator::alloc<true>"),
        ("_ZN1XILi1EE1fEPFvvE", "X<1>::f"),
        # What stands behind the parameters goes with them.
        ("_ZNK5sched6thread4tcpuEv", "sched::thread::tcpu"),
        ("_ZNKR3foo3barEv", "foo::bar"),
        ("_ZNO3foo3barEv", "foo::bar"),
        ("_ZNV3foo3barEv", "foo::bar"),
        # The compiler's parts keep their suffix.
        ("_ZN5sched6thread23free_tiny_syscall_stackEv.part.0",
         "sched::thread::free_tiny_syscall_stack.part.0"),
        ("_ZN3osv4haltEv.cold", "osv::halt.cold"),
        # Parentheses and spaces inside a name are the name's.
        ("_ZN12_GLOBAL__N_13fooEv", "(anonymous namespace)::foo"),
        ("_ZN3fooclEv", "foo::operator()"),
        ("_ZN3foocvbEv", "foo::operator bool"),
        ("_Znwm", "operator new"),
        ("_ZZN5sched3cpu4idleEvENKUlvE_clEv", "sched::cpu::idle()::{lambda()#1}::operator()"),
        # Data has neither parameters nor a result.
        ("_ZN5sched10thread_mapE", "sched::thread_map"),
        ("_ZTV3foo", "vtable for foo"),
    ],
)  # fmt: skip
def test_a_name_is_the_one_in_the_source(symbol: str, name: str) -> None:
    assert demangled(symbol) == name


@given(st.text(alphabet="_ZNKRO0123456789abEvIL.", max_size=30).map(lambda tail: "_Z" + tail))
def test_no_symbol_whatever_is_without_a_name(symbol: str) -> None:
    assert demangled(symbol)
