"""What an interleaving has done so far, kept until it is whole: an interrupted one can go on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from osvtriage.model.boundary import Boundary
from osvtriage.model.decode import decode


class Journal:
    """One line of JSON a boundary, on disk before the next is begun.

    Boundaries are told by their names and their counts: addresses are another run's. The last line
    of a run that was killed may be half a line, and is none.

    Args:
        path: told by everything that the outcome hangs on.
        resume: take what is there; else it is begun anew.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.done: dict[tuple[str, int], Boundary] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume and path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    found = replace(decode(Boundary, json.loads(line)), resumed=True)
                    self.done[found.name, found.nth] = found
        self._file = path.open("w", encoding="utf-8")
        for boundary in self.done.values():
            self.add(boundary)

    def add(self, boundary: Boundary) -> None:
        """Keep *boundary*."""
        self._file.write(json.dumps(asdict(boundary)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def remove(self) -> None:
        """Forget it all: the interleaving is whole."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
