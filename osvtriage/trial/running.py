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
# Where a trial's own gdb is asked for a second terminal.
ATTACH = "attach.sock"
# In the record, while it grows: what leads back.
SOCKETS = "sockets"
# There, too: what it will be called when it is whole.
NAME = "name"

_WHEN = (
    "one can be attached to while its workload runs; a guest that boots, and one that is steered "
    "(`interleave`, a sweep), cannot"
)


@dataclass(frozen=True, slots=True)
class Running:
    """A session: its growing record, and the directory of its sockets."""

    record: Path
    sockets: Path

    def named(self) -> Path | None:
        """How the record will be called when it is whole, where that is known."""
        with contextlib.suppress(OSError):
            return Path((self.record / NAME).read_text(encoding="utf-8"))
        return None

    @property
    def console_log(self) -> Path:
        """What the guest has printed."""
        return self.record / "console.log"

    @property
    def keyboard(self) -> Path:
        """The socket whose bytes are typed into the guest's console."""
        return self.sockets / KEYBOARD

    @property
    def attach(self) -> Path:
        """The socket at which a trial lets visitors in."""
        return self.sockets / ATTACH


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
        if (running := _of(record, KEYBOARD)) is not None:
            return running
        raise UsageError(
            f"no session runs whose record is {record}",
            "`ot status` in the session shows its record; console.log there stays when it ends",
        )
    found = _all(KEYBOARD)
    if not found:
        raise UsageError("no session runs", "`osvtriage gdb RECIPE` starts one")
    if len(found) > 1:
        records = ", ".join(str(one.record) for one in found)
        raise UsageError("several sessions run: whose console?", f"name one of {records}")
    return found[0]


def find_trial(record: Path | None) -> Running:
    """The trial whose record is to be *record*, or the only one that runs, with its workload begun.

    Args:
        record: its directory while it grows, or the --out of its command.

    Raises:
        UsageError: there is no such one, or there are several.
    """
    trials = _all(ATTACH)
    if record is not None:
        path = record.absolute()
        for trial in trials:
            if path in (trial.record, trial.named()):
                return trial
        if (path / "run.json").is_file():
            raise UsageError(
                f"the run in {record} has ended", "`osvtriage gdb --record` runs it again"
            )
        if _of(record, KEYBOARD) is not None:
            raise UsageError(f"{record} is of a session, whose gdb has a terminal already")
        raise UsageError(f"no trial runs in {record}", _WHEN)
    if not trials:
        raise UsageError("no trial runs", _WHEN)
    if len(trials) > 1:
        records = ", ".join(str(one.record) for one in trials)
        raise UsageError("several trials run: to which?", f"name one of {records}")
    return trials[0]


def _of(record: Path, socket: str) -> Running | None:
    with contextlib.suppress(OSError):
        sockets = Path((record / SOCKETS).read_text(encoding="utf-8"))
        if (sockets / socket).exists():
            return Running(record, sockets)
    return None


def _all(socket: str) -> list[Running]:
    found = []
    for sockets in rundir.base().iterdir():
        with contextlib.suppress(OSError):
            path = Path((sockets / RECORD).read_text(encoding="utf-8"))
            if (sockets / socket).exists() and path.is_dir():
                found.append(Running(path, sockets))
    return found
