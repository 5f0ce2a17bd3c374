"""What an OSv kernel prints when it dies, or cannot do what it was started for."""

from __future__ import annotations

import re

# Each is printed by abort() or just before it: runtime.cc, core/mmu.cc, arch/x64/exceptions.cc.
_DEATHS = (
    re.compile(r"(?P<what>page fault outside application, addr: \w+)"),
    re.compile(r"(?P<what>Assertion failed: .*)"),
    re.compile(r"(?P<what>general protection fault)"),
    re.compile(r"(?P<what>trying to execute null pointer)"),
    re.compile(r"(?P<what>trying to execute or access missing symbol)"),
    re.compile(r"(?P<what>__stack_chk_fail\(\): Stack overflow detected)"),
    re.compile(r"(?P<what>DUMMY_HANDLER for \w+ aborting)"),
    re.compile(r"^(?P<what>Aborted)$"),
)
# libc/signal.cc, kill().
_KILLED = re.compile(r"(?P<what>Uncaught signal \d+ .*)\. Powering off\.$")
# loader.cc: what launch_error says, then the end.
_REFUSAL = re.compile(r"(?P<what>\S.*)\. Powering off\.$")


def died(line: str) -> str | None:
    """What the kernel, or its application, died of, if *line* says so."""
    for pattern in (*_DEATHS, _KILLED):
        if match := pattern.search(line):
            return match["what"].strip()
    return None


def trouble(line: str) -> str | None:
    """Why the guest's end is none that counts, if *line* says so."""
    for pattern in _DEATHS:
        if match := pattern.search(line):
            return f"the guest's kernel died: {match['what'].strip()}"
    if match := _KILLED.search(line):
        return f"OSv's application died: {match['what']}"
    if match := _REFUSAL.search(line):
        return f"OSv could not start its application: {match['what']}"
    return None
