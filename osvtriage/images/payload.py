"""Compiling the workloads that run in guests: one C file, one static program.

The result's name in the cache is the sum of all that goes into it, so an edited source, header,
flag or compiler gives another program, and two runs never share a half-written one.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from osvtriage.arch import Arch
from osvtriage.images.atomic import new_directory, sweep
from osvtriage.images.places import cache_directory
from osvtriage.images.processes import install_command, run
from osvtriage.images.progress import Progress, silent
from osvtriage.model.errors import ImageError, MissingRequirement, UsageError
from osvtriage.recipe.shipped import payloads_directory

# gcc takes less than a second for a payload; a minute is a machine that is swapping.
_COMPILE_LIMIT = 120.0

COMPILE_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
"""How every payload is compiled."""

_FLAGS = (*COMPILE_FLAGS, "-static")

# What gcc and ld say where the C library for the processor is not installed.
_NO_LIBRARY = re.compile(r"cannot find -lc\b|(stdio|stdlib|errno)\.h: No such file")


def payload_source(name: str, beside: Path = Path()) -> Path:
    """The C source of the payload *name*: a shipped one, or a file below the directory *beside*.

    Raises:
        UsageError: there is none.
    """
    directory = payloads_directory()
    if name.endswith(".c"):
        source = beside / name
        if not source.is_file():
            raise UsageError(
                f"there is no payload {source}",
                hint="the path of a payload is looked up from the recipe's own directory on",
            )
        return source
    known = sorted(path.stem for path in directory.glob("*.c"))
    if name not in known:
        raise UsageError(
            f"there is no payload {name!r} in {directory}",
            hint=f"the payloads are: {', '.join(known) or 'none'}; a file of yours ends in .c",
        )
    return directory / f"{name}.c"


def compiler(arch: Arch) -> Path:
    """A C compiler for *arch*: the cross compiler, or plain gcc where the host is of that kind."""
    names = [arch.cross_compiler, *(["gcc"] if platform.machine() == arch.name else [])]
    for name in names:
        if found := shutil.which(name):
            return Path(found)
    raise MissingRequirement(
        f"{' or '.join(names)} is not on this machine; it compiles what runs in {arch.name} guests",
        hint=f"install it with: {install_command(arch.cross_packages)}",
    )


def compile_payload(source: Path, arch: Arch, progress: Progress = silent) -> Path:
    """The static program of the C file *source* for guests of *arch*, compiled where need be.

    Headers are looked for beside the source.

    Raises:
        MissingRequirement: no compiler or no C library for *arch*.
        ImageError: the compiler refused the source; its words are in the message.
    """
    return compiled(source, arch, _FLAGS, progress)


def compiled(source: Path, arch: Arch, flags: Sequence[str], progress: Progress = silent) -> Path:
    """As :func:`compile_payload`, with *flags* that say how to compile and to link.

    Flags that name directories are taken to change whenever these do.
    """
    program = compiler(arch)
    flags = (*flags, *arch.compiler_flags)
    key = _key(source, program, flags)
    directory = cache_directory() / "payloads" / f"{source.stem}-{arch.name}-{key[:16]}"
    result = directory / source.stem
    if result.is_file():
        return result
    progress(f"compiling {source.name} for {arch.name}")
    sweep(directory.parent)
    with new_directory(directory) as scratch:
        output = scratch / source.stem
        command = [str(program), *flags, "-o", str(output), str(source.absolute())]
        done = run(command, limit=_COMPILE_LIMIT)
        if done.status != 0 or not output.is_file():
            raise _refusal(source, arch, done.errors, done.last_words(20))
        version = run([str(program), "--version"], limit=_COMPILE_LIMIT).output.partition("\n")[0]
        record = {
            "schema": "osvtriage.payload/1",
            "source": str(source.absolute()),
            "compiler": version,
            "flags": flags,
            "sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
            "warnings": done.errors,
        }
        (scratch / "payload.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return result


def _key(source: Path, program: Path, flags: tuple[str, ...]) -> str:
    """The sum of what the program is made from.

    All headers beside the source count, included or not: asking the compiler which are would cost
    more than compiling one time too often. The compiler counts by its file, which a
    package upgrade replaces, for starting it to ask its version would cost each run 5 ms.
    """
    status = program.resolve().stat()
    digest = hashlib.sha256()
    digest.update(repr((flags, str(program), status.st_size, status.st_mtime_ns)).encode())
    try:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
        for path in sorted(source.parent.glob("*.h")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    except OSError as error:
        raise ImageError(f"cannot read the payload {source}: {error.strerror}") from error
    return digest.hexdigest()


def _refusal(source: Path, arch: Arch, errors: str, last_words: str) -> Exception:
    if "No space left on device" in errors:
        return ImageError(
            f"no space left to compile {source.name}", hint="free some in the cache and in /tmp"
        )
    if _NO_LIBRARY.search(errors):
        return MissingRequirement(
            f"the C library for {arch.name} programs is not on this machine:\n{last_words}",
            hint=f"install it with: {install_command(arch.cross_packages)}",
        )
    return ImageError(f"{source} does not compile for {arch.name}:\n{last_words}")
