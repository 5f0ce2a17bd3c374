"""A session in a recorded execution: the guest is where QEMU has replayed it to.

No probe is armed: the events, and what the checks said of them, are known from the recording. With
gdb's breakpoints QEMU's replays come to a standstill (7.2, measured), so what lies ahead is stopped
at by QEMU itself, by instruction counts.
"""

from __future__ import annotations

from typing import Any

import gdb

from osvtriage.gdb.inside.guest import instructions
from osvtriage.gdb.inside.interactive import Session, Stop
from osvtriage.gdb.inside.link import Link
from osvtriage.model.session import ReplayStop, SessionPlan

# gdb offers them where a target says that it can; QEMU says so, and then does not return (7.2).
_BACKWARDS = (
    *("reverse-continue", "reverse-step", "reverse-stepi"),
    *("reverse-next", "reverse-nexti", "reverse-finish"),
)
_SETUP = (
    "set remote reverse-step-packet off",
    "set remote reverse-continue-packet off",
    # Disabled breakpoints are then never put into QEMU.
    "set breakpoint always-inserted off",
)


class _Backwards(gdb.Command):  # type: ignore[misc]
    """Not in a replay: QEMU replays forward only.

    `quit`, and start again with an earlier --stop-at."""

    def __init__(self, name: str) -> None:
        super().__init__(name, gdb.COMMAND_RUNNING)
        self._name = name

    def invoke(self, arguments: str, from_tty: bool) -> None:
        """Say that it cannot be done."""
        raise gdb.GdbError(
            f"{self._name} does not work here: QEMU replays forward only. `quit`, and start again "
            "with an earlier --stop-at"
        )


def prepare() -> None:
    """Set gdb up for a replay, before it is attached."""
    for line in _SETUP:
        gdb.execute(line, to_string=True)
    for name in _BACKWARDS:
        _Backwards(name)


class ReplaySession(Session):
    """The session of a replay that stands at the first of the recording's stops."""

    def __init__(self, plan: SessionPlan, link: Link, mi: bool) -> None:
        super().__init__(plan, link, mi)
        assert plan.replay is not None
        self._stops = {stop.instructions: stop for stop in plan.replay}

    def arm(self) -> None:
        """Take up the stop that the guest stands at, and have QEMU stop at those ahead."""
        self._look(None)
        gdb.events.stop.connect(self._look)

    def _look(self, stopped: Any) -> None:
        count = instructions()
        if count is None:
            return
        if (stop := self._stops.get(count)) is not None:
            self._take(stop)
        self.link.ask("ahead", instructions=count)

    def _take(self, stop: ReplayStop) -> None:
        self.events = stop.events
        for name, hits in stop.hits.items():
            self.probes[name].hits = hits
        new = [dict(finding) for finding in stop.findings]
        self.findings = [*(dict(finding) for finding in stop.earlier), *new]
        self.last = stop.event
        if (event := stop.event) is not None:
            pid = "" if event.thread.pid is None else f" ({event.thread.pid})"
            who = f"{event.comm or 'a thread'}{pid}"
            reason = f"probe {event.probe}, {event.side}, of {who}, as recorded, "
            reason += f"at instruction {stop.instructions}"
            self.stopped = Stop(event, reason, new)
