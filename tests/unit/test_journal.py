"""What an interrupted interleaving leaves for the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from osvtriage.model.boundary import Boundary, Generation
from osvtriage.trial.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "interleavings" / "key.jsonl"


def boundary(name: str, nth: int = 0) -> Boundary:
    return Boundary("0" * 16, nth, name, "nop", None, None, Generation())


def test_what_was_done_is_taken_over_when_asked_for(path: Path) -> None:
    with Journal(path, resume=False) as journal:
        journal.add(boundary("f+0x1"))
        journal.add(boundary("f+0x1", 1))
    with Journal(path, resume=True) as journal:
        assert set(journal.done) == {("f+0x1", 0), ("f+0x1", 1)}
        assert all(one.resumed for one in journal.done.values())
        journal.add(boundary("f+0x2"))
    with Journal(path, resume=True) as journal:
        assert len(journal.done) == 3


def test_unasked_it_begins_anew(path: Path) -> None:
    with Journal(path, resume=False) as journal:
        journal.add(boundary("f"))
    with Journal(path, resume=False) as journal:
        assert not journal.done
    with Journal(path, resume=True) as journal:
        assert not journal.done


def test_half_a_line_is_none(path: Path) -> None:
    with Journal(path, resume=False) as journal:
        journal.add(boundary("f"))
        journal.add(boundary("g"))
    path.write_bytes(path.read_bytes()[:-9])
    with Journal(path, resume=True) as journal:
        assert set(journal.done) == {("f", 0)}


def test_what_is_whole_is_forgotten(path: Path) -> None:
    with Journal(path, resume=False) as journal:
        journal.add(boundary("f"))
        journal.remove()
    assert not path.exists()
