"""A soak's results on disk: SQLite beside the run records.

A trial counts from the moment its row is committed, and not before: with ``synchronous=FULL`` that
is when it is on the disk, so that a soak which is killed loses the trials in flight at most. A
record without a row is one of those, and is swept.

One process at a time writes: it holds a flock. Readers need none, for the log is write-ahead.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from osvtriage.images import atomic
from osvtriage.model.errors import OsvtriageError, UsageError
from osvtriage.soak.summary import Signature, TrialOutcome

FILE = "soak.sqlite"
RECORDS = "records"
_LOCK = "lock"

_TABLES = """
BEGIN;
CREATE TABLE trial (
    number INTEGER PRIMARY KEY,
    cell TEXT NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    seconds REAL NOT NULL,
    cpu_seconds REAL NOT NULL,
    hits INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    jitter REAL NOT NULL,
    record TEXT,
    bytes INTEGER NOT NULL,
    elapsed REAL NOT NULL
);
CREATE TABLE signature (
    signature TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    count INTEGER NOT NULL,
    first_trial INTEGER NOT NULL,
    newest_trial INTEGER NOT NULL,
    exemplar TEXT
);
CREATE TABLE trial_signature (
    trial INTEGER NOT NULL REFERENCES trial,
    signature TEXT NOT NULL REFERENCES signature,
    PRIMARY KEY (trial, signature)
) WITHOUT ROWID;
CREATE TABLE stopped (because TEXT NOT NULL, elapsed REAL NOT NULL);
PRAGMA user_version = 1;
COMMIT;
"""


class Store:
    """The results of one soak in *directory*."""

    def __init__(self, directory: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self.directory = directory
        self._database = connection
        self._lock = lock

    @classmethod
    def create(cls, directory: Path) -> Store:
        """A new store for writing; *directory* is empty or holds the plan alone."""
        lock = _locked(directory)
        connection = _connect(directory / FILE, writing=True)
        connection.executescript(_TABLES)
        return cls(directory, connection, lock)

    @classmethod
    def resume(cls, directory: Path) -> Store:
        """The store of a soak to go on with; what its killed writer left half-done is removed.

        Raises:
            UsageError: it is none, or somebody is writing to it.
        """
        lock = _locked(directory)
        if not (directory / FILE).is_file():
            # Killed between its plan and its first trial.
            os.close(lock)
            return cls.create(directory)
        store = cls(directory, _connect(directory / FILE, writing=True), lock)
        if not store._has_tables():
            store._database.executescript(_TABLES)
        store._sweep()
        # It runs again; the time that was noted stands.
        store._database.execute("UPDATE stopped SET because = ''")
        return store

    @classmethod
    def read(cls, directory: Path) -> Store:
        """The store for reading, also while a soak writes to it.

        Raises:
            UsageError: there is none.
        """
        if not (directory / FILE).is_file():
            raise UsageError(
                f"{directory} is not the directory of a soak",
                "`osvtriage soaks list` shows those there are",
            )
        return cls(directory, _connect(directory / FILE, writing=False), None)

    def close(self) -> None:
        """Close the database, and let others write."""
        self._database.close()
        if self._lock is not None:
            os.close(self._lock)

    def record(self, number: int) -> Path:
        """Where the run record of the trial *number* goes."""
        return self.directory / RECORDS / f"{number:06d}"

    # Writing.

    def add(
        self, outcome: TrialOutcome, titles: Mapping[str, str], elapsed: float, keep: int
    ) -> list[str]:
        """Commit a finished trial and fold its signatures; those that are new are returned.

        Args:
            titles: a title for each signature of the trial.
            elapsed: seconds since the soak began, without the time in which it did not run.
            keep: the bytes that records may take which are no exemplars; the oldest give way.
        """
        record = self.directory / outcome.record if outcome.record else None
        size = _size(record) if record else 0
        new = []
        with _transaction(self._database) as database:
            database.execute(
                "INSERT INTO trial VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    outcome.number,
                    outcome.cell,
                    outcome.verdict,
                    outcome.reason,
                    outcome.seconds,
                    outcome.cpu_seconds,
                    outcome.hits,
                    outcome.seed,
                    outcome.jitter,
                    outcome.record,
                    size,
                    elapsed,
                ),
            )
            for signature in outcome.signatures:
                known = database.execute(
                    "UPDATE signature SET count = count + 1, first_trial = min(first_trial, ?1), "
                    "newest_trial = max(newest_trial, ?1), exemplar = coalesce(exemplar, ?2) "
                    "WHERE signature = ?3",
                    (outcome.number, outcome.record, signature),
                ).rowcount
                if not known:
                    new.append(signature)
                    database.execute(
                        "INSERT INTO signature VALUES (?, ?, 1, ?, ?, ?)",
                        (
                            signature,
                            titles[signature],
                            outcome.number,
                            outcome.number,
                            outcome.record,
                        ),
                    )
                database.execute(
                    "INSERT INTO trial_signature VALUES (?, ?)", (outcome.number, signature)
                )
            dropped = self._drop(keep)
        for path in dropped:
            # Uncounted first, removed then: what a kill leaves in between is swept.
            shutil.rmtree(self.directory / path, ignore_errors=True)
        return new

    def _drop(self, keep: int) -> list[str]:
        """Take the oldest records that are no exemplars off the books until *keep* bytes remain."""
        kept = self._database.execute(
            "SELECT number, record, bytes FROM trial WHERE record IS NOT NULL "
            "AND record NOT IN (SELECT exemplar FROM signature WHERE exemplar IS NOT NULL) "
            "ORDER BY number DESC"
        )
        total, dropped = 0, []
        for number, record, size in kept.fetchall():
            total += size
            if total > keep:
                dropped.append((number, str(record)))
        for number, _ in dropped:
            self._database.execute("UPDATE trial SET record = NULL WHERE number = ?", (number,))
        return [record for _, record in dropped]

    def stop(self, because: str, elapsed: float) -> None:
        """Note why no more trials are run, and after how many seconds."""
        with _transaction(self._database) as database:
            database.execute("INSERT INTO stopped VALUES (?, ?)", (because, elapsed))

    def _sweep(self) -> None:
        records = self.directory / RECORDS
        atomic.sweep(records)
        if not records.is_dir():
            return
        known = {
            Path(row[0]).name
            for row in self._database.execute("SELECT record FROM trial WHERE record IS NOT NULL")
        }
        for entry in records.iterdir():
            if entry.name not in known and entry.name.isdecimal():
                shutil.rmtree(entry, ignore_errors=True)

    # Reading.

    def _has_tables(self) -> bool:
        return bool(self._database.execute("PRAGMA user_version").fetchone()[0])

    def verdicts(self) -> Iterator[tuple[int, str, str]]:
        """Number, cell and verdict of every finished trial."""
        yield from self._database.execute("SELECT number, cell, verdict FROM trial ORDER BY number")

    def outcomes(self) -> Iterator[TrialOutcome]:
        """Every finished trial, by its number."""
        for row in self._database.execute(
            "SELECT number, cell, verdict, reason, seconds, cpu_seconds, hits, seed, jitter, "
            "record FROM trial ORDER BY number"
        ):
            number, cell, verdict, reason, seconds, cpu, hits, seed, jitter, record = row
            names = self._database.execute(
                "SELECT signature FROM trial_signature WHERE trial = ? ORDER BY signature",
                (number,),
            )
            yield TrialOutcome(
                number=number,
                cell=cell,
                verdict=verdict,
                reason=reason,
                seconds=seconds,
                cpu_seconds=cpu,
                hits=hits,
                signatures=tuple(name for (name,) in names),
                seed=seed,
                jitter=jitter,
                record=record,
            )

    def signatures(self) -> tuple[Signature, ...]:
        """All signatures, the most frequent first."""
        rows = self._database.execute(
            "SELECT signature, title, count, first_trial, newest_trial, exemplar FROM signature "
            "ORDER BY count DESC, first_trial, signature"
        )
        return tuple(Signature(*row) for row in rows)

    def stopped_because(self) -> str:
        """Why the soak ended the last time; empty where it runs, or was killed."""
        row = self._database.execute(
            "SELECT because FROM stopped ORDER BY rowid DESC LIMIT 1"
        ).fetchone()
        return str(row[0]) if row else ""

    def elapsed(self) -> float:
        """Seconds for which the soak has run, as far as that was noted."""
        (seconds,) = self._database.execute(
            "SELECT max(coalesce((SELECT max(elapsed) FROM trial), 0), "
            "coalesce((SELECT max(elapsed) FROM stopped), 0))"
        ).fetchone()
        return float(seconds)

    def timings(self) -> dict[str, float]:
        """The ``timings`` of a summary."""
        trials, seconds, cpu = self._database.execute(
            "SELECT count(*), avg(seconds), avg(cpu_seconds) FROM trial"
        ).fetchone()
        (first,) = self._database.execute(
            "SELECT min(elapsed) FROM trial WHERE verdict = 'reproduced'"
        ).fetchone()
        timings = {"total": self.elapsed()}
        if trials:
            timings |= {"trial_mean": seconds, "cpu_mean": cpu}
        if first is not None:
            timings["first_reproduction"] = first
        if trials and timings["total"]:
            timings["trials_per_hour"] = 3600 * trials / timings["total"]
        return {name: round(value, 4) for name, value in timings.items()}


def _locked(directory: Path) -> int:
    """A descriptor whose lock says that this process writes to the store."""
    with atomic.explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
        # Of its own: what SQLite locks in its files are ranges of bytes, which flock is none of.
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(
            f"another osvtriage is soaking into {directory}",
            "wait for its end, or stop it, or choose another --out",
        ) from None
    return descriptor


def _connect(path: Path, *, writing: bool) -> sqlite3.Connection:
    try:
        uri = f"{path.absolute().as_uri()}?mode={'rwc' if writing else 'ro'}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60)
        if writing:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        raise OsvtriageError(
            f"cannot read the results in {path}: {error}",
            "is that the directory of a soak, on a disk that is not full?",
        ) from error
    return connection


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
    except sqlite3.Error as error:
        raise OsvtriageError(
            f"cannot write down a finished trial: {error}",
            "is the disk full? then free some space and go on with `soak --resume`",
        ) from error


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())
