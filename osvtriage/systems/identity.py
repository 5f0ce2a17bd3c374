"""A thread's key and name from the fields that tell them, as they are read in a guest."""

from __future__ import annotations

from collections.abc import Mapping

from osvtriage.model.event import ThreadKey


def identity(current: int | None, known: Mapping[str, str | None]) -> tuple[ThreadKey, str | None]:
    """The key of the thread at *current*, and its name.

    Args:
        known: the digits of the fields ``pid``, ``start_time`` and ``comm``, as far as there are.
    """
    pid, start, comm = known.get("pid"), known.get("start_time"), known.get("comm")
    key = ThreadKey(
        None if current is None else f"{current:016x}",
        None if pid is None else _signed32(pid),
        None if start is None else int(start, 16),
    )
    return key, None if comm is None else _text(comm)


def _signed32(text: str) -> int:
    value = int(text, 16)
    return value - (1 << 32) if value >> 31 else value


def _text(little_endian: str) -> str:
    raw = bytes.fromhex(little_endian)[::-1]
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")
