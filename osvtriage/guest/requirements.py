"""What a machine needs to run trials, row by row, as ``osvtriage doctor`` shows it."""

from __future__ import annotations

from osvtriage.guest.programs import find_gdb, find_qemu

__all__ = ["find_gdb", "find_qemu"]
