"""Guests' text on its way to a terminal, where nothing but the standard library is at hand."""

from __future__ import annotations


def printable(text: str) -> str:
    """*text* with everything that a terminal could obey written out, but for line ends."""
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )
