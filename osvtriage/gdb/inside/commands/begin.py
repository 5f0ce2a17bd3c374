"""``ot begin``: the guest for an editor, once that has made its settings."""

from __future__ import annotations

from collections.abc import Sequence

from osvtriage.gdb.inside.commands.base import Command
from osvtriage.gdb.inside.interactive import begin_when_asked


class Begin(Command):
    """Attach to the guest and arm the probes, for an editor that began this session (--wait).

    Usage: ot begin

    The guest stands still before its workload; `continue` runs to the session's first stop."""

    name = "begin"

    def run(self, words: Sequence[str]) -> None:
        if words:
            raise self.usage()
        begin_when_asked()
