"""How the guest of a trial starts: from its boot, or from a snapshot of one that is kept."""

from __future__ import annotations

from typing import Literal, Protocol

from osvtriage.trial import interruptible
from osvtriage.trial.backtraces import Backtraces
from osvtriage.trial.connected import Given
from osvtriage.trial.interleaving import Interleaving
from osvtriage.trial.overflow import Overflow
from osvtriage.trial.recording import Recorded, require_recordable
from osvtriage.trial.replay_session import ReplaySession
from osvtriage.trial.session import Session
from osvtriage.trial.trial import Trial


class Start(Protocol):
    """Makes and runs trials. ``name`` is how the run record calls this way."""

    @property
    def name(self) -> Literal["boot", "snapshot"]:
        """How the run record calls it."""

    def trial_of(self, given: Given) -> Trial:
        """The trial that the request asks for."""

    def run(self, trial: Trial) -> None:
        """Run *trial* to its end."""


class Boot:
    """Every trial boots a guest of its own."""

    name: Literal["boot"] = "boot"

    def trial_of(self, given: Given) -> Trial:
        """The trial that the request asks for."""
        request = given.request
        kind: type[Trial] = Interleaving if request.variant.interleave else Trial
        kind = Overflow if request.recipe.sweep else kind
        kind = Backtraces if request.recipe.context else kind
        kind = Session if request.stop_at else kind
        if request.record:
            require_recordable(request, given.prepared)
            kind = Recorded
        kind = ReplaySession if request.replay else kind
        return kind(given)

    def run(self, trial: Trial) -> None:
        """Run *trial* to its end; a signal cancels it."""
        interruptible.run(trial.run())
