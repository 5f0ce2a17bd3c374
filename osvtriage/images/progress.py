"""How long work tells that it is going on."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str], None]
"""Called with one short sentence whenever the work has got further."""


def silent(message: str) -> None:
    """A :data:`Progress` that says nothing."""
