"""Where things are in an OSv kernel: what its code and its debug information tell, and do not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import osv_kernel
import pytest
from osv_kernel import with_changes, without

from osvtriage.arch import X86_64
from osvtriage.model.errors import SymbolError
from osvtriage.model.plan import Field, StackPlan, SystemCallSite
from osvtriage.symbols import osv
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.layout import Layout

CURRENT = -64


@pytest.fixture(scope="module")
def elf() -> Iterator[ElfImage]:
    with ElfImage(osv_kernel.KERNEL, X86_64) as image:
        yield image


@pytest.fixture(scope="module")
def whole(elf: ElfImage) -> Layout:
    return osv.layout(elf)


def changed(directory: Path, changes: dict[bytes, bytes]) -> Layout:
    with with_changes(directory, changes) as elf:
        return osv.layout(elf)


def test_a_kernel_that_has_all_misses_nothing(elf: ElfImage, whole: Layout) -> None:
    assert whole.missing == ()
    (text,) = whole.samples
    assert (text.what, text.address, text.size) == (".text", 0x40200000, elf.section(".text").size)


def test_a_thread_is_told_by_its_control_block(whole: Layout) -> None:
    assert (whole.thread.base, whole.thread.offset) == ("fs_base", None)
    assert whole.thread.fields == {
        "pid": Field((CURRENT, 0), 4),
        "comm": Field((CURRENT, 41), 16),
    }


def test_the_system_calls_stack_is_read_from_the_code(whole: Layout) -> None:
    assert whole.fields["syscall_stack_top"] == Field((0x10,), 8)
    assert whole.fields["syscall_caller_stack_pointer"] == Field((0x18,), 8)
    # Not the first allocation there, of 64 bytes.
    assert whole.stacks == {"syscall_stack": StackPlan(Field((0x10,), 8), 1024, 16, 16)}


def test_the_calls_with_all_registers_pushed(elf: ElfImage, whole: Layout) -> None:
    assert whole.unwind is not None
    entry = elf.symbol("syscall_entry").address
    saved = ("r15", "rax", "rbp", "rcx", "rcx")
    # The third call, further on, is another one.
    assert whole.unwind.system_calls == (
        SystemCallSite(entry + 0x1F, entry + 0x24, saved, "rcx"),
        SystemCallSite(entry + 0x31, entry + 0x36, saved, "rcx"),
    )
    for site in whole.unwind.system_calls:
        assert elf.read(site.call, 1) == b"\xe8"


def test_exception_frames_are_found_by_their_entries(elf: ElfImage, whole: Layout) -> None:
    assert whole.unwind is not None
    entries = {
        entry.what: (entry.start, entry.end, entry.above) for entry in whole.unwind.exceptions
    }
    expected = {
        "page fault": ("ex_pf", 16),
        "general protection": ("ex_gp", 16),
        # Without the alignment that the others have.
        "interrupt": ("interrupt_entry_common", 8),
    }
    assert entries == {
        what: (elf.symbol(name).address, elf.symbol(name).end, above)
        for what, (name, above) in expected.items()
    }
    # What was pushed last is lowest; the processor's part is above.
    names = ["rbp", "rax", "error_code", "rip", "cs", "rflags", "rsp", "ss"]
    assert whole.unwind.frame == {name: (8 * at, 8) for at, name in enumerate(names)}


def test_the_list_of_threads_is_from_debug_information(elf: ElfImage, whole: Layout) -> None:
    assert whole.threads is not None
    assert whole.threads.address == elf.symbol("_ZN5sched10thread_mapE").address
    assert whole.threads.offsets == {
        "id": 0,
        "tcb": 8,
        "stack.begin": 16,
        "stack.size": 24,
        "name": 41,
        "detached_state": 64,
        "detached_state.cpu": 8,
        "detached_state.status": 16,
        "cpu.id": 40,
        "state.sp": 72,
        "state.fp": 80,
        "state.pc": 88,
    }
    assert whole.threads.statuses["5"] == "running"


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        (without("syscall_entry"), "backtraces end at a system call: .*'syscall_entry'"),
        # `nop` in the place of `push %rcx`; and calls that go elsewhere.
        ({b"\x51\x51\x55\x50": b"\x90\x90\x55\x50"}, "backtraces end at a system call: "),
        (
            without("setup_large_syscall_stack", "free_tiny_syscall_stack"),
            "does not push registers and call setup_large_syscall_stack and free_tiny_syscall",
        ),
    ],
)
def test_without_its_pushes_a_system_call_ends_backtraces(
    tmp_path: Path, changes: dict[bytes, bytes], missing: str
) -> None:
    layout = changed(tmp_path, changes)
    assert layout.unwind is not None
    assert layout.unwind.system_calls == ()
    assert re.search(missing, layout.missing[0])
    # What is known is told all the same.
    assert layout.unwind.exceptions
    assert layout.threads is not None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        # The operand of the load of the stack pointer: %gs in the place of %fs, both times.
        (
            {
                b"\x64\x48\x8b\x24\x25\x10\x00\x00\x00\x48\x83\x3c":
                b"\x65\x48\x8b\x24\x25\x10\x00\x00\x00\x48\x83\x3c",
                b"\x64\x48\x8b\x24\x25\x10\x00\x00\x00\x48\x83\xec":
                b"\x65\x48\x8b\x24\x25\x10\x00\x00\x00\x48\x83\xec",
            },
            "syscall_entry has no instruction of the form `mov rsp, qword ptr fs:",
        ),
        (
            {b"\x64\x48\x89\x24\x25\x18": b"\x65\x48\x89\x24\x25\x18"},
            "syscall_entry has no instruction of the form `mov qword ptr fs:",
        ),
        (without("_ZN5sched6thread9setup_tcbEv"), "has no symbol .*setup_tcb"),
        # Another size than the top agrees with.
        ({b"\xbf\x00\x04\x00\x00": b"\xbf\x00\x08\x00\x00"}, "does not show its size"),
        ({b"\xbf\x00\x04\x00\x00": b"\xbe\x00\x04\x00\x00"}, "does not show its size"),
    ],
)  # fmt: skip
def test_without_its_shape_the_stack_is_not_measured(
    tmp_path: Path, changes: dict[bytes, bytes], why: str
) -> None:
    layout = changed(tmp_path, changes)
    (sentence,) = layout.missing
    assert layout.stacks == {}
    assert sentence.startswith("the use of the system call's first stack is not measured: ")
    assert re.search(why, sentence)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (without(".debug_aranges"), "no debug information for the code at"),
        (without("_ZN5sched9s_currentE"), "no thread-local variable '_ZN5sched9s_currentE'"),
        (without("_ZN5sched10thread_mapE"), "has no symbol '_ZN5sched10thread_mapE'"),
        (without("thread_main_c"), "has no symbol 'thread_main_c'"),
        ({b"\0_tcb\0": b"\0_bct\0"}, "no member '_tcb'"),
    ],
)
def test_without_debug_information_threads_have_no_names(
    tmp_path: Path, changes: dict[bytes, bytes], why: str
) -> None:
    layout = changed(tmp_path, changes)
    (sentence,) = layout.missing
    assert sentence.startswith("threads have no names and are not listed: ")
    assert why in sentence
    assert (layout.threads, layout.thread.fields) == (None, {})
    # A probe needs none of it.
    assert layout.stacks
    assert layout.thread.base == "fs_base"


def test_an_entry_of_another_shape_is_no_entry(tmp_path: Path) -> None:
    # ex_gp comes first; its `mov %rsp,%rdi` becomes `mov %rsp,%rsi`.
    old = b"\x50\x55\x48\x89\xe7\x48\x83\xec\x08"
    content = osv_kernel.WHOLE.replace(old, old.replace(b"\xe7", b"\xe6"), 1)
    with ElfImage(osv_kernel.write(tmp_path, content), X86_64) as elf:
        unwind = osv.layout(elf).unwind
    assert unwind is not None
    assert [entry.what for entry in unwind.exceptions] == ["page fault", "interrupt"]


def test_a_kernel_without_text_is_refused(tmp_path: Path) -> None:
    with (
        with_changes(tmp_path, without(".text")) as elf,
        pytest.raises(SymbolError, match=r"has no section \.text"),
    ):
        osv.layout(elf)
