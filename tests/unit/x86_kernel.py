"""A small x86-64 kernel as a distribution ships it: stripped, with kallsyms and BTF, packed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import lz4.block
import zstandard

TEXT, RODATA, DATA = 0xFFFFFFFF81000000, 0xFFFFFFFF82000000, 0xFFFFFFFF83000000
PERCPU = 0xFFFFFFFF84000000
BANNER = b"Linux version 6.1.0-50-test (builder@host) (gcc 12) #1 SMP 2026\n\0"
COMM_AT, FUNCTION_BYTES, FUNCTIONS = 24, 16, 1000

# before: up to 6.3; behind: up to 6.x; relative: 7.x. The first two with per-CPU symbols at 0.
Form = Literal["before", "behind", "unsigned", "relative"]

# What the tokens of the codes that are no characters stand for. Kernels have syllables.
_SYLLABLES = {code: f"{code:c}~{code}" for code in range(256) if not 0x20 < code < 0x7F}
_SYLLABLES |= {0: "x~0", 1: "function_"}


def function(number: int) -> tuple[str, str, int]:
    return f"function_{number}", "t", TEXT + FUNCTION_BYTES * number


def symbols(form: Form = "before") -> list[tuple[str, str, int]]:
    """Name, kind and address, in the order of the addresses."""
    at = PERCPU if form in ("relative", "unsigned") else 0
    kind = "D" if at else "A"
    percpu = [("__per_cpu_start", kind, at), ("current_task", kind, at + 0x40)]
    percpu.append(("this_cpu_off", kind, at + 0x48))
    rest = [("_text", "T", TEXT), *(function(number) for number in range(FUNCTIONS))]
    rest += [("_etext", "T", TEXT + FUNCTION_BYTES * FUNCTIONS)]
    rest += [("linux_banner", "R", RODATA), ("init_task", "D", DATA)]
    return rest + percpu if at else percpu + rest


def _aligned(data: bytes, to: int = 8) -> bytes:
    return data + bytes(-len(data) % to)


def rodata(table: Sequence[tuple[str, str, int]], form: Form = "before") -> bytes:
    """.rodata: the banner, and what scripts/kallsyms.c writes."""
    tokens = [_SYLLABLES.get(code, chr(code)).encode() for code in range(256)]
    names, markers = b"", []
    for number, (name, kind, _) in enumerate(table):
        if number % 256 == 0:
            markers.append(len(names))
        packed = (kind + name).encode().replace(b"function_", b"\1")
        length = bytes([len(packed)]) if len(packed) < 0x80 else b""
        names += (length or bytes([len(packed) & 0x7F | 0x80, len(packed) >> 7])) + packed
    to = 4 if form == "relative" else 8
    starts, at = [], 0
    for token in tokens:
        starts.append(at)
        at += len(token) + 1
    token_table = _aligned(b"".join(token + b"\0" for token in tokens), to)
    behind = token_table + struct.pack("<256H", *starts)
    num_syms = struct.pack("<I", len(table)) + (b"" if form == "relative" else bytes(4))
    middle = _aligned(names, to) + _aligned(struct.pack(f"<{len(markers)}I", *markers), to)
    base = struct.pack("<Q", TEXT)

    def offsets(of: Callable[[int, int], int]) -> bytes:
        values = [of(number, address) & 0xFFFFFFFF for number, (_, _, address) in enumerate(table)]
        return struct.pack(f"<{len(table)}I", *values)

    def from_base(_: int, address: int) -> int:
        return TEXT - 1 - address if address >= TEXT else address

    start = _aligned(BANNER, 16)
    if form == "before":
        return start + _aligned(offsets(from_base)) + base + num_syms + middle + behind
    start += num_syms + middle + behind
    if form == "relative":
        place = RODATA + len(start)
        return start + offsets(lambda number, address: address - place - 4 * number) + bytes(16)
    of = from_base if form == "behind" else lambda _, address: address - TEXT
    return start + _aligned(offsets(of)) + base + bytes(16)


class Types:
    """BTF in the making: each type is named by its number."""

    def __init__(self) -> None:
        self.types, self.strings, self.count = b"", b"\0", 0

    def add(self, kind: int, name: str, vlen: int, size: int, *words: int, flag: int = 0) -> int:
        info = flag << 31 | kind << 24 | vlen
        self.types += struct.pack(f"<{3 + len(words)}I", self.string(name), info, size, *words)
        self.count += 1
        return self.count

    def string(self, text: str) -> int:
        if not text:
            return 0
        entry = b"\0" + text.encode() + b"\0"
        if entry not in self.strings:
            self.strings += entry[1:]
        return self.strings.index(entry) + 1

    def struct(
        self, name: str, size: int, *members: tuple[str, int, int], kind: int = 4, flag: int = 0
    ) -> int:
        """A structure (4) or union (5); members are name, type and offset in bits."""
        words = [word for member, *rest in members for word in (self.string(member), *rest)]
        return self.add(kind, name, len(members), size, *words, flag=flag)

    def data(self) -> bytes:
        header = struct.pack("<HBBI4I", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), 0)
        header = header[:-4] + struct.pack("<I", len(self.strings))
        return header + self.types + self.strings


def types(**changed: int) -> Types:
    """The structures that osvtriage asks for, with other members of task_struct where asked."""
    made = Types()
    integer = made.add(1, "int", 0, 4, 32)
    long = made.add(1, "unsigned long", 0, 8, 64)
    char = made.add(1, "char", 0, 1, 8)
    comm = made.add(3, "", 0, 0, char, integer, changed.get("comm_bytes", 16))
    pid_t = made.add(8, "pid_t", 0, made.add(8, "__kernel_pid_t", 0, integer))
    pointer = made.add(2, "", 0, 0)
    pgd = made.struct("", 16, ("unused", long, 0), ("pgd", made.add(10, "", 0, pointer), 64))
    made.struct("mm_struct", 32, ("first", long, 0), ("", pgd, 64))
    thread = made.struct("thread_struct", 16, ("sp", long, 0), ("fsbase", long, 64))
    ids = made.struct("", 8, ("pid", pid_t, 0), ("tgid", pid_t, 32), kind=5)
    made.struct(
        "task_struct",
        128,
        ("stack", pointer, 0),
        ("", ids, 64),
        ("start_time", long, 128),
        ("comm", comm, 8 * COMM_AT),
        ("mm", pointer, 8 * 40),
        ("thread", thread, 8 * 48),
    )
    made.struct("flags", 4, ("one", integer, 1 << 24 | 3), ("whole", integer, 32), flag=1)
    made.struct("twice", 4, ("a", integer, 0))
    made.struct("twice", 8, ("a", long, 0))
    made.struct("pcpu_hot", 64, ("preempt_count", integer, 0), ("current_task", pointer, 64))
    made.struct("alt_instr", 12, ("instr_offset", integer, 0), ("instrlen", char, 80))
    made.struct("static_call_site", 8, ("addr", integer, 0), ("key", integer, 32))
    made.struct("jump_entry", 16, ("code", integer, 0), ("target", integer, 32), ("key", long, 64))
    made.struct("paravirt_patch_site", 16, ("instr", pointer, 0), ("len", char, 72))
    return made


def elf(
    form: Form = "before",
    *,
    machine: int = 62,
    table: Sequence[tuple[str, str, int]] | None = None,
    sections: Mapping[str, tuple[int, bytes]] | None = None,
    btf: bytes | None = None,
) -> bytes:
    """The stripped vmlinux, with KASLR's relocations behind it, in one form of kallsyms.

    *sections* are further ones: their addresses and contents.
    """
    contents = {
        ".text": (TEXT, 6, b"\x90" * FUNCTION_BYTES * FUNCTIONS),
        ".rodata": (RODATA, 2, rodata(symbols(form) if table is None else table, form)),
        ".data": (DATA, 3, bytes(COMM_AT) + b"swapper\0" + bytes(96)),
        ".data..percpu": (PERCPU if form in ("relative", "unsigned") else 0, 3, bytes(256)),
        ".BTF": (RODATA + 0x100000, 2, types().data() if btf is None else btf),
    }
    contents |= {name: (at, 2, data) for name, (at, data) in (sections or {}).items()}
    names = b"\0" + b"".join(name.encode() + b"\0" for name in (*contents, ".shstrtab"))
    body, headers = b"", bytes(64)
    for name, (address, flags, data) in (*contents.items(), (".shstrtab", (0, 0, names))):
        name_at = names.index(b"\0" + name.encode() + b"\0") + 1
        kind = 3 if name == ".shstrtab" else 1
        headers += struct.pack(
            "<IIQQQQIIQQ", name_at, kind, flags, address, 64 + len(body), len(data), 0, 0, 8, 0
        )
        body += _aligned(data)
    count = len(headers) // 64
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQ", 2, machine, 1, TEXT, 0, 64 + len(body))
    header += struct.pack("<IHHHHHH", 0, 64, 56, 0, 64, count, count - 1)
    return header + body + headers + b"relocations"


def _lz4(data: bytes) -> bytes:
    block = lz4.block.compress(data, store_size=False)
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": _lz4,
    "gzip": gzip.compress,
}


def bzimage(
    kernel: bytes, packer: str = "lz4", *, payload: bytes | None = None, size: int | None = None
) -> bytes:
    """*kernel* packed, behind the code that would unpack it: one sector, as 64-bit protocol 2.15.

    *size* is what the image claims that the kernel has.
    """
    if payload is None:
        payload = PACKERS[packer](kernel)
        if packer != "gzip" or size is not None:
            payload += struct.pack("<I", len(kernel) if size is None else size)
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x20F)
    struct.pack_into("<H", setup, 0x236, 1)
    code = b"\xcc" * 32
    struct.pack_into("<II", setup, 0x248, len(code), len(payload))
    return bytes(setup) + code + payload + b"the rest of the loader"
