"""Guest memory, byte by byte; what was not written cannot be read."""

from __future__ import annotations

import struct


class Memory:
    """As much memory as was written."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}

    def write(self, address: int, data: bytes) -> None:
        self.bytes.update(enumerate(data, address))

    def word(self, address: int, *values: int) -> None:
        """Little-endian doublewords, upward from *address*."""
        self.write(address, struct.pack(f"<{len(values)}Q", *values))

    def forget(self, address: int, size: int) -> None:
        """Unmap *size* bytes."""
        for at in range(address, address + size):
            self.bytes.pop(at, None)

    def read(self, address: int, size: int) -> bytes | None:
        try:
            return bytes(self.bytes[at] for at in range(address, address + size))
        except KeyError:
            return None
