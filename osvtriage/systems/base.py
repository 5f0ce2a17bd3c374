"""What a trial must know of a guest's operating system before it looks into one, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class System:
    """An operating system.

    ``arm_at`` is the function at whose entry a guest is stopped to have its probes armed: the
    kernel is in memory then and nothing of interest has happened yet. ``None``: its userland is
    osvtriage's own, which says when it is ready and waits for a word; a thread that waits passes
    ``sleeps_in``, in kernel mode. A guest with a userland of its own is stopped at ``init_at``,
    where its kernel is about to start that. ``stacks`` are those whose use can be measured,
    ``gives_up_in`` the functions that a kernel calls when it dies. ``pokes_text`` are the
    processors on which the running kernel rewrites code that other CPUs run, with a breakpoint in
    it meanwhile: where QEMU gives each vCPU a thread, one comes upon a breakpoint that is gone
    already (docs/benchmarks.md), so there they take turns in one.
    """

    name: str
    title: str
    arm_at: str | None = None
    sleeps_in: str | None = None
    init_at: str | None = None
    stacks: tuple[str, ...] = ()
    gives_up_in: tuple[str, ...] = ()
    pokes_text: tuple[str, ...] = ()
