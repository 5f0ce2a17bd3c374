"""Where ftrace changes a Linux kernel's code: the start of every function that can be traced."""

from __future__ import annotations

import sys
from array import array

from osvtriage.symbols.elf import ElfImage


def mcount_sites(elf: ElfImage) -> array[int]:
    """The addresses that the kernel lists in __mcount_loc (kernel/trace/ftrace.c)."""
    start, stop = "__start_mcount_loc", "__stop_mcount_loc"
    if not (elf.has_symbol(start) and elf.has_symbol(stop)):
        # A kernel without ftrace rewrites nothing for it.
        return array("Q")
    begin = elf.symbol(start).address
    sites = array("Q", elf.read(begin, elf.symbol(stop).address - begin))
    if sys.byteorder != elf.arch.byte_order:
        sites.byteswap()
    return sites
