"""``ot status``, ``ot probes``, ``ot finding``: where the session stands and what was seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gdb

from osvtriage.gdb.inside.commands.base import Command, table
from osvtriage.gdb.inside.interactive import guest, session
from osvtriage.model.text import printable


class Status(Command):
    """The guest, each vCPU, why it stands still, and what was seen so far.

    Usage: ot status"""

    name = "status"

    def run(self, words: Sequence[str]) -> None:
        made = session()
        state = made.link.ask("status")
        lines = [f"guest     {made.session_plan.title}"]
        if state["ending"] is not None:
            lines.append(f"ended     {state['ending']}")
        lines.append(f"stops at  {made.stop_at.name}")
        if made.stopped is not None:
            lines.append(f"stopped   {printable(made.stopped.reason)}")
        if state["ending"] is None:
            lines += self._vcpus()
        lines.append(f"seen      {made.events} events, {len(made.findings)} findings")
        lines.append(f"console   osvtriage console {state['directory']}")
        gdb.write("\n".join(lines) + "\n")

    def _vcpus(self) -> Iterator[str]:
        """A line for each vCPU; gdb's own choice of one is left as it was."""
        guest()
        chosen = gdb.selected_thread()
        try:
            for thread in sorted(gdb.selected_inferior().threads(), key=lambda item: item.num):
                thread.switch()
                here = guest()
                (where,) = session().name([here.integer(here.arch.pc)])
                current = here.current()
                key, comm = here.identity(current)
                who = printable(comm or "unknown thread")
                number = "" if key.pid is None else f" ({key.pid})"
                mark = "*" if thread.num == chosen.num else " "
                yield f"vCPU {here.cpu} {mark}  {where}, in {who}{number}"
        finally:
            chosen.switch()


class Probes(Command):
    """The recipe's probes: where they are, how often they were hit, and whether they are armed.

    A count is "≥ N" once the probe was disarmed, for passages can have been missed.

    Usage: ot probes"""

    name = "probes"

    def run(self, words: Sequence[str]) -> None:
        made = session()
        rows = []
        for probe in made.probes.values():
            entries = [stop.address for stop in probe.entries]
            places = made.name(entries[:2]) + ["…"] * (len(entries) > 2)
            armed = any(stop.enabled for stop in (*probe.entries, *probe.exits.values()))
            hits = f"≥ {probe.hits}" if probe.was_disarmed else str(probe.hits)
            inside = str(len(probe.inside))
            rows.append(
                (probe.plan.name, hits, "yes" if armed else "no", inside, ", ".join(places))
            )
        gdb.write(table(rows, ("PROBE", "HITS", "ARMED", "INSIDE", "AT")))


class Finding(Command):
    """The evidence of the finding at this stop, or of the newest one.

    Usage: ot finding [NUMBER]
    NUMBER counts from 1, the first finding of the session."""

    name = "finding"

    def run(self, words: Sequence[str]) -> None:
        made = session()
        if not made.findings:
            gdb.write("No finding so far.\n")
            return
        if words:
            number = int(words[0])
            if not 1 <= number <= len(made.findings):
                raise gdb.GdbError(f"there are findings 1 to {len(made.findings)}")
            chosen = [made.findings[number - 1]]
        else:
            chosen = (made.stopped.findings if made.stopped else []) or made.findings[-1:]
        for finding in chosen:
            gdb.write(shown(finding))

    def offered(self, before: Sequence[str]) -> list[str]:
        return [str(number + 1) for number in range(len(session().findings))]


def shown(finding: Mapping[str, Any]) -> str:
    """A finding, with what had to be there above what was there."""
    task = finding["task"]
    lines = [
        finding["title"],
        f"  task      {task['comm'] or '?'} ({task['pid']}), on CPU {finding['cpu']}",
    ]
    for name in finding["expected"]:
        lines.append(f"  {name:<8}  expected {finding['expected'][name]}")
        lines.append(f"  {'':<8}  seen     {finding['seen'].get(name)}")
    lines += [f"  {name:<8}  {value}" for name, value in finding["evidence"].items() if value]
    lines += [f"  #{number} {frame}" for number, frame in enumerate(finding["backtrace"])]
    return printable("\n".join(lines) + "\n")
