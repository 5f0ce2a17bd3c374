"""A kernel's unwinding tables for a gdb that the user runs."""

from __future__ import annotations

from pathlib import Path

from osvtriage.arch import X86_64
from osvtriage.images.atomic import new_file
from osvtriage.images.kernel import check_kernel
from osvtriage.images.places import cache_directory
from osvtriage.images.progress import Progress
from osvtriage.model.plan import GdbPlan
from osvtriage.symbols import linux
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.orc import orc_plan


def gdb_commands(kernel: Path, progress: Progress) -> str:
    """What gdb has to be told, a line each; the plan they name is in the cache.

    Raises:
        ImageError: *kernel* is no kernel.
        SymbolError: it has no symbols, no types, or no tables of a known form.
    """
    found = check_kernel(kernel, X86_64, progress, boots=False)
    with ElfImage(found.symbols, X86_64) as elf:
        plan = GdbPlan(X86_64.name, linux.layout(elf).thread, (), orc=orc_plan(elf))
    path = cache_directory() / "unwinders" / f"{found.symbols_sha256}.json"
    with new_file(path) as file:
        file.write(plan.to_json().encode())
    package = str(Path(__file__).parents[2])
    return "\n".join(
        (
            f"python import sys; sys.path.insert(0, {package!r})",
            "python from osvtriage.gdb.inside import unwinder",
            f"python unwinder.register({str(path)!r})",
            "",
        )
    )
