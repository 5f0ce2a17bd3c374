"""``ot snapshot``: the whole guest, put aside and taken up again."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import gdb

from osvtriage.gdb.inside.commands.base import Command
from osvtriage.gdb.inside.interactive import guest, session
from osvtriage.gdb.inside.probes import Probe

# What QEMU takes for a tag, and its monitor for one word.
_NAME = re.compile(r"[A-Za-z][\w.-]*")
# Of a probe: what changes as the guest runs.
_STATE = ("hits", "inside", "left", "left_of", "was_disarmed")

_kept: dict[str, dict[str, dict[str, Any]]] = {}


class Snapshot(Command):
    """The whole guest as it stands now: memory, registers, devices.

    Usage: ot snapshot save NAME
           ot snapshot load NAME
           ot snapshot list

    The probes' counts go back with the guest; findings and events that were seen stay. Snapshots
    end with the session."""

    name = "snapshot"

    def run(self, words: Sequence[str]) -> None:
        guest()
        if session().session_plan.replay is not None:
            raise gdb.GdbError("QEMU takes no snapshots of a replay; --replay starts it again")
        match words:
            case ["list"]:
                gdb.write("".join(f"{name}\n" for name in _kept) or "There is none.\n")
            case ["save", name] if _NAME.fullmatch(name):
                _monitor(f"savevm {name}")
                _kept[name] = {one.plan.name: _state(one) for one in session().probes.values()}
                gdb.write(f"The guest is kept as {name}.\n")
            case ["load", name] if name in _kept:
                _monitor(f"loadvm {name}")
                # gdb does not know that all has changed.
                gdb.execute("maintenance flush register-cache", to_string=True)
                gdb.execute("maintenance flush dcache", to_string=True)
                for probe in session().probes.values():
                    for member, value in copy.deepcopy(_kept[name][probe.plan.name]).items():
                        setattr(probe, member, value)
                    probe.settle()
                    for stop in probe.exits.values():
                        stop.enabled = bool(probe.inside) or probe.plan.in_child
                session().stopped = None
                gdb.execute("frame")
            case ["load", name]:
                raise gdb.GdbError(f"there is no snapshot {name}; `ot snapshot list` shows all")
            case _:
                raise self.usage()

    def offered(self, before: Sequence[str]) -> Sequence[str]:
        if not before:
            return ("save", "load", "list")
        return tuple(_kept) if before == ["load"] else ()


def _state(probe: Probe) -> dict[str, Any]:
    return {member: copy.copy(getattr(probe, member)) for member in _STATE}


def _monitor(line: str) -> None:
    """Have QEMU do it; it says something only where it fails.

    Raises:
        gdb.GdbError: it failed.
    """
    said = gdb.execute(f"monitor {line}", to_string=True).strip()
    if said:
        raise gdb.GdbError(f"QEMU: {said}")
