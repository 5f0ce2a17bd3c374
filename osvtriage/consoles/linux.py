"""What a Linux kernel prints when it dies."""

from __future__ import annotations

import re

# kernel/panic.c, panic(): "Kernel panic - not syncing: …". The others come before one, or alone.
_DEATHS = (
    re.compile(r"Kernel panic - not syncing: (?P<what>.*)"),
    re.compile(r"(?P<what>\bOops: .*)"),
    re.compile(r"(?P<what>kernel BUG at .*)"),
    re.compile(r"(?P<what>\bBUG: .*)"),
)


def death(line: str) -> str | None:
    """What the kernel says it dies of, if *line* says so."""
    for pattern in _DEATHS:
        if match := pattern.search(line):
            return match["what"].strip()
    return None
