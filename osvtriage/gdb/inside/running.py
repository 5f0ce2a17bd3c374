"""Letting the guest run from gdb's own Python: to addresses, and for a limited time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import gdb

from osvtriage.gdb.inside.guest import Guest

# Visits of a place until the one that is looked for: any process can run the same code.
_MOST_VISITS = 200


class NotReached(Exception):
    """The guest did not come to where it was waited for."""


def run_to(
    addresses: Iterable[int],
    guest: Callable[[], Guest],
    wanted: Callable[[Guest], bool],
    seconds: float,
    most_visits: int = _MOST_VISITS,
) -> Guest:
    """Let the guest run until it stops at one of *addresses* and is *wanted* there.

    Raises:
        NotReached: it did not within *seconds* on the wall, or *most_visits*.
    """
    addresses = list(addresses)
    end = time.monotonic() + seconds
    visits = 0
    with breakpoints(addresses):
        while visits < most_visits and (left := end - time.monotonic()) > 0:
            resume(left)
            here = guest()
            if here.integer(here.arch.pc) in addresses:
                visits += 1
                if wanted(here):
                    return here
    where = " or ".join(map(hex, addresses))
    raise NotReached(f"{where} was not reached in {seconds:g} s and {most_visits} visits")


def resume(seconds: float) -> None:
    """Let the guest run until it stops by itself, or is stopped after *seconds*.

    It is stopped by an event that gdb's own loop carries out, not by a signal: one that came late
    would stop the guest the next time.
    """
    running = True

    def interrupt() -> None:
        if running:
            gdb.execute("interrupt", to_string=True)

    timer = threading.Timer(seconds, lambda: gdb.post_event(interrupt))
    timer.start()
    try:
        gdb.execute("continue", to_string=True)
    finally:
        running = False
        timer.cancel()


@contextmanager
def breakpoints(addresses: Iterable[int]) -> Iterator[None]:
    """Breakpoints that stop the guest at *addresses*, for a while."""
    made = [gdb.Breakpoint(f"*{address:#x}", internal=True) for address in set(addresses)]
    for breakpoint_ in made:
        breakpoint_.silent = True
    try:
        yield
    finally:
        for breakpoint_ in made:
            breakpoint_.delete()
