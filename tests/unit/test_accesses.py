"""Instructions for a debugger to run, and the size of the kernel's stacks, from a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from osvtriage.arch import X86_64
from osvtriage.model.errors import SymbolError
from osvtriage.symbols import accesses, linux_stacks
from osvtriage.symbols.elf import ElfImage, Symbol

MEMSET, READ = 0xFFFFFFFF81000000, 0xFFFFFFFF82000000
CODE = {
    # rep stosb (%rdi); jmp .
    "memset": (MEMSET, bytes.fromhex("f3aa ebfe")),
    # call __fentry__; push %r15; push %rbx; call +0x100; ret
    "vfs_read": (READ, bytes.fromhex("e800000000 4157 53 e8fb000000 c3")),
}


class Kernel:
    """As much of a kernel's ELF file as is looked at."""

    arch, path = X86_64, Path("vmlinux")

    def __init__(self, **code: tuple[int, bytes]) -> None:
        self.code = code

    def _symbol(self, name: str) -> Symbol:
        at, content = self.code[name]
        return Symbol(name, at, len(content), at)

    def functions(self, name: str) -> list[Symbol]:
        return [self._symbol(name)] if self.has_symbol(name) else []

    def has_symbol(self, name: str) -> bool:
        return name in self.code

    symbol = _symbol

    def read(self, address: int, size: int) -> bytes:
        return next(
            content[address - at : address - at + size]
            for at, content in self.code.values()
            if at <= address < at + len(content)
        )


def kernel(**code: Any) -> ElfImage:
    return cast(ElfImage, Kernel(**code))


def test_what_the_kernel_rewrites_is_passed_over() -> None:
    stos, push, call = accesses.sites(kernel(**CODE), range(READ, READ + 5))
    assert (stos.address, stos.size, stos.width, stos.then) == (MEMSET, 2, 1, MEMSET + 2)
    assert (push.address, push.size, push.then) == (READ + 5, 2, READ + 7)
    assert push.text == "push r15"
    # A call goes on where it calls.
    assert (call.address, call.size, call.then) == (READ + 8, 5, READ + 0x108)


def test_a_kernel_without_the_instruction_shows_what_was_searched() -> None:
    code = CODE | {"memset": (MEMSET, bytes.fromhex("4889f8 c3"))}
    with pytest.raises(SymbolError, match=r"none of memset, __memset.*rep stos") as caught:
        accesses.sites(kernel(**code), ())
    assert "mov rax, rdi" in str(caught.value)


@pytest.mark.parametrize("names", [("init_stack",), ("init_task",)])
def test_the_stacks_size_is_between_two_symbols(names: tuple[str]) -> None:
    around = {f"__start_{names[0]}": (READ, b""), f"__end_{names[0]}": (READ + 0x4000, b"")}
    assert linux_stacks.stack_bytes(kernel(**around)) == 0x4000


def test_a_stack_of_an_odd_size_is_not_believed() -> None:
    around = {"__start_init_stack": (READ, b""), "__end_init_stack": (READ + 0x4100, b"")}
    with pytest.raises(SymbolError, match="0x4100 bytes apart"):
        linux_stacks.stack_bytes(kernel(**around))
    with pytest.raises(SymbolError, match="neither __start_init_stack nor __start_init_task"):
        linux_stacks.stack_bytes(kernel())
