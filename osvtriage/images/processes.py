"""Running the host's programs that make images (apt, dpkg-deb, compilers)."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from osvtriage.model.errors import LimitExceeded, MissingRequirement


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended and what it printed (standard output and error)."""

    status: int
    output: str
    errors: str

    def last_words(self, lines: int = 6) -> str:
        """The end of what it printed, each line indented, for an error message."""
        text = (self.errors.strip() or self.output.strip() or "(it printed nothing)").splitlines()
        return "\n".join(f"  {line}" for line in text[-lines:])


def require(program: str, why: str, hint: str) -> str:
    """The path of *program*, or a MissingRequirement that says *why* it is needed."""
    if (path := shutil.which(program)) is None:
        raise MissingRequirement(f"{program} is not on this machine; it is needed to {why}", hint)
    return path


def install_command(packages: Sequence[str]) -> str:
    """The command that installs Debian packages, as the current user has to type it."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get install --no-install-recommends {' '.join(packages)}"


def run(
    command: Sequence[str],
    *,
    limit: float,
    directory: Path | None = None,
    ticking: Callable[[], None] | None = None,
    tick_seconds: float = 5.0,
) -> Done:
    """Run *command* to its end, calling *ticking* now and then while it works.

    Raises:
        LimitExceeded: it took longer than *limit* seconds, and was killed.
    """
    deadline = time.monotonic() + limit
    process = subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # The messages are matched against, so they must not be translated.
        env={**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": ""},
    )
    try:
        while True:
            try:
                output, errors = process.communicate(timeout=tick_seconds)
                return Done(process.returncode, output, errors)
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    raise LimitExceeded(
                        f"`{' '.join(command)}` did not end within {limit:.0f} s",
                        hint="run that command by hand to see where it hangs",
                    ) from None
                if ticking is not None:
                    ticking()
    finally:
        # Ctrl-C, an exception or the limit: nothing started here outlives the call.
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
