"""The specimen: a small x86-64 guest with OSv's names, and with defects on demand."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "specimens" / "osv"

# Of the cross compiler's programs, where the host's own are not for x86-64.
_PREFIX = "" if platform.machine() in ("x86_64", "AMD64") else "x86_64-linux-gnu-"

_FLAGS = [
    *("-std=gnu++20", "-g", "-O2", "-Wall", "-Wextra", "-Werror"),
    *("-ffreestanding", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"),
    *("-fno-stack-protector", "-fcf-protection=none", "-fno-pie", "-ftls-model=local-exec"),
    # Frames that gdb and frame pointers can follow; no FPU state changed unawares.
    *("-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-mno-red-zone"),
    *("-mgeneral-regs-only", "-fno-delete-null-pointer-checks"),
    # A failed assertion prints no path of this machine.
    f"-fmacro-prefix-map={SOURCES}/=",
]
_LINK_FLAGS = ["-nostdlib", "-static", "-no-pie", "-Wl,--fatal-warnings", "-Wl,--build-id=none"]


def build(directory: Path, tiny: int = 1024) -> Path:
    """The specimen's ELF file, made in *directory*; its tiny syscall stacks have *tiny* bytes."""
    objects = []
    for source in sorted([*SOURCES.glob("*.cc"), *SOURCES.glob("*.S")]):
        objects.append(directory / f"{source.name}.o")
        size = f"-DTINY_SYSCALL_STACK_SIZE={tiny}"
        _run("g++", *_FLAGS, size, "-c", str(source), "-o", str(objects[-1]))
    elf = directory / "specimen.elf"
    script = SOURCES / "specimen.ld"
    _run("g++", *_LINK_FLAGS, "-T", str(script), *map(str, objects), "-o", str(elf))
    return elf


def stripped(elf: Path, directory: Path) -> Path:
    """A copy of *elf* in *directory* without symbols or debugging information."""
    copy = directory / f"{elf.stem}-stripped.elf"
    _run("strip", "--strip-all", "-o", str(copy), str(elf))
    return copy


def _run(tool: str, *arguments: str) -> None:
    """Run a program of the compiler's; RuntimeError with what it said where it fails."""
    command = [_PREFIX + tool, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}")
