"""The layout of any kernel, by its system."""

from __future__ import annotations

from collections.abc import Callable

from osvtriage.symbols import linux, osv
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.layout import Layout

LAYOUTS: dict[str, Callable[[ElfImage], Layout]] = {"linux": linux.layout, "osv": osv.layout}
