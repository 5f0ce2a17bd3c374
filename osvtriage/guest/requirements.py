"""What a machine needs in order to run trials, row by row, as ``osvtriage doctor`` shows it.

Every row is decided by using the thing: a guest is run, a program compiled, a socket bound.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from osvtriage.arch import ARCHES, Arch
from osvtriage.guest import accelerator, rundir
from osvtriage.guest.programs import (
    GDB_LIMIT_S,
    find_gdb,
    find_plugin_qemu,
    find_qemu,
    gdb_architecture,
    sets_architecture,
)
from osvtriage.images.payload import compiler
from osvtriage.images.places import CACHE_VARIABLE, cache_directory
from osvtriage.images.processes import Done, install_command, run
from osvtriage.images.progress import Progress, silent
from osvtriage.model.errors import MissingRequirement, OsvtriageError
from osvtriage.recipe.shipped import recipes_directory

__all__ = ["Row", "examine", "find_gdb", "find_qemu", "satisfied"]

# The parts of osvtriage that gdb loads are written for this Python, too.
_PYTHON = (3, 11)

# An image takes 270 MB while it is made and used: apt's lists (18 MB), a kernel package (80 MB, for
# Debian 13 on ppc64el), the kernel from it (46 MB), and patched copies for two variants with what
# is read from their symbols. Three images, with their initramfs and payloads, fit in 1 GiB.
_CACHE_BYTES = 1 << 30

# Each of these programs ends in 0.1 s, and in 1 s on a busy machine; as GDB_LIMIT_S.
_LIMIT_S = 30.0

_HELLO = '#include <stdio.h>\nint main(void) { return puts("ok") < 0; }\n'


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that is needed, and what was found of it.

    ``found`` means that it is there and serves. ``how_to_get`` is a command or a sentence, and
    ``packages`` the Debian packages that the command installs.
    """

    name: str
    need: str
    required: bool
    found: bool
    version: str | None = None
    path: str | None = None
    detail: str | None = None
    how_to_get: str | None = None
    packages: tuple[str, ...] = ()


def satisfied(rows: Sequence[Row]) -> bool:
    """Whether the shipped recipes can run."""
    return all(row.found for row in rows if row.required)


def examine(progress: Progress = silent) -> list[Row]:
    """Look at everything. Takes about a second, and 5 s more where KVM hangs."""
    needed = recipe_processors()
    rows = [python_row()]
    progress("asking gdb what it knows")
    rows += gdb_rows(needed)
    for arch in ARCHES.values():
        required = arch.name in needed
        progress(f"looking for QEMU for {arch.name}")
        rows += qemu_rows(arch, required)
        progress(f"looking for a QEMU for {arch.name} that loads the plugin")
        rows.append(plugin_row(arch))
        progress(f"running guests of {arch.name}")
        rows += accelerator_rows(arch, required)
        progress(f"compiling for {arch.name}")
        rows.append(compiler_row(arch, required))
    progress("looking at apt, the cache and the directory for sockets")
    return [*rows, *debian_rows(), dot_row(), cache_row(), socket_row()]


def recipe_processors() -> frozenset[str]:
    """The processors of the shipped recipes: what is for another one is optional."""
    found = set()
    for path in sorted(recipes_directory().glob("*.toml")):
        # Whoever runs a recipe that cannot be read is told what is wrong with it; not here.
        with contextlib.suppress(OSError, ValueError):
            arch = tomllib.loads(path.read_text(encoding="utf-8")).get("arch")
            if isinstance(arch, str):
                found.add(arch)
    return frozenset(found)


class _RowMaker(Protocol):
    def __call__(
        self,
        found: bool,
        *,
        version: str | None = None,
        path: str | None = None,
        detail: str | None = None,
        how_to_get: str | None = None,
    ) -> Row: ...


def _row(name: str, need: str, required: bool, packages: tuple[str, ...]) -> _RowMaker:
    """A maker of rows for one need; a row that is not satisfied says how to get it."""

    def make(
        found: bool,
        *,
        version: str | None = None,
        path: str | None = None,
        detail: str | None = None,
        how_to_get: str | None = None,
    ) -> Row:
        if found:
            return Row(name, need, required, True, version, path, detail)
        if how_to_get is None and packages:
            how_to_get = install_command(packages)
        return Row(name, need, required, False, version, path, detail, how_to_get, packages)

    return make


def python_row() -> Row:
    """The Python that runs this."""
    version = sys.version_info[:3]
    return Row(
        name="Python",
        need=f"{_dotted(_PYTHON)} or later",
        required=True,
        found=version >= _PYTHON,
        version=_dotted(version),
        path=sys.executable,
    )


def gdb_rows(needed: frozenset[str]) -> Iterator[Row]:
    """gdb, the Python in it, and each processor that it has to know; *needed* are required."""
    packages = ("gdb-multiarch",)
    program = shutil.which("gdb-multiarch") or shutil.which("gdb")
    commands = ["python import sys; print('python', *sys.version_info[:3])"]
    commands += [f"set architecture {gdb_architecture(arch)}" for arch in ARCHES.values()]
    done: Done | None = None
    if program is not None:
        arguments = [word for command in commands for word in ("-ex", command)]
        done = _try([program, "-nx", "-batch", "-ex", "show version", *arguments], GDB_LIMIT_S)
    said = "" if done is None else done.output
    version = re.search(r"^GNU gdb .*?(\d+(?:\.\d+)+)[^ ]*$", said, re.MULTILINE)
    row = _row("gdb", "gdb-multiarch, or a gdb for every processor", True, packages)
    if version is None:
        # A program that is called gdb and does not tell its version as gdb does is not gdb.
        yield row(False, path=program, detail=_complaint(done) if program else None)
    else:
        yield row(True, path=program, version=version[1])
    row = _row("gdb's Python", f"{_dotted(_PYTHON)} or later, built into gdb", True, packages)
    inside = re.search(r"^python (\d+) (\d+) (\d+)$", said, re.MULTILINE)
    if inside is None:
        yield row(False, detail=_complaint(done, "ython") if version else "there is no gdb to ask")
    else:
        numbers = tuple(int(number) for number in inside.groups())
        yield row(numbers >= _PYTHON, version=_dotted(numbers))
    for arch in ARCHES.values():
        name = gdb_architecture(arch)
        row = _row(f"gdb for {arch.name}", f"gdb knows {name}", arch.name in needed, packages)
        known = sets_architecture(said, name)
        detail = f"{program} does not know {name}" if version else "there is no gdb to ask"
        yield row(known, detail=None if known else detail)


def qemu_rows(arch: Arch, required: bool) -> Iterator[Row]:
    """QEMU for *arch*, and the firmware that it comes with."""
    packages = (arch.qemu_package,)
    row = _row(f"QEMU for {arch.name}", arch.qemu, required, packages)
    firmware = _row(f"firmware for {arch.name}", "what QEMU starts first", required, packages)
    try:
        program = find_qemu(arch)
    except MissingRequirement:
        yield row(False)
        yield firmware(False, detail=f"needs {arch.qemu}")
        return
    done = _try([str(program), "--version"], _LIMIT_S)
    version = re.search(r"version (\d+(?:\.\d+)+)", "" if done is None else done.output)
    yield row(
        version is not None,
        path=str(program),
        version=version and version[1],
        detail=None if version else _complaint(done),
    )
    complaint = _firmware_complaint(program, arch)
    yield firmware(complaint is None, detail=complaint)


def plugin_row(arch: Arch) -> Row:
    """A QEMU that the plugin engine can use, by having it load the plugin."""
    row = _row(f"plugins for {arch.name}", "a QEMU for --engine plugin (10 or later)", False, ())
    get = "`osvtriage doctor --fetch-qemu` (Debian 12), or give --qemu one"
    try:
        found = find_plugin_qemu(arch)
    except MissingRequirement as error:
        return row(False, detail=str(error), how_to_get=get)
    if found.path is None:
        return row(False, detail=found.obstacle, how_to_get=get)
    return row(True, path=str(found.path))


def _firmware_complaint(program: Path, arch: Arch) -> str | None:
    """What QEMU says against its own firmware, which it loads while it builds the machine.

    The guest is not started (``-S``): a QEMU that comes to read ``quit`` has found the firmware.
    """
    machine = [word for machine in arch.machine for word in ("-M", machine)]
    quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"]
    # timeout(1) ends a QEMU that does not listen, also where this process is killed first.
    killer = ["timeout", "-s", "KILL", f"{_LIMIT_S:g}"]
    try:
        done = subprocess.run(
            [*killer, str(program), *machine, *quiet, "-S", "-monitor", "stdio"],
            input="quit\n",
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return None
    return _complaint(Done(done.returncode, done.stdout, done.stderr))


def accelerator_rows(arch: Arch, required: bool) -> Iterator[Row]:
    """What can run guests of *arch*. KVM is never required: TCG gives the same findings."""
    packages = (arch.qemu_package,)
    tcg = _row(f"TCG for {arch.name}", "QEMU's own emulation runs a guest", required, packages)
    kvm = _row(f"KVM for {arch.name}", "the host runs a guest (faster)", False, ())
    try:
        program = find_qemu(arch)
    except MissingRequirement:
        yield tcg(False, detail=f"needs {arch.qemu}")
        yield kvm(False, detail=f"needs {arch.qemu}")
        return
    result = accelerator.probe(arch, "tcg", qemu=program, fresh=True)
    yield tcg(result.usable, detail=result.detail)
    if (obstacle := accelerator.kvm_obstacle(arch)) is not None:
        yield kvm(False, detail=obstacle)
        return
    result = accelerator.probe(arch, "kvm", qemu=program, fresh=True)
    usable = result.usable
    yield kvm(usable, detail=result.detail if usable else f"present, but {result.detail}")


def compiler_row(arch: Arch, required: bool) -> Row:
    """A compiler for *arch* and its static C library, by compiling a program."""
    row = _row(
        f"compiler for {arch.name}",
        "a C compiler that links statically",
        required,
        # gcc-x86-64-linux-gnu is a package on other machines than amd64 only, and so on.
        ("gcc", "libc6-dev") if platform.machine() == arch.name else arch.cross_packages,
    )
    try:
        program = compiler(arch)
    except MissingRequirement:
        return row(False)
    with tempfile.TemporaryDirectory(prefix="osvtriage-doctor-") as directory:
        source = Path(directory) / "hello.c"
        source.write_text(_HELLO, encoding="utf-8")
        output = Path(directory) / "hello"
        done = _try(
            [str(program), "-static", *arch.compiler_flags, "-o", str(output), str(source)],
            _LIMIT_S,
        )
        made = done is not None and done.status == 0 and output.is_file()
    asked = _try([str(program), "-dumpfullversion"], _LIMIT_S)
    return row(
        made,
        path=str(program),
        version=asked.output.strip() if asked and asked.status == 0 else None,
        detail=None if made else _complaint(done, "cannot find", "error"),
    )


def debian_rows() -> Iterator[Row]:
    """What fetches, verifies and unpacks the guests' packages."""
    for program, package, why in (
        ("apt-get", "apt", "fetches guests' packages"),
        ("dpkg-deb", "dpkg", "unpacks guests' packages"),
    ):
        path = shutil.which(program)
        row = _row(program, why, True, (package,))
        asked = _try([path, "--version"], _LIMIT_S) if path else None
        version = re.search(r"\b\d+(?:\.\d+)+", asked.output) if asked else None
        yield row(version is not None, path=path, version=version and version[0])
    # .gpg, and .pgp from Debian 13 on.
    keyring = min(Path("/usr/share/keyrings").glob("debian-archive-keyring.[gp]*"), default=None)
    row = _row("Debian's keyring", "verifies guests' packages", True, ("debian-archive-keyring",))
    yield row(keyring is not None, path=None if keyring is None else str(keyring))


def dot_row() -> Row:
    """Graphviz: without it a run of a recipe on lists has its picture as text only."""
    path = shutil.which("dot")
    asked = _try([path, "-V"], _LIMIT_S) if path else None
    version = re.search(r"version (\d+(?:\.\d+)+)", asked.output + asked.errors) if asked else None
    row = _row("dot", "draws lists as SVG", False, ("graphviz",))
    return row(version is not None, path=path, version=version and version[1])


def cache_row() -> Row:
    """The cache directory: writable, with room for images."""
    directory = cache_directory()
    row = _row("disk space", "1 GiB for images in the cache", True, ())
    existing = directory
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    elsewhere = f"point {CACHE_VARIABLE} at another directory"
    if not os.access(existing, os.W_OK | os.X_OK):
        return row(
            False,
            path=str(directory),
            detail=f"{existing} is not writable",
            how_to_get=f"make it writable, or {elsewhere}",
        )
    free = shutil.disk_usage(existing).free
    return row(
        free >= _CACHE_BYTES,
        path=str(directory),
        detail=f"{free / (1 << 30):.1f} GiB free",
        how_to_get=f"free some space, or {elsewhere}",
    )


def socket_row() -> Row:
    """The directory for running guests, by binding a socket with the longest name."""
    row = _row("sockets", "a short, private directory for unix sockets", True, ())
    elsewhere = "set XDG_RUNTIME_DIR to a short directory of your own"
    try:
        directory, lease = rundir.create()
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(directory / "qmp-outside.sock"))
        finally:
            os.close(lease)
            shutil.rmtree(directory, ignore_errors=True)
    except OsvtriageError as error:
        return row(False, detail=str(error), how_to_get=error.hint or elsewhere)
    except OSError as error:
        return row(False, detail=str(error), how_to_get=elsewhere)
    return row(True, path=str(directory.parent))


def _try(command: Sequence[str], limit: float) -> Done | None:
    """How *command* ended, or ``None`` where it could not be started or did not end."""
    try:
        return run(command, limit=limit)
    except (OSError, OsvtriageError):
        return None


def _complaint(done: Done | None, *telling: str) -> str:
    """The line of a program's output that has one of the *telling* words, or else its last."""
    if done is None:
        return "it does not start, or does not end"
    lines = (done.errors.strip() or done.output.strip()).splitlines()
    return next(
        (line for line in lines if any(word in line for word in telling)),
        lines[-1] if lines else f"it ended with status {done.status} and said nothing",
    )


def _dotted(version: Sequence[int]) -> str:
    return ".".join(str(number) for number in version)
