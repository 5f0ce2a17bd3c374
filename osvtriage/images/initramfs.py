"""The guest's userland: static busybox, an init script and one payload, as an initramfs.

A payload that is linked with shared libraries brings these along.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path, PurePosixPath

from osvtriage.images.atomic import new_file, sweep
from osvtriage.images.cpio import Entry, archive, character_device, directory, regular, symlink
from osvtriage.images.places import cache_directory
from osvtriage.model.errors import ImageError

# What the init script calls by name, and a shell for payloads that use system(3). Whether busybox's
# shell finds its applets by itself depends on its build (FEATURE_SH_STANDALONE), hence links.
_APPLETS = ("sh", "mount", "insmod", "poweroff", "halt", "sleep", "usleep", "cat", "dmesg")

PAYLOAD = "payload"

MODULES = "/modules"
"""Where the init script takes modules of the kernel from, in the order of their names."""

_LIB, _LIB64 = PurePosixPath("/lib"), PurePosixPath("/lib64")


def init_script() -> bytes:
    """The script that runs as PID 1."""
    return (files("osvtriage.images") / "init.sh").read_bytes()


def base_archive(busybox: bytes) -> bytes:
    """The archive with everything but the payload."""
    return archive(
        (
            # First of all, and with the numbers of Documentation/admin-guide/devices.txt: the
            # kernel opens /dev/console for PID 1 before anything is mounted.
            directory("dev"),
            character_device("dev/console", 5, 1),
            character_device("dev/null", 1, 3, 0o666),
            directory("proc"),
            directory("sys"),
            directory("tmp", 0o1777),
            directory("bin"),
            regular("bin/busybox", busybox, 0o755),
            *(symlink(f"bin/{applet}", "busybox") for applet in _APPLETS),
            regular("init", init_script(), 0o755),
        )
    )


def payload_archive(payload: bytes) -> bytes:
    """The archive with ``/payload`` alone. The kernel unpacks concatenated archives in turn."""
    return archive((regular(PAYLOAD, payload, 0o755),))


def files_archive(contents: Mapping[str, bytes]) -> bytes:
    """The archive with further files, by their absolute paths in the guest.

    Raises:
        ValueError: a path is not absolute, or leaves the root.
    """
    paths = [PurePosixPath(path) for path in contents]
    if strange := [str(path) for path in paths if not path.is_absolute() or ".." in path.parts]:
        raise ValueError(f"{strange[0]!r} is not an absolute path")
    parents = {parent for path in paths for parent in list(path.parents)[:-1]}
    return archive(
        (
            # A directory before what is in it.
            *(directory(str(path)[1:]) for path in sorted(parents)),
            *_library_link(parents),
            *(
                regular(str(path)[1:], data, 0o755)
                for path, data in zip(paths, contents.values(), strict=True)
            ),
        )
    )


def _library_link(directories: set[PurePosixPath]) -> Iterator[Entry]:
    """``/lib``, where all libraries are in ``/lib64``.

    That is where programs for x86-64 have their dynamic linker, and where those of some
    distributions look for libraries. Debian's look into /lib and directories in it.
    """
    if _LIB64 in directories and _LIB not in directories:
        yield symlink(str(_LIB)[1:], _LIB64.name)


def make_initramfs(
    busybox: Path, payload: Path | None, more_files: Mapping[str, Path] | None = None
) -> Path:
    """The initramfs of *busybox* and *payload*, from the cache where it was made before.

    Its name in the cache is the sum of its contents: an edited payload or script gives another.

    Args:
        more_files: files by their absolute paths in the guest.
    """
    try:
        contents = base_archive(busybox.read_bytes())
        if payload is not None:
            contents += payload_archive(payload.read_bytes())
        if more_files:
            contents += files_archive({at: path.read_bytes() for at, path in more_files.items()})
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot make the initramfs: {error}") from error
    name = hashlib.sha256(contents).hexdigest()
    path = cache_directory() / "initramfs" / f"{name}.cpio"
    if not _is_whole(path, len(contents)):
        sweep(path.parent)
        with new_file(path) as file:
            file.write(contents)
    return path


def _is_whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
