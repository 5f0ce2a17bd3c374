"""The sessions that run now, for the commands that go beside one: where its guest's console is."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from osvtriage.guest import rundir
from osvtriage.model.errors import UsageError

# In the directory of a session's sockets: what leads to its record, and where the console is typed.
RECORD = "record"
KEYBOARD = "keyboard.sock"
# In the record, while it grows: what leads back.
SOCKETS = "sockets"


@dataclass(frozen=True, slots=True)
class Running:
    """A session: its growing record, and the directory of its sockets."""

    record: Path
    sockets: Path

    @property
    def console_log(self) -> Path:
        """What the guest has printed."""
        return self.record / "console.log"

    @property
    def keyboard(self) -> Path:
        """The socket whose bytes are typed into the guest's console."""
        return self.sockets / KEYBOARD


def announce(session: Running) -> None:
    """Leave the tracks by which :func:`find` finds *session*."""
    (session.sockets / RECORD).write_text(str(session.record), encoding="utf-8")
    (session.record / SOCKETS).write_text(str(session.sockets), encoding="utf-8")


def find(record: Path | None) -> Running:
    """The session whose record is *record*, or the only one that runs.

    Raises:
        UsageError: there is no such one, or there are several.
    """
    if record is not None:
        with contextlib.suppress(OSError):
            sockets = Path((record / SOCKETS).read_text(encoding="utf-8"))
            if (sockets / KEYBOARD).exists():
                return Running(record, sockets)
        raise UsageError(
            f"no session runs whose record is {record}",
            "`ot status` in the session shows its record; console.log there stays when it ends",
        )
    found = []
    for sockets in rundir.base().iterdir():
        with contextlib.suppress(OSError):
            path = Path((sockets / RECORD).read_text(encoding="utf-8"))
            if (sockets / KEYBOARD).exists() and path.is_dir():
                found.append(Running(path, sockets))
    if not found:
        raise UsageError("no session runs", "`osvtriage gdb RECIPE` starts one")
    if len(found) > 1:
        records = ", ".join(str(one.record) for one in found)
        raise UsageError("several sessions run: whose console?", f"name one of {records}")
    return found[0]
