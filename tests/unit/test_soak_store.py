"""A soak's store: what is committed, what is kept, what a killed writer leaves."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from soaks import outcome, plan

from osvtriage.model.errors import OsvtriageError, UsageError
from osvtriage.soak.store import Store
from osvtriage.soak.summary import TrialOutcome


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.create(tmp_path / "soak")
    yield made
    made.close()


def trial(number: int, verdict: str = "clean", *signatures: str) -> TrialOutcome:
    return outcome(plan().trial(number), verdict, *signatures)


def add(store: Store, one: TrialOutcome, keep: int = 1 << 20, size: int = 0) -> list[str]:
    if size:
        record = store.record(one.number)
        record.mkdir(parents=True)
        (record / "run.json").write_bytes(b"x" * size)
        one = replace(one, record=f"records/{record.name}")
    titles = {name: f"title of {name}" for name in one.signatures}
    return store.add(one, titles, float(one.number), keep)


def records(store: Store) -> set[str]:
    return {path.name for path in (store.directory / "records").iterdir()}


def test_what_was_added_is_read_again(store: Store) -> None:
    added = [trial(2, "reproduced", "b", "a"), trial(1)]
    for one in added:
        add(store, one)
    reader = Store.read(store.directory)
    read = list(reader.outcomes())
    reader.close()
    assert read == [added[1], replace(added[0], signatures=("a", "b"))]


def test_signatures_are_folded(store: Store) -> None:
    assert add(store, trial(5, "reproduced", "a", "b")) == ["a", "b"]
    assert add(store, trial(3, "reproduced", "a")) == []
    a, b = store.signatures()
    assert (a.signature, a.title, a.count) == ("a", "title of a", 2)
    assert (a.first_trial, a.newest_trial) == (3, 5)
    assert (b.count, b.first_trial, b.newest_trial) == (1, 5, 5)


def test_an_exemplar_is_kept_and_others_as_far_as_they_fit(store: Store) -> None:
    for number in range(1, 8):
        add(store, trial(number, "reproduced", "a"), keep=250, size=100)
    # The exemplar is the first; the newest two fit into 250 bytes.
    assert records(store) == {"000001", "000006", "000007"}
    assert [one.record for one in store.outcomes() if one.record] == [
        "records/000001",
        "records/000006",
        "records/000007",
    ]
    assert store.signatures()[0].exemplar == "records/000001"


def test_a_signature_without_a_record_gets_a_later_exemplar(store: Store) -> None:
    add(store, trial(1, "error", "a"))
    add(store, trial(2, "error", "a"), size=10)
    assert store.signatures()[0].exemplar == "records/000002"


def test_a_trial_is_not_counted_twice(store: Store) -> None:
    add(store, trial(1))
    with pytest.raises(OsvtriageError, match="cannot write down"):
        add(store, trial(1, "reproduced", "a"))
    assert [one.verdict for one in store.outcomes()] == ["clean"]
    assert store.signatures() == ()


def test_two_writers_are_one_too_many(store: Store) -> None:
    with pytest.raises(UsageError, match="another osvtriage is soaking"):
        Store.resume(store.directory)


def test_what_a_killed_writer_left_is_swept(store: Store) -> None:
    add(store, trial(1), size=10)
    add(store, trial(2), keep=10, size=10)
    orphan = store.record(3)
    orphan.mkdir()
    mine = store.directory / "records" / "notes"
    mine.mkdir()
    store.close()
    again = Store.resume(store.directory)
    assert records(again) == {"000002", "notes"}
    assert [number for number, _, _ in again.verdicts()] == [1, 2]
    again.close()


def test_a_writer_killed_before_its_tables_begins_anew(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "soak.sqlite").close()
    with pytest.raises(UsageError, match="only just begun"):
        Store.read(tmp_path)
    store = Store.resume(tmp_path)
    assert list(store.verdicts()) == []
    store.close()


def test_why_it_stopped_is_of_the_last_part(store: Store) -> None:
    add(store, trial(1))
    store.stop("interrupted", 40.0)
    assert (store.stopped_because(), store.elapsed()) == ("interrupted", 40.0)
    store.close()
    again = Store.resume(store.directory)
    assert (again.stopped_because(), again.elapsed()) == ("", 40.0)
    again.close()


def test_what_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "soak.sqlite").write_bytes(b"no database, and longer than its header is" * 9)
    with pytest.raises(OsvtriageError, match="cannot read the results"):
        Store.read(tmp_path)


def test_timings(store: Store) -> None:
    assert store.timings() == {"total": 0.0}
    add(store, trial(1))
    add(store, trial(2, "reproduced", "a"))
    assert store.timings() == {
        "total": 2.0,
        "trial_mean": 1.0,
        "cpu_mean": 0.5,
        "first_reproduction": 2.0,
        "trials_per_hour": 3600.0,
    }
