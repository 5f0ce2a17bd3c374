"""What `ot stack` shows, beside what QEMU says of the same memory."""

from __future__ import annotations

import re

from terminal import Outside, Terminal

# include/uapi/linux/magic.h
STACK_END_MAGIC = 0x57AC6E9D


def shown(session: Terminal, *number: str) -> dict[str, str]:
    """The rows of `ot stack`."""
    printed = session.run(" ".join(("ot stack", *number)))
    rows = dict(re.findall(r"^(\S[\w ]*?)  +(.+)$", printed, re.M))
    assert rows, printed
    return rows


def bounds(rows: dict[str, str]) -> tuple[int, int]:
    """Where the stack is."""
    found = re.fullmatch(r"0x(\w+) to 0x(\w+), (\d+) bytes", rows["stack"])
    assert found is not None, rows
    begin, end = int(found[1], 16), int(found[2], 16)
    assert end - begin == int(found[3])
    return begin, end


def require_true(rows: dict[str, str], qemu: Outside, *, marked: bool) -> None:
    """What is shown of the stack is what its memory holds."""
    begin, end = bounds(rows)
    guarded = rows["guard page"].startswith("there")
    if marked:
        assert guarded != qemu.is_mapped(begin - 1)
        raw = qemu.memory(begin, end - begin)
        whole = int.from_bytes(raw[:8], "little") == STACK_END_MAGIC
        assert rows["end mark"].startswith("whole" if whole else "overwritten")
        used = len(raw[8:].lstrip(b"\0")) + 7 & ~7 if whole else len(raw)
        assert rows["high water"] == f"{used} bytes were used at least, {len(raw) - used} are zero"
        return
    assert guarded != qemu.is_mapped(begin)
    pages = range(begin, end, 4096)
    raw = b"".join(
        qemu.memory(page, min(4096, end - page)) for page in pages if qemu.is_mapped(page)
    )
    used = len(raw.lstrip(b"\0")) + 7 & ~7
    assert rows["high water"].startswith(f"{used} bytes")


def in_use(rows: dict[str, str]) -> int:
    """The stack pointer, which is on the stack."""
    found = re.fullmatch(r"0x(\w+), (\d+) bytes in use", rows["stack pointer"])
    assert found is not None, rows
    begin, end = bounds(rows)
    assert begin < int(found[1], 16) == end - int(found[2])
    return int(found[1], 16)
