"""QEMU's log of interrupts and exceptions (``-d int``), as TCG writes it for x86.

Source: target/i386/tcg/seg_helper.c, do_interrupt_all(). Each is followed by all registers.
"""

from __future__ import annotations

import re

from osvtriage.model.overflow import Interrupt

_LINE = re.compile(
    r"^ *\d+: v=(?P<vector>[0-9a-f]{2}) e=(?P<error>[0-9a-f]{4}) i=[01] cpl=(?P<cpl>[0-3]) "
    r"IP=[0-9a-f]{4}:(?P<rip>[0-9a-f]{16}) pc=[0-9a-f]{16} SP=[0-9a-f]{4}:(?P<rsp>[0-9a-f]{16})"
    r"(?: CR2=(?P<cr2>[0-9a-f]{16}))?",
    re.MULTILINE,
)


def parse(text: str) -> list[Interrupt]:
    """The interrupts in *text*, in their order."""
    return [
        Interrupt(
            vector=int(found["vector"], 16),
            error=int(found["error"], 16),
            cpl=int(found["cpl"]),
            rip=int(found["rip"], 16),
            rsp=int(found["rsp"], 16),
            cr2=int(found["cr2"], 16) if found["cr2"] else None,
        )
        for found in _LINE.finditer(text)
    ]
