"""The directory of one run's sockets: short, private, and swept when its owner is gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
from pathlib import Path

from osvtriage.guest.supervisor import MARK
from osvtriage.images.atomic import explained
from osvtriage.model.errors import GuestError

# sun_path has 108 bytes with its NUL (unix(7)); the longest name that is put into the directory.
_SOCKET_PATH_LIMIT = 107
_LONGEST_NAME = len("/qmp-outside.sock")


def base() -> Path:
    """The user's directory for running guests, mode 0700.

    Raises:
        GuestError: somebody else owns it, or its path is too long for a socket.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    parent = Path(runtime) if runtime and os.access(runtime, os.W_OK) else Path("/tmp")
    # Socket names and the 8 random letters of mkdtemp have to fit behind it.
    if len(os.fsencode(parent)) > 60:
        parent = Path("/tmp")
    path = parent / (f"osvtriage-{os.getuid()}" if parent == Path("/tmp") else "osvtriage")
    with explained(path):
        path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise GuestError(
            f"{path} does not belong to this user alone",
            f"remove {path}, or set XDG_RUNTIME_DIR to a directory of your own",
        )
    return path


def create() -> tuple[Path, int]:
    """A new, empty directory for one run, and a descriptor of it.

    The descriptor holds the lock that keeps a sweep away: close it once another process holds one.
    """
    parent = base()
    while True:
        with explained(parent):
            path = Path(tempfile.mkdtemp(prefix="", dir=parent))
        assert len(os.fsencode(path)) + _LONGEST_NAME <= _SOCKET_PATH_LIMIT
        # Another osvtriage may sweep it before it is locked: then make another.
        with contextlib.suppress(FileNotFoundError):
            lease = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lease, fcntl.LOCK_SH)
            if path.exists():
                return path, lease
            os.close(lease)


def sweep() -> list[Path]:
    """Remove the directories that no run holds any more, and end what was started for them.

    Only a supervisor that was itself killed with SIGKILL leaves any.
    """
    removed = []
    for entry in base().iterdir():
        with contextlib.suppress(OSError):
            descriptor = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _kill_users(entry)
                shutil.rmtree(entry)
                removed.append(entry)
            finally:
                os.close(descriptor)
    return removed


def _kill_users(directory: Path) -> None:
    """End the QEMU and the gdb that were started for *directory*."""
    mark = os.fsencode(f"{MARK}={directory}")
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)
