"""Parsers of what guests print. They start no guest; recorded consoles are their fixtures."""

from __future__ import annotations

from collections.abc import Callable

from osvtriage.consoles import linux, osv

# By system: why a guest's end is none that counts, if a line of its console says so.
TROUBLES: dict[str, Callable[[str], str | None]] = {"linux": linux.trouble, "osv": osv.trouble}
