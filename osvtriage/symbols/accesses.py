"""Instructions of a Linux kernel that write to memory or to the stack, for a debugger to run."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

from osvtriage.model.errors import SymbolError
from osvtriage.model.overflow import ACCESSES, Access, Site
from osvtriage.symbols import disassembly
from osvtriage.symbols.disassembly import Instruction
from osvtriage.symbols.elf import ElfImage

# The functions that are searched, and the instruction's form. memset() is what the compiler calls
# to clear a variable; which of its bodies a processor uses is chosen at boot, but all are there
# (arch/x86/lib/memset_64.S). vfs_read() is any function that saves registers and calls others.
_FORMS: dict[Access, tuple[tuple[str, ...], str]] = {
    "rep-stos": (("memset", "__memset", "memset_erms"), r"rep stos([bq]) .*"),
    "push": (("vfs_read", "vfs_write"), r"push r\w+"),
    "call": (("vfs_read", "vfs_write"), r"call (0x[0-9a-f]+)"),
}


def sites(elf: ElfImage, rewritten: Container[int]) -> tuple[Site, ...]:
    """One instruction for each kind of access, of those that the kernel does not rewrite at boot.

    Raises:
        SymbolError: there is none of that form.
    """
    return tuple(_site(elf, rewritten, access) for access in ACCESSES)


def _site(elf: ElfImage, rewritten: Container[int], access: Access) -> Site:
    names, form = _FORMS[access]
    searched: list[str] = []
    for name, code in _code(elf, names):
        searched.append(disassembly.listing(code[:24]))
        for one in code:
            found = re.fullmatch(form, one.text)
            end = one.address + len(one.code)
            if not found or any(at in rewritten for at in range(one.address, end)):
                continue
            then = int(found[1], 0) if access == "call" else end
            width = 1 if access == "rep-stos" and found[1] == "b" else 8
            return Site(access, one.address, len(one.code), width, then, name, one.text)
    raise SymbolError(
        f"{elf.path}: none of {', '.join(names)} has an instruction of the form `{form}`; their "
        "code:\n" + "\n".join(searched)
    )


def _code(elf: ElfImage, names: tuple[str, ...]) -> Iterator[tuple[str, list[Instruction]]]:
    for name in names:
        for symbol in elf.functions(name):
            yield symbol.name, disassembly.function(elf, symbol)
