"""Every ``ot`` command, made known to gdb."""

from __future__ import annotations

from osvtriage.gdb.inside.commands import (
    begin,
    clobber,
    export,
    fpu,
    frames,
    lists,
    osv,
    snapshots,
    stack,
    status,
    threads,
)
from osvtriage.gdb.inside.commands.base import Prefix

_COMMANDS = (
    begin.Begin,
    status.Status,
    status.Probes,
    status.Finding,
    fpu.Fpu,
    frames.Backtrace,
    frames.Registers,
    threads.Threads,
    threads.Tasks,
    stack.Stack,
    lists.List,
    osv.Memory,
    osv.Waiters,
    osv.RunQueue,
    osv.Callouts,
    clobber.FindClobber,
    snapshots.Snapshot,
    export.Export,
)


def define() -> None:
    """Define them."""
    Prefix()
    for command in _COMMANDS:
        command()
