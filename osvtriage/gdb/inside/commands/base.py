"""What every ``ot`` command has: its words, its help, and failures that are one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import gdb

from osvtriage.gdb.inside.link import Refused


class Prefix(gdb.Command):  # type: ignore[misc]
    """What the guest holds and gdb does not show: threads, FPU state, lists, stacks, findings.

    `help ot NAME` has the details of each."""

    def __init__(self) -> None:
        super().__init__("ot", gdb.COMMAND_STATUS, prefix=True)


class Command(gdb.Command):  # type: ignore[misc]
    """One command. Its docstring is what `help` shows; ``words`` are offered for completion."""

    name = ""

    def __init__(self) -> None:
        super().__init__(f"ot {self.name}", gdb.COMMAND_STATUS)

    def invoke(self, arguments: str, from_tty: bool) -> None:
        """Run it. An error is a sentence, and no Python trace."""
        self.dont_repeat()
        try:
            self.run(gdb.string_to_argv(arguments))
        except (Refused, OSError, ValueError, RuntimeError) as error:
            # gdb.error is a RuntimeError.
            raise gdb.GdbError(f"ot {self.name}: {error}") from None

    def run(self, words: Sequence[str]) -> None:
        """What the command does with its *words*."""
        raise NotImplementedError

    def offered(self, before: Sequence[str]) -> Iterable[str]:
        """The words that can follow the words *before*."""
        return ()

    def complete(self, text: str, word: str) -> list[str]:
        """The words that begin as the last one does."""
        before = text.split()
        if word and before:
            before.pop()
        return sorted(item for item in self.offered(before) if item.startswith(word or ""))

    def usage(self) -> gdb.GdbError:
        """The error of who gave the wrong words."""
        return gdb.GdbError(f"see `help ot {self.name}`")


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Rows under a header, each column as wide as its widest cell."""
    widths = [max(len(row[at]) for row in (header, *rows)) for at in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines) + "\n"
