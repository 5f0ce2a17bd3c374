"""The four verdicts and their exit statuses."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What one run says of the bug that its recipe describes."""

    REPRODUCED = "reproduced"
    CLEAN = "clean"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"

    @property
    def exit_code(self) -> int:
        """The status of ``osvtriage run``; see :mod:`osvtriage.model.errors` for why."""
        return _EXIT_CODES[self]

    def exit_code_expecting(self, expected: Verdict) -> int:
        """0 for the expected verdict, 1 for the opposite conclusive one, else as it is."""
        if self is expected:
            return 0
        return 1 if self in (Verdict.REPRODUCED, Verdict.CLEAN) else self.exit_code


_EXIT_CODES = {
    Verdict.CLEAN: 0,
    Verdict.REPRODUCED: 1,
    Verdict.INCONCLUSIVE: 125,
    Verdict.ERROR: 128,
}
