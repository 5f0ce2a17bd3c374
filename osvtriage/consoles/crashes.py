"""The crashes in a console, whichever system printed it."""

from __future__ import annotations

from osvtriage.consoles import linux_crash, osv_crash
from osvtriage.model.crash import Crash


def crashes(text: str) -> list[Crash]:
    """Every crash that *text* tells of, in the order in which they begin.

    The time that it takes is linear in the length of *text*, whatever is in it.
    """
    return linux_crash.crashes(text) or osv_crash.crashes(text)
