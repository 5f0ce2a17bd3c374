"""One exception tree; the exit status is data on the class.

The statuses serve ``git bisect run``: 125 skips a commit, 128 and above stop the bisection, so no
failure of the tool can read as *good* (0) or *bad* (1..124).
"""

from __future__ import annotations

from typing import ClassVar


class OsvtriageError(Exception):
    """The tool or its surroundings failed. The message says what was being done and what was seen.

    ``hint`` is the next step for the user, printed on a line of its own.
    """

    exit_code: ClassVar[int] = 128

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(OsvtriageError):
    """The command line asks for something that does not exist or does not fit."""

    exit_code = 129


class Interrupted(OsvtriageError):
    """Ctrl-C, SIGTERM or SIGHUP."""

    exit_code = 130


class DataFileError(UsageError):
    """A recipe or an image manifest is not valid."""


class MissingRequirement(OsvtriageError):
    """A program or a package that is needed is not on this machine."""


class ImageError(OsvtriageError):
    """An image cannot be made, found or trusted."""


class SymbolError(OsvtriageError):
    """A symbol, an instruction shape or an offset was not found in a binary."""


class DumpError(OsvtriageError):
    """A dump of a guest's memory is damaged, or of a form that is not known: it tells nothing."""

    exit_code = 125


class GuestError(OsvtriageError):
    """QEMU failed: it did not start, died, or did not answer."""


class GdbError(OsvtriageError):
    """gdb failed: it did not start, died, or answered a command with an error."""


class LimitExceeded(OsvtriageError):
    """A wait reached its limit. The message says what was waited for, and the last lines seen."""
