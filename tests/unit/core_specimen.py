"""Dumps as QEMU writes them, made by hand: a kernel's log in a guest's memory of 1 MiB."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from osvtriage.vmcore.memory import PPC_PAGE_OFFSET, X86_KERNEL_MAP

MACHINES = {"x86_64": 62, "ppc64le": 21}
MEMORY = 1 << 20

# Where things are in the guest's physical memory.
INFO, PRB, RING, DESCRIPTORS, INFOS, TEXT, TABLES = (
    *(0x1000, 0x3000, 0x3010, 0x4000, 0x8000, 0x10000, 0x40000),
)
# Not 0, so that whatever forgets it is wrong.
PHYS_BASE = 0x2000
SLIDE = 0x33A00000
COUNT_BITS, SIZE_BITS = 4, 12

OFFSETS = {
    "printk_ringbuffer.desc_ring": 0,
    "printk_ringbuffer.text_data_ring": 48,
    "prb_desc_ring.count_bits": 0,
    "prb_desc_ring.descs": 8,
    "prb_desc_ring.infos": 16,
    "prb_desc_ring.head_id": 24,
    "prb_desc_ring.tail_id": 32,
    "prb_desc.state_var": 0,
    "prb_desc.text_blk_lpos": 8,
    "prb_data_blk_lpos.begin": 0,
    "prb_data_blk_lpos.next": 8,
    "printk_info.seq": 0,
    "printk_info.ts_nsec": 8,
    "printk_info.text_len": 16,
    "printk_info.caller_id": 20,
    "prb_data_ring.size_bits": 0,
    "prb_data_ring.data": 8,
}
SIZES = {"prb_desc": 24, "printk_info": 88}
FINALIZED = 2


def note(owner: bytes, kind: int, contents: bytes, order: str = "<") -> bytes:
    """An ELF note."""
    name = owner + b"\0"
    padded = name.ljust(-(-len(name) // 4) * 4, b"\0")
    header = struct.pack(order + "3I", len(name), len(contents), kind)
    return header + padded + contents.ljust(-(-len(contents) // 4) * 4, b"\0")


def prstatus(registers: Sequence[int], order: str = "<") -> bytes:
    """The note of a vCPU."""
    words = struct.pack(f"{order}{len(registers)}Q", *registers)
    return note(b"CORE", 1, bytes(112) + words + bytes(8), order)


@dataclass
class Guest:
    """A guest's memory with a kernel's log in it.

    ``virtual`` turns a physical address into the kernel's; on x86-64 the ring's arrays are in the
    direct map, which page tables lead to, the rest in the kernel's own map.
    """

    arch: str = "x86_64"
    records: Sequence[str] = ()
    first: int = 0
    caller: int = 0
    release: str = "6.1.0-50-amd64"
    changed: Mapping[str, int] = field(default_factory=dict)
    memory: bytearray = field(default_factory=lambda: bytearray(MEMORY))

    DIRECT = 0xFF11000000000000

    def in_kernel(self, physical: int) -> int:
        """The address in the kernel's own map."""
        if self.arch == "ppc64le":
            return PPC_PAGE_OFFSET + physical
        return X86_KERNEL_MAP + physical - PHYS_BASE

    def in_direct_map(self, physical: int) -> int:
        """The address in the map of all memory."""
        if self.arch == "ppc64le":
            return PPC_PAGE_OFFSET + physical
        return self.DIRECT + physical

    def build(self) -> Guest:
        """Write it all."""
        self._log()
        self._tables()
        self.put(INFO, b"VMCOREINFO\0\0" + self.vmcoreinfo())
        return self

    def put(self, at: int, data: bytes) -> None:
        """Write into memory."""
        self.memory[at : at + len(data)] = data

    def vmcoreinfo(self) -> bytes:
        """What the kernel says of itself."""
        lines = [f"OSRELEASE={self.release}", "BUILD-ID=06f8", "PAGESIZE=4096"]
        symbols = {"prb": PRB, "init_top_pgt": TABLES}
        lines += [f"SYMBOL({name})={self.in_kernel(at):x}" for name, at in symbols.items()]
        lines += [f"OFFSET({name})={at}" for name, at in OFFSETS.items()]
        lines += [f"SIZE({name})={size}" for name, size in SIZES.items()]
        lines += [f"NUMBER(phys_base)={PHYS_BASE}", "NUMBER(pgtable_l5_enabled)=0"]
        lines += ["NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129", f"KERNELOFFSET={SLIDE:x}"]
        return "\n".join(lines).encode() + b"\n\0"

    def _log(self) -> None:
        values = {"count_bits": COUNT_BITS, "size_bits": SIZE_BITS} | self.changed
        last = max(self.first + len(self.records) - 1, 0)
        self.put(PRB, struct.pack("<Q", self.in_kernel(RING)))
        ring = struct.pack(
            "<IxxxxQQQQ8x",
            values["count_bits"],
            self.in_direct_map(values.get("descs", DESCRIPTORS)),
            self.in_direct_map(INFOS),
            values.get("head_id", last),
            values.get("tail_id", max(self.first, last - (1 << COUNT_BITS) + 1)),
        )
        self.put(RING, ring + struct.pack("<IxxxxQ", values["size_bits"], self.in_direct_map(TEXT)))
        position = 0
        for number, text in enumerate(self.records, self.first):
            position = self._record(number, text.encode(), position)

    def _record(self, number: int, text: bytes, begin: int) -> int:
        """Write a record, and say where the next block begins."""
        size = 1 << SIZE_BITS
        end = begin + -(-(8 + len(text)) // 8) * 8
        start = begin
        if begin // size != (end - 1) // size:
            # It does not fit behind the others.
            start = (begin // size + 1) * size
            end = start + -(-(8 + len(text)) // 8) * 8
        self.put(TEXT + start % size, struct.pack("<Q", number) + text)
        index = number % (1 << COUNT_BITS)
        state = FINALIZED << 62 | number
        block = (begin, end) if text else (3, 3)
        self.put(DESCRIPTORS + 24 * index, struct.pack("<3Q", state, *block))
        info = struct.pack("<QQHBBI", number, 10**9 + number * 1000, len(text), 0, 0, self.caller)
        self.put(INFOS + 88 * index, info)
        return end if text else begin

    def _tables(self) -> None:
        """4 levels, and a page of 2 MiB for the direct map's beginning."""
        index = [self.DIRECT >> shift & 511 for shift in (39, 30, 21)]
        entries = (TABLES + 0x1000 | 1, TABLES + 0x2000 | 1, 0 | 1 | 1 << 7)
        for level, entry in enumerate(entries):
            self.put(TABLES + 0x1000 * level + 8 * index[level], struct.pack("<Q", entry))

    def core(self, notes: bytes = b"", order: str = "<") -> bytes:
        """The file."""
        machine = MACHINES[self.arch]
        ident = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + b"\x01" + bytes(9)
        header = struct.pack(
            order + "16sHHIQQQIHHHHHH", ident, 4, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0
        )
        at = 64 + 2 * 56
        program = struct.Struct(order + "IIQQQQQQ")
        programs = program.pack(4, 0, at, 0, 0, len(notes), len(notes), 0)
        programs += program.pack(1, 0, at + len(notes), 0, 0, MEMORY, MEMORY, 0)
        return header + programs + notes + bytes(self.memory)
