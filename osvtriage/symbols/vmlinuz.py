"""The kernel inside a bzImage, as x86 boots it: the compressed vmlinux, unpacked.

The file begins with code that unpacks the rest (arch/x86/boot). Its setup header says where the
compressed vmlinux is: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header". What comes
out is the ELF file of the build without its symbols, with the relocations for KASLR behind it.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from osvtriage.model.errors import SymbolError

# boot.rst: setup_sects, header ("HdrS"), version, xloadflags, payload_offset and payload_length.
_SETUP_SECTORS, _SIGNATURE, _VERSION, _LOAD_FLAGS, _PAYLOAD = 0x1F1, 0x202, 0x206, 0x236, 0x248
# "For backwards compatibility, if the setup_sects field contains 0, the real value is 4."
_OLDEST_SETUP_SECTORS = 4
_SECTOR = 512
# payload_offset came with protocol 2.08 (Linux 2.6.26), xloadflags with 2.12 (3.8).
_FIRST_VERSION = 0x20C
_LOADS_64_BIT = 1 << 0

_CUT_SHORT = "copy the file again; the copy was not finished"


def is_bzimage(data: bytes) -> bool:
    """Whether a file that begins with *data* is one of x86's boot images."""
    return data[_SIGNATURE : _SIGNATURE + 4] == b"HdrS"


def vmlinux(path: Path) -> bytes:
    """The kernel's ELF file out of the bzImage at *path*.

    Raises:
        SymbolError: it is no bzImage of a 64-bit kernel, is cut short or damaged, or is compressed
            in a way that is not known.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SymbolError(f"cannot read the kernel {path}: {error.strerror}") from error
    payload = _payload(path, data)
    name, unpack = _compression(path, payload)
    try:
        unpacked = unpack(payload)
    except _damaged() as error:
        raise SymbolError(
            f"{path}: the kernel in it, compressed with {name}, is damaged: {error}", _CUT_SHORT
        ) from error
    # Behind every payload stands the size of what is in it (scripts/Makefile.lib, size_append);
    # gzip's own format ends in the same.
    (size,) = struct.unpack_from("<I", payload, len(payload) - 4)
    if len(unpacked) != size:
        raise SymbolError(
            f"{path}: the kernel in it, compressed with {name}, unpacks to {len(unpacked)} bytes, "
            f"not to the {size} that it says",
            _CUT_SHORT,
        )
    return unpacked


def _payload(path: Path, data: bytes) -> bytes:
    if not is_bzimage(data):
        raise SymbolError(f"{path} is not a boot image (bzImage) of x86: it has no 'HdrS' at 0x202")
    if len(data) < _PAYLOAD + 8:
        raise SymbolError(f"{path} is cut short: its setup header is not whole", _CUT_SHORT)
    (version,) = struct.unpack_from("<H", data, _VERSION)
    if version < _FIRST_VERSION:
        raise SymbolError(
            f"{path} has boot protocol {version >> 8}.{version & 0xFF:02}; "
            "kernels from 3.8 on have 2.12 and later"
        )
    (flags,) = struct.unpack_from("<H", data, _LOAD_FLAGS)
    if not flags & _LOADS_64_BIT:
        raise SymbolError(f"{path} is a kernel for 32-bit x86, not for x86_64")
    sectors = data[_SETUP_SECTORS] or _OLDEST_SETUP_SECTORS
    offset, length = struct.unpack_from("<II", data, _PAYLOAD)
    start = (sectors + 1) * _SECTOR + offset
    if start + length > len(data):
        raise SymbolError(
            f"{path} is cut short: the kernel in it ends at byte {start + length}, "
            f"the file has {len(data)}",
            _CUT_SHORT,
        )
    if length < 8:
        raise SymbolError(f"{path} has no kernel in it: its payload has {length} bytes")
    return data[start : start + length]


def _compression(path: Path, payload: bytes) -> tuple[str, Callable[[bytes], bytes]]:
    for magic, name, unpack in _COMPRESSIONS:
        if payload.startswith(magic):
            if unpack is None:
                raise SymbolError(
                    f"the kernel in {path} is compressed with {name}, which osvtriage does not "
                    "know",
                    "give a build of it that is compressed with "
                    + ", ".join(other for _, other, known in _COMPRESSIONS if known),
                )
            return name, unpack
    raise SymbolError(
        f"the kernel in {path} is compressed in a way that osvtriage does not know; "
        f"it begins with {payload[:8].hex(' ')}"
    )


def _lzma(payload: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(payload)


def _zstd(payload: bytes) -> bytes:
    # Imported on use, here and below: only the first run with a kernel unpacks it.
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj().decompress(payload)


def _lz4(payload: bytes) -> bytes:
    """LZ4's legacy format, which `lz4 -l` writes: a magic number, then blocks with their sizes.

    Each holds 8 MiB but the last (doc/lz4_Frame_format.md, "Legacy frame").
    """
    import lz4.block

    block, found, at = 8 << 20, [], 4
    while at < len(payload) - 4:
        (size,) = struct.unpack_from("<I", payload, at)
        at += 4 + size
        if at > len(payload) - 4:
            raise ValueError("its last block is not whole")
        found.append(lz4.block.decompress(payload[at - size : at], uncompressed_size=block))
    return b"".join(found)


def _damaged() -> tuple[type[Exception], ...]:
    """What the libraries raise for damaged data."""
    import lz4.block
    import zstandard

    libraries = (lzma.LZMAError, zlib.error, zstandard.ZstdError, lz4.block.LZ4BlockError)
    return (*libraries, ValueError, EOFError, OSError, struct.error)


# lib/decompress.c, compressed_formats[]; zstd as in lib/decompress_unzstd.c.
_COMPRESSIONS: tuple[tuple[bytes, str, Callable[[bytes], bytes] | None], ...] = (
    (b"\x1f\x8b", "gzip", lambda payload: zlib.decompressobj(31).decompress(payload)),
    (b"\xfd7zXZ\0", "xz", _lzma),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    (b"\x02\x21\x4c\x18", "lz4", _lz4),
    (b"\x5d\0\0", "lzma", _lzma),
    (b"BZh", "bzip2", lambda payload: bz2.BZ2Decompressor().decompress(payload)),
    (b"\x89LZO", "LZO", None),
)
