"""Where osvtriage keeps what it makes: one cache directory and one data directory per user.

The cache holds what can be made again (images from packages, compiled payloads, initramfs). The
data directory holds what only the user has (kernels that were added).
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from osvtriage.model.errors import UsageError

CACHE_VARIABLE = "OSVTRIAGE_CACHE"
DATA_VARIABLE = "OSVTRIAGE_DATA"
RUNS_VARIABLE = "OSVTRIAGE_RUNS"
SOAKS_VARIABLE = "OSVTRIAGE_SOAKS"


def cache_directory() -> Path:
    """The cache directory, which need not exist yet. ``OSVTRIAGE_CACHE`` moves it."""
    if override := os.environ.get(CACHE_VARIABLE):
        return Path(override).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("osvtriage")


def data_directory() -> Path:
    """The data directory, which need not exist yet. ``OSVTRIAGE_DATA`` moves it."""
    if override := os.environ.get(DATA_VARIABLE):
        return Path(override).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("osvtriage")


def runs_directory() -> Path:
    """Where run records go unless told otherwise. ``OSVTRIAGE_RUNS`` moves it."""
    if override := os.environ.get(RUNS_VARIABLE):
        return Path(override).expanduser().absolute()
    return state_directory() / "runs"


def state_directory() -> Path:
    """What osvtriage remembers from one command to the next; it need not exist yet."""
    from platformdirs import user_state_path

    return user_state_path("osvtriage")


def soaks_directory() -> Path:
    """Where soaks go unless told otherwise. ``OSVTRIAGE_SOAKS`` moves it."""
    if override := os.environ.get(SOAKS_VARIABLE):
        return Path(override).expanduser().absolute()
    return state_directory() / "soaks"


def result_directory(out: Path | None, parent: Path, name: str) -> Path:
    """Where a command's result goes: *out*, or a new directory in *parent* with *name* in its own.

    Raises:
        UsageError: *out* holds something.
    """
    if out is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        return parent / f"{stamp}-{name}-{os.getpid()}"
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty directory", "choose another --out")
    return out
