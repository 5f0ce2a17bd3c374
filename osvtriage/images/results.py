"""What is made of packages, in the cache: one directory for each version, the newest marked.

``current`` points at the newest::

    DIRECTORY/current -> VERSION-SUM
    DIRECTORY/VERSION-SUM/
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from osvtriage.images.atomic import PREFIX, discard, explained, replace_symlink

_CURRENT = "current"


@dataclass(frozen=True, slots=True)
class Results:
    """The results of one thing that is made, in *directory*, which need not exist yet."""

    directory: Path

    @property
    def current(self) -> Path | None:
        """The newest result; None where there was never one."""
        link = self.directory / _CURRENT
        try:
            return self.directory / link.readlink()
        except OSError:
            return None

    def place(self, version: str, made_of: Mapping[str, str]) -> Path:
        """Where the result of the packages *made_of* (name to sum) goes."""
        key = hashlib.sha256(repr(sorted(made_of.items())).encode()).hexdigest()[:12]
        # A version's colon (an epoch) would be a nuisance in a path.
        return self.directory / f"{version.replace(':', '_')}-{key}"

    def publish(self, result: Path) -> None:
        """Make *result* the current one, and remove older ones.

        That which was current until now stays: a run that has just looked it up may not have
        started its guest yet.
        """
        keep = {result, self.current}
        with explained(self.directory):
            replace_symlink(self.directory / _CURRENT, result.name)
            for path in self.directory.iterdir():
                other = not path.is_symlink() and not path.name.startswith(PREFIX)
                if other and path not in keep:
                    discard(path)
