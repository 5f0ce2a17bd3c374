"""The guest's userland: static busybox, an init script and one payload, as an initramfs."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

from osvtriage.images.atomic import new_file, sweep
from osvtriage.images.cpio import archive, character_device, directory, regular, symlink
from osvtriage.images.places import cache_directory
from osvtriage.model.errors import ImageError

# What the init script calls by name, and a shell for payloads that use system(3). Whether busybox's
# shell finds its applets by itself depends on its build (FEATURE_SH_STANDALONE), hence links.
_APPLETS = ("sh", "mount", "poweroff", "halt", "sleep", "cat", "dmesg")

PAYLOAD = "payload"


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


def make_initramfs(busybox: Path, payload: Path | None) -> Path:
    """The initramfs of *busybox* and *payload*, from the cache where it was made before.

    Its name in the cache is the sum of its contents: an edited payload or script gives another.
    """
    try:
        contents = base_archive(busybox.read_bytes())
        if payload is not None:
            contents += payload_archive(payload.read_bytes())
    except OSError as error:
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
