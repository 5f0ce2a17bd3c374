"""The processors that guests run on. A new one is a new file here and a line in ``ARCHES``."""

from __future__ import annotations

from osvtriage.arch.base import Arch
from osvtriage.arch.ppc64le import PPC64LE
from osvtriage.arch.x86_64 import X86_64

ARCHES: dict[str, Arch] = {arch.name: arch for arch in (PPC64LE, X86_64)}

__all__ = ["ARCHES", "PPC64LE", "X86_64", "Arch"]
