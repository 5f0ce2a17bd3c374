"""The types of a kernel, from its BTF (Documentation/bpf/btf.rst).

Distributions' kernels have no DWARF, but BTF: 4 to 6 MB with every structure of the kernel. What
is asked for is a handful of members, so the types are only walked over, and what is asked for is
decoded.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from osvtriage.model.errors import SymbolError
from osvtriage.symbols.elf import ElfImage

_MAGIC = 0xEB9F
# struct btf_header: magic, version, flags, hdr_len; type_off, type_len, str_off, str_len.
_HEADER = struct.Struct("<HBBI4I")

# btf.rst, "Type Encoding".
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF = range(1, 9)
_VOLATILE, _CONST, _RESTRICT, _FUNC, _FUNC_PROTO, _VAR, _DATASEC, _FLOAT = range(9, 17)
_DECL_TAG, _TYPE_TAG, _ENUM64 = 17, 18, 19
_ALIASES = frozenset({_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG})
_SIZED = frozenset({_INT, _STRUCT, _UNION, _ENUM, _FLOAT, _ENUM64, _DATASEC})
_POINTER_BYTES = 8
# Anonymous structures in structures, and arrays of arrays. Linux's go to 4.
_DEEPEST = 32

# How many words follow a type's three: so many, and so many for each of its vlen members.
_TRAILERS: dict[int, tuple[int, int]] = {
    **dict.fromkeys((_PTR, _FWD, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT), (0, 0)),
    **dict.fromkeys((_FUNC, _FLOAT, _TYPE_TAG), (0, 0)),
    **dict.fromkeys((_INT, _VAR, _DECL_TAG), (1, 0)),
    **dict.fromkeys((_STRUCT, _UNION, _DATASEC, _ENUM64), (0, 3)),
    **dict.fromkeys((_ENUM, _FUNC_PROTO), (0, 2)),
    _ARRAY: (3, 0),
}


@dataclass(frozen=True, slots=True)
class _Member:
    name_at: int
    type: int
    bit: int
    # Of a bit field; else 0.
    bits: int


class Btf:
    """The types in *data*, the contents of a kernel's section .BTF.

    Raises:
        SymbolError: it is no BTF, is cut short, or has types of a kind that is not known.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) < _HEADER.size or _HEADER.unpack_from(data)[0] != _MAGIC:
            raise SymbolError(f"it is no little-endian BTF: it begins with {data[:4].hex(' ')}")
        _, version, _, header, type_off, type_len, str_off, str_len = _HEADER.unpack_from(data)
        if version != 1:
            raise SymbolError(f"it is BTF of version {version}, not 1")
        if (end := header + max(type_off + type_len, str_off + str_len)) > len(data):
            raise SymbolError(f"the BTF is cut short: it has {len(data)} of {end} bytes")
        types, strings = header + type_off, header + str_off
        self._words = array("I", data[types : types + type_len // 4 * 4])
        self._strings = data[strings : strings + str_len]
        self._starts = self._walk()

    @classmethod
    def of(cls, elf: ElfImage) -> Btf:
        """The types of the kernel *elf*.

        Raises:
            SymbolError: it has none, or they cannot be read.
        """
        try:
            section = elf.section(".BTF")
        except SymbolError as error:
            raise SymbolError(
                f"{elf.path} has no type information (.BTF): where the members of its structures "
                "are is not known",
                "give a kernel that is built with CONFIG_DEBUG_INFO_BTF=y",
            ) from error
        try:
            return cls(elf.read(section.address, section.size))
        except SymbolError as error:
            raise SymbolError(f"{elf.path}: its types cannot be read: {error}") from error

    def _walk(self) -> array[int]:
        """Where in the words each type begins, by its number; type 0 is void."""
        words, at, starts = self._words, 0, array("I", [0])
        count = len(words)
        # A hundred thousand types are walked over: hence no look-up that can be done once.
        trailers = [_TRAILERS.get(kind, (-1, 0)) for kind in range(32)]
        while at + 3 <= count:
            starts.append(at)
            info = words[at + 1]
            fixed, each = trailers[info >> 24 & 0x1F]
            if fixed < 0:
                raise SymbolError(
                    f"its type {len(starts) - 1} is of kind {info >> 24 & 0x1F}, "
                    "which osvtriage does not know"
                )
            at += 3 + fixed + each * (info & 0xFFFF)
        if at != count:
            raise SymbolError("the BTF is cut short in its last type")
        return starts

    def has(self, name: str) -> bool:
        """Whether there is a structure or a union *name*."""
        return bool(self._aggregates(name))

    def size(self, name: str) -> int:
        """The size of the structure or union *name* in bytes."""
        return self._words[self._starts[self._one(name)] + 2]

    def member(self, name: str, path: str) -> tuple[int, int]:
        """Offset and size in bytes of a member of the structure or union *name*.

        Args:
            path: a member's name, or names joined by dots for a member of a member, such as
                ``thread.fsbase``. Members of anonymous members are the structure's own, as in C.

        Raises:
            SymbolError: there is no such structure or member, or it is a bit field.
        """
        type_, bits = self._one(name), 0
        for part in path.split("."):
            found = self._find(type_, part)
            if found is None:
                raise SymbolError(f"struct {name} of this kernel has no member {path!r}")
            bit, member = found
            if member.bits:
                raise SymbolError(f"{path!r} of struct {name} is a bit field")
            bits += bit
            type_ = member.type
        return bits // 8, self._size(type_)

    def bit_fields(self, name: str) -> dict[str, tuple[int, int]]:
        """The bit fields of the structure *name*: where each begins, and how many bits it has."""
        return {
            self._string(member.name_at): (member.bit, member.bits)
            for member in self._members(self._one(name))
            if member.bits
        }

    def has_member(self, name: str, path: str) -> bool:
        """Whether there is a structure or union *name* with that member."""
        try:
            self.member(name, path)
        except SymbolError:
            return False
        return True

    def _one(self, name: str) -> int:
        found = self._aggregates(name)
        if len(found) != 1:
            number = f"{len(found)} structures" if found else "no structure"
            raise SymbolError(f"the kernel's types have {number} {name!r}")
        return found[0]

    def _aggregates(self, name: str) -> list[int]:
        """The numbers of the structures and unions of that name."""
        # Every string is there once, and begins behind the end of another.
        at = self._strings.find(b"\0" + name.encode() + b"\0") + 1
        return self._by_name.get(at, []) if at else []

    @cached_property
    def _by_name(self) -> dict[int, list[int]]:
        """The numbers of the structures and unions, by where their names are."""
        words, found = self._words, dict[int, list[int]]()
        for number, start in enumerate(self._starts):
            if number and words[start + 1] >> 24 & 0x1F in (_STRUCT, _UNION):
                found.setdefault(words[start], []).append(number)
        return found

    def _kind(self, number: int) -> int:
        return self._words[self._starts[number] + 1] >> 24 & 0x1F

    def _resolved(self, number: int) -> int:
        """The type itself, past its typedefs and qualifiers."""
        # A chain that is longer than there are types is a loop.
        for _ in self._starts:
            if not 0 < number < len(self._starts):
                break
            if self._kind(number) not in _ALIASES:
                return number
            number = self._words[self._starts[number] + 2]
        raise SymbolError("the BTF is damaged: a type leads to none")

    def _members(self, number: int) -> Iterator[_Member]:
        at = self._starts[number]
        info = self._words[at + 1]
        for start in range(at + 3, at + 3 + 3 * (info & 0xFFFF), 3):
            name_at, type_, offset = self._words[start : start + 3]
            # kind_flag: the offset's upper 8 bits are a bit field's size.
            has_sizes = bool(info >> 31)
            bit = offset & 0xFFFFFF if has_sizes else offset
            yield _Member(name_at, type_, bit, offset >> 24 if has_sizes else 0)

    def _find(self, number: int, name: str, depth: int = 0) -> tuple[int, _Member] | None:
        """A member by its name, and its offset in bits."""
        if depth > _DEEPEST:
            raise SymbolError("the BTF is damaged: a type holds itself")
        number = self._resolved(number)
        if self._kind(number) not in (_STRUCT, _UNION):
            return None
        for member in self._members(number):
            if not member.name_at:
                if inner := self._find(member.type, name, depth + 1):
                    return member.bit + inner[0], inner[1]
            elif self._string(member.name_at) == name:
                return member.bit, member
        return None

    def _string(self, at: int) -> str:
        return self._strings[at : self._strings.find(b"\0", at)].decode("utf-8", "replace")

    def _size(self, number: int) -> int:
        count = 1
        for _ in range(_DEEPEST):
            number = self._resolved(number)
            at, kind = self._starts[number], self._kind(number)
            if kind in _SIZED:
                return count * self._words[at + 2]
            if kind == _PTR:
                return count * _POINTER_BYTES
            if kind != _ARRAY:
                raise SymbolError(f"the BTF is damaged: a member's type is of kind {kind}")
            count *= self._words[at + 5]
            number = self._words[at + 3]
        raise SymbolError("the BTF is damaged: a type holds itself")
