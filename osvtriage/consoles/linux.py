"""What a Linux kernel prints when it dies."""

from __future__ import annotations

import re

# kernel/panic.c, panic(): "Kernel panic - not syncing: …". The others come before one, or alone.
# The watchdogs' "BUG: soft lockup" and "BUG: workqueue lockup" are no deaths: an emulated guest on
# a busy host prints them, and goes on.
_DEATHS = (
    re.compile(r"Kernel panic - not syncing: (?P<what>.*)"),
    re.compile(r"(?P<what>\bOops: .*)"),
    re.compile(r"(?P<what>kernel BUG at .*)"),
    re.compile(r"(?P<what>\bBUG: (?!soft lockup|workqueue lockup).*)"),
)


def trouble(line: str) -> str | None:
    """What the guest's kernel died of, as a sentence, if *line* says so."""
    for pattern in _DEATHS:
        if match := pattern.search(line):
            return f"the guest's kernel died: {match['what'].strip()}"
    return None
