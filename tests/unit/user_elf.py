"""Small x86-64 programs and shared libraries, as far as the dynamic linker's tables go."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

X86_64, PPC64 = 62, 21
EXEC, DYN, REL = 2, 3, 1

INTERPRETER = "/lib64/ld-linux-x86-64.so.2"

_LOAD, _DYNAMIC, _INTERP = 1, 2, 3
_PROGBITS, _STRTAB, _DYNAMIC_SECTION, _NOTE = 1, 3, 6, 7
_VERDEF, _VERNEED = 0x6FFFFFFD, 0x6FFFFFFE
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_FLAGS_1 = 1, 5, 10, 0x6FFFFFFB
_DF_1_PIE = 0x08000000
_BUILD_ID = 3


@dataclass
class _Strings:
    data: bytes = b"\0"
    known: dict[str, int] = field(default_factory=dict)

    def at(self, text: str) -> int:
        if text not in self.known:
            self.known[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self.known[text]


def elf(
    *,
    kind: int = DYN,
    machine: int = X86_64,
    interpreter: str | None = None,
    needed: Sequence[str] = (),
    wants: Mapping[str, Sequence[str]] | None = None,
    defines: Sequence[str] = (),
    pie: bool = False,
    build_id: bytes = b"",
) -> bytes:
    """The file: every byte of it is loaded at address 0. ``wants`` maps libraries to versions."""
    strings = _Strings()
    tags = [(_DT_NEEDED, strings.at(name)) for name in needed]
    if pie:
        tags.append((_DT_FLAGS_1, _DF_1_PIE))
    parts: dict[str, tuple[int, bytes, int]] = {}
    if wants:
        parts[".gnu.version_r"] = (_VERNEED, _needs(wants, strings), len(wants))
    if defines:
        parts[".gnu.version_d"] = (_VERDEF, _definitions(defines, strings), len(defines))
    if build_id:
        note = struct.pack("<III4s", 4, len(build_id), _BUILD_ID, b"GNU\0") + build_id
        parts[".note.gnu.build-id"] = (_NOTE, note, 0)
    if interpreter is not None:
        parts[".interp"] = (_PROGBITS, interpreter.encode() + b"\0", 0)
    dynamic = bool(tags or defines or pie)
    segments = 1 + dynamic + (interpreter is not None)
    at = 64 + 56 * segments
    body = b""
    offsets = {}
    for name, (_, data, _) in parts.items():
        offsets[name] = at + len(body)
        body += data.ljust(-(-len(data) // 8) * 8, b"\0")
    if dynamic:
        offsets[".dynstr"] = at + len(body)
        parts[".dynstr"] = (_STRTAB, strings.data, 0)
        body += strings.data.ljust(-(-len(strings.data) // 8) * 8, b"\0")
        tags += [(_DT_STRTAB, offsets[".dynstr"]), (_DT_STRSZ, len(strings.data)), (0, 0)]
        offsets[".dynamic"] = at + len(body)
        parts[".dynamic"] = (_DYNAMIC_SECTION, b"".join(struct.pack("<qQ", *t) for t in tags), 0)
        body += parts[".dynamic"][1]
    return _file(kind, machine, parts, offsets, body, segments)


def _file(
    kind: int,
    machine: int,
    parts: dict[str, tuple[int, bytes, int]],
    offsets: dict[str, int],
    body: bytes,
    segments: int,
) -> bytes:
    names = _Strings()
    order = list(parts)
    headers = [(0, 0, 0, 0, 0, 0)]
    for name in order:
        type_, data, info = parts[name]
        link = order.index(".dynstr") + 1 if ".dynstr" in parts else 0
        headers.append((names.at(name), type_, offsets[name], len(data), link, info))
    names_at = 64 + 56 * segments + len(body)
    shstrtab = names.at(".shstrtab")
    headers.append((shstrtab, _STRTAB, names_at, len(names.data), 0, 0))
    sections_at = names_at + len(names.data)
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", name, type_, 0, at, at, size, link, info, 8, 16 * (type_ == 6))
        for name, type_, at, size, link, info in headers
    )
    end = sections_at + len(table)
    programs = struct.pack("<IIQQQQQQ", _LOAD, 5, 0, 0, 0, end, end, 4096)
    for name, segment in ((".interp", _INTERP), (".dynamic", _DYNAMIC)):
        if name in parts:
            at, size = offsets[name], len(parts[name][1])
            programs += struct.pack("<IIQQQQQQ", segment, 4, at, at, at, size, size, 8)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack(
        *("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, sections_at, 0),
        *(64, 56, segments, 64, len(headers), len(headers) - 1),
    )
    return header + programs + body + names.data + table


def _needs(wants: Mapping[str, Sequence[str]], strings: _Strings) -> bytes:
    data = b""
    for number, (library, versions) in enumerate(wants.items(), start=1):
        size = 16 + 16 * len(versions)
        after = size if number < len(wants) else 0
        data += struct.pack("<HHIII", 1, len(versions), strings.at(library), 16, after)
        for count, version in enumerate(versions, start=1):
            last = count == len(versions)
            data += struct.pack("<IHHII", 0, 0, 2, strings.at(version), 0 if last else 16)
    return data


def _definitions(defines: Sequence[str], strings: _Strings) -> bytes:
    data = b""
    for number, version in enumerate(defines, start=1):
        after = 28 if number < len(defines) else 0
        data += struct.pack("<HHHHIII", 1, 0, number, 1, 0, 20, after)
        data += struct.pack("<II", strings.at(version), 0)
    return data
