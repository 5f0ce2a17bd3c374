"""A place in the kernel where a backtrace is compared with an oracle's, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from osvtriage.model.event import Frame


@dataclass(frozen=True, slots=True)
class ContextPlan:
    """How the guest comes to the place; addresses are those of the kernel's file.

    A thread called ``comm`` comes to ``function``; first, where that is given, to the handler
    ``entered``, whose first argument is the pt_regs, ``from_user`` or not. With a ``module`` the
    function is ``module_function`` in it, and the place is where it first calls the kernel.
    ``dump``: the kernel is made to print its own backtrace there. Without, nothing of the kernel's
    is the oracle, and the guest is left at the very instruction.
    """

    name: str
    comm: str
    function: int | None
    entered: int | None = None
    from_user: bool = False
    module: str | None = None
    module_function: str | None = None
    dump: bool = True


@dataclass(frozen=True, slots=True)
class ContextsPlan:
    """All places of a recipe, and the kernel's functions that print a backtrace and what is still
    to be printed."""

    places: tuple[ContextPlan, ...]
    dump_stack: int
    console_trylock: int
    console_unlock: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Our backtrace at a place, innermost first, and the oracle's.

    ``theirs`` has ``function+0xoffset``, or an address in user mode; ``oracle`` says whose it is.
    ``stacks`` are the stacks that the oracle says it went over. ``expected`` are registers that
    must be found in the outermost frame, by their names.
    """

    context: str
    address: str
    cpu: int
    pid: int | None
    comm: str | None
    ours: tuple[Frame, ...]
    oracle: str
    theirs: tuple[str, ...]
    stacks: tuple[str, ...] = ()
    expected: Mapping[str, str] = field(default_factory=dict)
