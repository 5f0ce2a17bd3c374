"""Finding the programs that a trial starts: QEMU for a processor, and a gdb that knows it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from osvtriage.arch import ARCHES, Arch
from osvtriage.images import qemu
from osvtriage.images.processes import install_command, run
from osvtriage.model.errors import LimitExceeded, MissingRequirement
from osvtriage.plugin import build

# gdb with Python starts and ends in 0.1 s, and in 1 s with eight busy processes on two cores. The
# rest is for a machine that is swapping.
GDB_LIMIT_S = 30.0

# Names of BFD (bfd/archures.c) for processors whose `Arch` has no `gdb_architecture`, since it must
# not be *set* when attaching to their guests; gdb has to *know* it all the same.
_BFD_NAMES = {"x86_64": "i386:x86-64"}


def gdb_architecture(arch: Arch) -> str:
    """The name that gdb has to know in order to debug *arch*."""
    return arch.gdb_architecture or _BFD_NAMES.get(arch.name, arch.name)


def find_qemu(arch: Arch, override: str | Path | None = None) -> Path:
    """QEMU's system emulator for *arch*: *override* (a name or a path), or that on the PATH."""
    if override is not None:
        return _overridden(override, "QEMU")
    found = shutil.which(arch.qemu)
    if found is None:
        raise MissingRequirement(
            f"{arch.qemu} was not found on the PATH; it emulates {arch.name} guests.",
            hint=f"Install it with: {install_command((arch.qemu_package,))}",
        )
    return Path(found)


@dataclass(frozen=True, slots=True)
class PluginQemu:
    """The QEMU that guests run on with the plugin engine, or why there is none."""

    path: Path | None
    obstacle: str = ""


def find_plugin_qemu(arch: Arch, override: str | Path | None = None) -> PluginQemu:
    """A QEMU for *arch* that loads the plugin: *override*, that on the PATH, or the fetched one."""
    own = find_qemu(arch, override)
    complaint = build.obstacle(own)
    if complaint is None:
        return PluginQemu(own)
    other = qemu.fetched(arch) if override is None else None
    if other is None:
        return PluginQemu(None, complaint)
    second = build.obstacle(other)
    return PluginQemu(other) if second is None else PluginQemu(None, second)


def find_gdb(arch: Arch | None = None, override: str | Path | None = None) -> Path:
    """A gdb for *arch* (every processor, where it is ``None``).

    *override* (a name or a path) is taken at its word, gdb-multiarch by its name; a plain gdb is
    asked, since Debian's knows nothing but the host's own processor.
    """
    if override is not None:
        return _overridden(override, "gdb")
    if (multiarch := shutil.which("gdb-multiarch")) is not None:
        return Path(multiarch)
    wanted = [gdb_architecture(a) for a in (ARCHES.values() if arch is None else (arch,))]
    hint = f"Install one that does with: {install_command(('gdb-multiarch',))}"
    plain = shutil.which("gdb")
    if plain is None:
        raise MissingRequirement(
            "Neither gdb-multiarch nor gdb was found on the PATH.",
            hint=f"Install it with: {install_command(('gdb-multiarch',))}",
        )
    unknown = [name for name in wanted if not _knows(plain, name)]
    if unknown:
        raise MissingRequirement(f"{plain} does not know {' or '.join(unknown)}.", hint=hint)
    return Path(plain)


def _overridden(override: str | Path, what: str) -> Path:
    found = shutil.which(override)
    if found is None:
        raise MissingRequirement(
            f"{what} was asked for as {override}, which is not a program that can be started.",
            hint="Give the path of an executable file, or the name of one on the PATH.",
        )
    return Path(found)


def _knows(gdb: str, architecture: str) -> bool:
    command = [gdb, "-nx", "-batch", "-ex", f"set architecture {architecture}"]
    try:
        return sets_architecture(run(command, limit=GDB_LIMIT_S).output, architecture)
    except (OSError, LimitExceeded):
        return False


def sets_architecture(output: str, architecture: str) -> bool:
    """Whether gdb's *output* has its answer to ``set architecture``: an unknown one is refused."""
    return f'is set to "{architecture}"' in output
