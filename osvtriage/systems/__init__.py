"""What is known of guest systems. Standard library only: gdb's own Python loads it too.

A new one is a new file here, its layout in :mod:`osvtriage.symbols`, and a line in ``SYSTEMS``.
"""

from __future__ import annotations

from osvtriage.systems import linux, osv
from osvtriage.systems.base import System

SYSTEMS: dict[str, System] = {system.name: system for system in (linux.LINUX, osv.OSV)}

__all__ = ["SYSTEMS", "System"]
