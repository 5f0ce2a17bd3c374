"""Programs that run in a guest with a glibc of their choice, and the libraries they need there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from osvtriage.arch import Arch
from osvtriage.images.glibc import Sysroot
from osvtriage.images.payload import COMPILE_FLAGS, compiled
from osvtriage.images.progress import Progress, silent
from osvtriage.model.errors import ImageError, SymbolError, UsageError
from osvtriage.symbols.dynamic import DynamicInfo, dynamic_info

Linkage = Literal["dynamic-pie", "dynamic-no-pie", "static-pie", "static-no-pie"]
"""How a program is linked: with shared libraries or without, at addresses of its own or not."""

# A static PIE has to be asked for by a flag of its own: `-static -pie` gives a dynamic program.
_LINK_FLAGS: Mapping[Linkage, tuple[str, ...]] = {
    "dynamic-pie": ("-fPIE", "-pie"),
    "dynamic-no-pie": ("-fno-pie", "-no-pie"),
    "static-pie": ("-fPIE", "-static-pie"),
    "static-no-pie": ("-fno-pie", "-no-pie", "-static"),
}
LINKAGES: tuple[Linkage, ...] = tuple(_LINK_FLAGS)
"""Every way there is to link."""

# What glibc loads on its own when a thread ends early (pthread_exit, pthread_cancel): no file
# names it among its needs, and without it glibc aborts.
_LOADED_BY_GLIBC = ("libgcc_s.so.1",)

# A directory of libraries that holds more is somebody's root; the wrong one, maybe.
_MOST_FILES = 200_000


@dataclass(frozen=True, slots=True)
class Program:
    """A program, and the files that it needs in the guest: (path there, file here).

    Where *libraries* is not empty its first is the dynamic linker, at the program's PT_INTERP. The
    others lie beside it: a dynamic linker looks into the directory that it was built for. Debian's
    in /lib64 looks into /lib, which is therefore a link to it where both would be there.
    """

    path: Path
    linkage: Linkage
    libraries: tuple[tuple[str, Path], ...] = ()


def build_program(
    source: Path, arch: Arch, sysroot: Sysroot, linkage: Linkage, progress: Progress = silent
) -> Program:
    """The program of the C file *source*, linked with the glibc in *sysroot*.

    The compiler is the host's. Of what it links in nothing is.

    Raises:
        MissingRequirement: there is no compiler for *arch*.
        ImageError: the compiler refused the source, or linked something else than was asked for.
    """
    libraries = f"{sysroot.libraries}/"
    # With --sysroot alone the host's libraries are found first: gcc looks beside its own directory
    # regardless of it. -B is for start files, -L for libraries.
    flags = (
        *COMPILE_FLAGS,
        *_LINK_FLAGS[linkage],
        *(f"--sysroot={sysroot.root}", f"-B{libraries}", f"-L{libraries}", "-static-libgcc"),
    )
    path = compiled(source, arch, flags, progress)
    program = _program(path, dynamic_info(path, arch), sysroot.libraries, arch)
    if program.linkage != linkage:
        raise ImageError(f"{path} was to be {linkage}, and became {program.linkage}")
    return program


def own_program(path: Path, libraries: Path | None, arch: Arch) -> Program:
    """A program of the user's, with the shared libraries found below the directory *libraries*.

    Raises:
        UsageError: the program is dynamic and no directory was given, or the other way round.
        ImageError: the program is none for *arch*, or a library that it needs is not there.
    """
    hint = "give the program itself, not a script that starts it nor a package of it"
    try:
        info = dynamic_info(path, arch)
    except SymbolError as error:
        raise ImageError(str(error), hint=hint) from error
    if not info.is_program:
        raise ImageError(f"{path} is a shared library, not a program", hint=hint)
    if info.is_static and libraries is not None:
        raise UsageError(f"{path} is a static program: it needs no --libs", hint="leave --libs out")
    if info.is_static:
        return Program(path, _linkage(info))
    if info.interpreter is None:
        raise ImageError(f"{path} needs shared libraries, but names no dynamic linker (PT_INTERP)")
    if libraries is None:
        raise UsageError(
            f"{path} is a dynamic program: it needs {', '.join(_wanted(info))}",
            hint="give --libs DIR, with the libraries of the system that the program is from",
        )
    return _program(path, info, libraries, arch)


def _program(path: Path, info: DynamicInfo, libraries: Path, arch: Arch) -> Program:
    if info.interpreter is None:
        return Program(path, _linkage(info))
    files = find_files(libraries)
    found: dict[str, Path] = {}
    # Breadth first, as the dynamic linker does it.
    waiting = [(name, path) for name in _wanted(info)]
    infos: dict[str, DynamicInfo] = {}
    for name, user in waiting:
        if name in infos:
            continue
        if name not in files:
            raise ImageError(
                f"{user} needs {name}, which is not in {libraries}",
                hint="copy it there from the system that the program is from",
            )
        found[name] = files[name]
        infos[name] = _library_info(files[name], arch)
        waiting += [(other, files[name]) for other in infos[name].needed]
    found |= {name: files[name] for name in _LOADED_BY_GLIBC if name in files}
    _check_versions({path.name: info, **infos}, libraries)
    interpreter = PurePosixPath(info.interpreter)
    first = (str(interpreter), found.pop(interpreter.name))
    beside = ((str(interpreter.parent / name), file) for name, file in found.items())
    return Program(path, _linkage(info), (first, *beside))


def _wanted(info: DynamicInfo) -> list[str]:
    """The names of the files that a dynamic program needs first of all."""
    assert info.interpreter is not None
    return [PurePosixPath(info.interpreter).name, *info.needed]


def _library_info(path: Path, arch: Arch) -> DynamicInfo:
    try:
        return dynamic_info(path, arch)
    except SymbolError as error:
        raise ImageError(str(error), hint="copy it again from the program's system") from error


def _check_versions(infos: Mapping[str, DynamicInfo], libraries: Path) -> None:
    """Find what the dynamic linker would refuse: a version of a symbol that a library lacks."""
    for name, info in infos.items():
        for library, wanted in info.versions_needed.items():
            if library in infos and (missing := wanted - infos[library].versions_defined):
                raise ImageError(
                    f"{name} needs {library} with {', '.join(sorted(missing))}; "
                    f"that in {libraries} has none: it is older",
                    hint="take all libraries from the system that the program is from",
                )


def _linkage(info: DynamicInfo) -> Linkage:
    if info.is_static:
        return "static-pie" if info.position_independent else "static-no-pie"
    return "dynamic-pie" if info.position_independent else "dynamic-no-pie"


def find_files(directory: Path) -> dict[str, Path]:
    """The regular files below *directory* by their names; the nearest to it where names repeat."""
    if not directory.is_dir():
        raise UsageError(f"there is no directory {directory}")
    found: dict[str, Path] = {}
    for number, path in enumerate(_files(directory)):
        if number == _MOST_FILES:
            raise UsageError(
                f"{directory} holds more than {_MOST_FILES} files",
                hint="give a directory with the program's libraries alone",
            )
        found.setdefault(path.name, path)
    return found


def _files(directory: Path) -> Iterator[Path]:
    """Breadth first, each directory in the order of names. Links to files are followed."""
    waiting = [directory]
    for parent in waiting:
        for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif entry.is_file():
                yield Path(entry.path)
