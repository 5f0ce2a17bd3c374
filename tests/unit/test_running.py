"""Finding the session or the trial that runs, by the tracks that it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from osvtriage.model.errors import UsageError
from osvtriage.trial import running
from osvtriage.trial.running import Running


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("osvtriage.guest.rundir.base", lambda: tmp_path / "sockets")
    (tmp_path / "sockets").mkdir()
    return tmp_path


def started(base: Path, name: str, socket: str) -> Running:
    record, sockets = base / f".part-{name}", base / "sockets" / name
    record.mkdir()
    sockets.mkdir()
    (record / running.NAME).write_text(str(base / name))
    (sockets / socket).touch()
    made = Running(record, sockets)
    running.announce(made)
    return made


def test_the_only_trial_needs_no_name(base: Path) -> None:
    started(base, "session", running.KEYBOARD)
    trial = started(base, "trial", running.ATTACH)
    assert running.find_trial(None) == trial
    assert running.find(None).record == base / ".part-session"


def test_a_trial_is_named_by_where_it_grows_or_what_it_will_be_called(base: Path) -> None:
    first, second = (started(base, name, running.ATTACH) for name in ("a", "b"))
    assert running.find_trial(base / ".part-a") == first
    assert running.find_trial(base / "b") == second
    with pytest.raises(UsageError, match="several trials run"):
        running.find_trial(None)


def test_what_cannot_be_attached_to_is_said(base: Path) -> None:
    with pytest.raises(UsageError, match="no trial runs"):
        running.find_trial(None)
    with pytest.raises(UsageError, match="no trial runs in"):
        running.find_trial(base)
    started(base, "session", running.KEYBOARD)
    with pytest.raises(UsageError, match="is of a session"):
        running.find_trial(base / ".part-session")
    (base / "run.json").touch()
    with pytest.raises(UsageError, match="has ended"):
        running.find_trial(base)
