"""The GNU C library of a Debian suite: to build programs against, and to run them with in guests.

Kept in the cache (see :mod:`osvtriage.images.results`)::

    glibc/SUITE-ARCHITECTURE/VERSION-SUM/
        usr/include/, usr/lib/TRIPLET/, usr/lib64/    a sysroot
        usr/lib/debug/.build-id/                      debugging information for gdb
        glibc.json                                    what it was made of

The tree is Debian's with ``/lib`` and ``/lib64`` inside ``/usr``, as Debian itself has it from 12
on. Nothing in it leads out of it: absolute links are made relative, and the scripts that take the
place of ``libc.so`` and others name files without directories. Where one of those were left, a
linker would take the host's library without a word.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from osvtriage.arch import Arch
from osvtriage.images import suites
from osvtriage.images.atomic import PREFIX, new_directory, sweep
from osvtriage.images.debian import Archive, Candidate, Place
from osvtriage.images.places import cache_directory
from osvtriage.images.progress import Progress, silent
from osvtriage.images.record import Package
from osvtriage.images.results import Results
from osvtriage.model.errors import ImageError
from osvtriage.symbols.dynamic import dynamic_info

_RECORD, _SCHEMA = "glibc.json", "osvtriage.glibc/1"

# libgcc_s is what glibc loads for a thread that ends early; the debugging information comes last,
# for it goes by the libraries' build-ids.
_DEBUG = "libc6-dbg"
_RUNTIME_PACKAGES = ("libc6", "libgcc-s1")
_DEVELOPMENT_PACKAGES = ("libc6-dev", "linux-libc-dev")

# Of the debugging information of 270 files (12 MB), that of those which a thread's stack, its lists
# and a fork go through. libpthread is a stub from glibc 2.34 on.
_DEBUGGED = re.compile(r"(ld-linux-[^/]*|libc|libpthread)\.so\.\d+")

# Relative to the root, with /lib inside /usr. Not gconv and audit modules: nothing links to them.
_RUNTIME = re.compile(r"usr/lib(64|/[^/]+)/[^/]+\.so[.\d]*")
_HEADERS = re.compile(r"usr/include/(?P<first>[^/]+)(/.*)?")
_OBJECTS = re.compile(r"usr/lib/[^/]+/[^/]+\.(o|a|so)")
# Debian 13 has the headers of all processors in one package, and links to them from include/.
_KERNEL_HEADERS = re.compile(r"usr/lib/linux/uapi/.*")
# GCC's parts of every program. The host's would not do: those of GCC 12 call a function that glibc
# has from 2.35 on (_dl_find_object).
_GCC = re.compile(r"usr/lib/gcc/[^/]+/\d+/(crt(begin|end)[ST]?\.o|libgcc(_eh)?\.a)")
_GCC_PACKAGE = re.compile(r"libgcc-\d+-dev")
_GCC_COMPILER = re.compile(r"gcc-\d+(-[a-z0-9-]+-linux-gnu[a-z0-9]*)?")
_TRIPLET = re.compile(r"[a-z0-9_]+-linux-(gnu|musl)[a-z0-9_]*")

# What a GNU ld script names: "GROUP ( /lib/x86_64-linux-gnu/libc.so.6 … )".
_SCRIPT = b"/* GNU ld script"
_NAMED_FILE = re.compile(rb"(?<=\s)/(?:[^\s/]+/)+(?=[^\s/]+\s)")


@dataclass(frozen=True, slots=True)
class Sysroot:
    """The glibc of one suite. ``version`` is what ``gnu_get_libc_version()`` says, such as 2.36.

    ``root`` is for gcc's ``--sysroot``. ``libraries`` is the directory in it with the shared
    libraries, the archives and the start files; ``debug`` is for gdb's ``debug-file-directory``.
    """

    suite: str
    version: str
    root: Path
    libraries: Path
    debug: Path
    packages: tuple[Package, ...]


def sysroot(
    suite: str, arch: Arch, progress: Progress = silent, *, update: bool = False
) -> Sysroot:
    """The glibc of Debian *suite* for *arch*, fetched where it was not before.

    Args:
        update: also where the archive has newer packages.

    Raises:
        SuiteGone: the mirror does not have the suite (any more), and it was not fetched before.
    """
    if not update and (kept := _kept(suite, arch)) is not None:
        return kept
    with suites.opened(suite, arch, progress) as archive:
        # Another process may have fetched it while this one waited.
        return (None if update else _kept(suite, arch)) or make(archive, arch, progress)


def make(archive: Archive, arch: Arch, progress: Progress) -> Sysroot:
    """The glibc of the newest packages of an *archive* that :func:`suites.opened` gave."""
    packages = list(_packages(archive))
    results = _results(archive.suite, arch)
    made_of = {package.name: package.sha256 for package in packages}
    result = results.place(packages[0].version, made_of)
    if result == results.current and (kept := _kept(archive.suite, arch)) is not None:
        return kept
    sweep(results.directory)
    with new_directory(result) as root:
        _fill(root, archive, packages, arch)
        record = {"schema": _SCHEMA, "packages": [asdict(p.package) for p in packages]}
        (root / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    results.publish(result)
    progress(f"glibc {packages[0].version} of Debian {archive.suite} is there")
    return _described(result, archive.suite, arch, tuple(p.package for p in packages))


def _packages(archive: Archive) -> Iterator[Candidate]:
    """What is fetched, in this order; libc6, whose version counts, is the first."""
    for name in (*_RUNTIME_PACKAGES, *_DEVELOPMENT_PACKAGES, _gcc_package(archive), _DEBUG):
        yield archive.newest(name)


def _gcc_package(archive: Archive) -> str:
    """The package with the parts of the suite's own GCC, such as libgcc-14-dev.

    gcc leads to it by gcc-14, which from Debian 13 on is another metapackage.
    """
    seen = ["gcc"]
    for name in seen:
        for dependency in archive.newest(name).depends:
            if _GCC_PACKAGE.fullmatch(dependency):
                return dependency
            if _GCC_COMPILER.fullmatch(dependency) and dependency not in seen:
                seen.append(dependency)
    raise ImageError(
        f"no package of the GCC of Debian {archive.suite} was found; looked into {', '.join(seen)}"
    )


def _results(suite: str, arch: Arch) -> Results:
    return Results(cache_directory() / "glibc" / f"{suite}-{arch.debian}")


def _kept(suite: str, arch: Arch) -> Sysroot | None:
    if (root := _results(suite, arch).current) is None:
        return None
    try:
        record = json.loads((root / _RECORD).read_bytes())
        packages = tuple(Package(**package) for package in record["packages"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _described(root, suite, arch, packages)


def _described(root: Path, suite: str, arch: Arch, packages: tuple[Package, ...]) -> Sysroot:
    return Sysroot(
        suite=suite,
        version=packages[0].version.partition("-")[0],
        root=root,
        libraries=_libraries(root, arch),
        debug=root / "usr" / "lib" / "debug",
        packages=packages,
    )


def _libraries(root: Path, arch: Arch) -> Path:
    return root / "usr" / "lib" / arch.triplet


def _fill(root: Path, archive: Archive, packages: list[Candidate], arch: Arch) -> None:
    libraries = _libraries(root, arch)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}deb-", dir=root) as scratch:
        for package in packages:
            if package.name in _RUNTIME_PACKAGES:
                place: Place = runtime_place
            elif package.name == _DEBUG:
                place = debug_place(build_ids(libraries, arch))
            else:
                place = development_place(arch)
            archive.fetch_tree(package, place, root, Path(scratch))
    mend_links(root)
    mend_scripts(libraries)


def runtime_place(path: PurePosixPath) -> PurePosixPath | None:
    """Where the shared libraries of a package go; nothing else of it is wanted."""
    merged = _merged(path)
    return merged if _RUNTIME.fullmatch(str(merged)) else None


def development_place(arch: Arch) -> Place:
    """Where what compiling for *arch* takes goes, out of libc6-dev and its like."""

    def place(path: PurePosixPath) -> PurePosixPath | None:
        merged = _merged(path)
        text = str(merged)
        if found := _HEADERS.fullmatch(text):
            foreign = _TRIPLET.fullmatch(found["first"]) and found["first"] != arch.triplet
            return None if foreign else merged
        if _GCC.fullmatch(text):
            # One directory for all that is linked in.
            return PurePosixPath("usr/lib") / arch.triplet / merged.name
        wanted = _OBJECTS.fullmatch(text) or _KERNEL_HEADERS.fullmatch(text)
        return merged if wanted else None

    return place


def debug_place(ids: frozenset[str]) -> Place:
    """Where the debugging information of the files with these build-ids goes."""
    names = {f"usr/lib/debug/.build-id/{one[:2]}/{one[2:]}.debug" for one in ids}
    return lambda path: path if str(path) in names else None


def build_ids(libraries: Path, arch: Arch) -> frozenset[str]:
    """The build-ids of those *libraries* whose debugging information is kept."""
    paths = (path for path in libraries.iterdir() if _DEBUGGED.fullmatch(path.name))
    return frozenset(one for path in paths if (one := dynamic_info(path, arch).build_id))


def mend_links(root: Path) -> None:
    """Make absolute symbolic links below *root* relative ones to the same place below *root*."""
    for link in _symbolic_links(root):
        target = link.readlink()
        if target.is_absolute():
            inside = root / _merged(PurePosixPath(*target.parts[1:]))
            link.unlink()
            link.symlink_to(os.path.relpath(inside, link.parent))


def mend_scripts(libraries: Path) -> None:
    """Have the GNU ld scripts among *libraries* name files as ``-l:NAME``.

    The linker looks for those in the directories given with -L alone; a plain name it would look
    for in the current directory first.
    """
    for path in libraries.iterdir():
        if path.is_file() and not path.is_symlink() and path.suffix in (".so", ".a"):
            with path.open("rb") as file:
                text = file.read(4096) if file.read(len(_SCRIPT)) == _SCRIPT else b""
            if text:
                path.write_bytes(_NAMED_FILE.sub(b"-l:", _SCRIPT + text))


def _symbolic_links(root: Path) -> Iterator[Path]:
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            if (path := Path(directory) / name).is_symlink():
                yield path


def _merged(path: PurePosixPath) -> PurePosixPath:
    """*path*, relative to the root, with what is in /lib and /lib64 inside /usr."""
    return PurePosixPath("usr") / path if path.parts[:1] in (("lib",), ("lib64",)) else path
