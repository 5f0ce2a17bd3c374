"""What one trial is asked to do, and what its progress is told to."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

from osvtriage.consoles.payload import PayloadLine
from osvtriage.images.record import Image
from osvtriage.model.session import StopAt
from osvtriage.recipe.recipe import Recipe, Variant
from osvtriage.trial.judge import ProbeCount

Engine = Literal["auto", "gdb", "plugin"]


@dataclass(frozen=True, slots=True)
class OwnProgram:
    """A program of the user's in place of the recipe's payload.

    ``libraries`` is the directory with what it is linked with, ``debug`` one of debug files by
    build-id. Where the guest has the program itself, ``comm`` is its name there, and the files
    here are those that are on its disk.
    """

    path: Path
    libraries: Path | None = None
    debug: Path | None = None
    arguments: tuple[str, ...] = ()
    comm: str | None = None


@dataclass(frozen=True, slots=True)
class Steering:
    """What of an interleaving is done: all boundaries, or the one called ``boundary``, or the first
    ``limit``. ``resume``: those that an interrupted run has done are not done again."""

    boundary: str | None = None
    limit: int | None = None
    resume: bool = False


WHOLE = Steering()


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded execution: the ``directory`` of its run record, QEMU's ``log`` in it, and the
    version of the ``qemu`` that wrote it."""

    directory: Path
    log: Path
    qemu: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """How a trial is run, whatever it is of.

    ``engine`` watches the probes; ``auto`` is the plugin where it sees all that gdb would.
    ``timeout`` is the number of seconds the guest may run in all, ``duration`` how long one is
    watched that does not end by itself; ``None`` leaves both to the recipe. ``pinpoint`` is the
    register whose clobber is looked for by stepping. ``program`` takes the payload's place.
    ``stacks``: the high-water marks of all tasks' stacks are taken.
    ``jitter`` is the number of seconds by which a guest that starts from a snapshot waits before
    its workload. With ``record`` its execution is recorded, to be replayed; ``replay`` is one to
    replay.
    Where the guest is the user's from some stop on, his gdb reads his own ``gdbinit``, and beside
    it is a ``pane`` of tmux with the guest's console. With ``mi`` an editor has it; with
    ``when_asked`` gdb attaches no sooner than that asks for it.
    """

    smp: int = 1
    timeout: float | None = None
    accelerator: Literal["auto", "tcg", "kvm"] = "auto"
    engine: Engine = "auto"
    qemu: Path | None = None
    seed: int = 1
    duration: float | None = None
    pinpoint: str | None = None
    steering: Steering = WHOLE
    program: OwnProgram | None = None
    stacks: bool = False
    jitter: float = 0.0
    record: bool = False
    replay: Recording | None = None
    gdbinit: bool = True
    pane: bool = True
    mi: bool = False
    when_asked: bool = False

    def conditions(self) -> dict[str, Any]:
        """These, by their names, whatever else a class that has them adds."""
        return {one.name: getattr(self, one.name) for one in fields(Conditions)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Conditions):
    """One run of one variant on one image. ``recipe_directory`` is where the recipe's file is.

    With ``stop_at`` the guest is the user's from that stop on.
    """

    recipe: Recipe
    recipe_directory: Path
    variant: Variant
    image: Image
    stop_at: StopAt | None = None


class Observer(Protocol):
    """Told what a trial does while it does it. The defaults ignore it all."""

    def phase(self, name: str, detail: str = "") -> None:
        """A phase began: image, boot, arm, workload, check."""

    def probe(self, count: ProbeCount) -> None:
        """A probe was hit."""

    def payload(self, line: PayloadLine) -> None:
        """The workload printed a line."""


class Silent:
    """An observer for those who only want the result."""

    def phase(self, name: str, detail: str = "") -> None:
        """Ignore it."""

    def probe(self, count: ProbeCount) -> None:
        """Ignore it."""

    def payload(self, line: PayloadLine) -> None:
        """Ignore it."""
