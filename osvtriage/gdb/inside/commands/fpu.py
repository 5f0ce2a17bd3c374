"""``ot fpu``: the floating-point and vector state, now and beside what was saved before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gdb

from osvtriage.gdb.inside.commands.base import Command
from osvtriage.gdb.inside.interactive import guest

_saved: dict[str, Mapping[str, str | None]] = {}


class Fpu(Command):
    """All floating-point and vector registers of the selected vCPU.

    Usage: ot fpu                shows them
           ot fpu save NAME      remembers them
           ot fpu diff NAME      shows those that differ from what was saved, their bytes marked

    On x86-64 they are QEMU's own (`info registers`), compared with what its gdb stub says: where
    the two differ, "unreadable" is shown."""

    name = "fpu"

    def run(self, words: Sequence[str]) -> None:
        here = guest()
        names = here.arch.groups["fpu"]
        now = {
            name: value
            for name, value in here.registers(names).items()
            if value is not None or not here.arch.words[name].optional
        }
        match words:
            case []:
                gdb.write("".join(f"{name:<7} {_digits(value)}\n" for name, value in now.items()))
            case ["save", name]:
                _saved[name] = now
                gdb.write(f"{len(now)} registers are kept as {name}.\n")
            case ["diff", name]:
                if name not in _saved:
                    known = ", ".join(_saved) or "none"
                    raise gdb.GdbError(f"nothing was saved as {name}; there are: {known}")
                gdb.write(difference(_saved[name], now))
            case _:
                raise self.usage()

    def offered(self, before: Sequence[str]) -> Sequence[str]:
        if not before:
            return ("save", "diff")
        return tuple(_saved) if before == ["diff"] else ()


def difference(then: Mapping[str, str | None], now: Mapping[str, str | None]) -> str:
    """The registers that differ, one value above the other, a mark under each differing byte."""
    text = ""
    for name, before in then.items():
        after = now.get(name)
        if after == before:
            continue
        old, new = _digits(before), _digits(after)
        marks = ""
        if before is not None and after is not None and len(old) == len(new):
            differs = [a != b for a, b in zip(old, new, strict=True)]
            # Both digits of a byte: groups have an even number of them, and a blank between.
            at = 0
            while at < len(old):
                width = 1 if old[at] == " " else 2
                marks += ("^" if any(differs[at : at + width]) else " ") * width
                at += width
        text += f"{name:<7} was {old}\n{'':<7} is  {new}\n"
        text += f"{'':<11} {marks.rstrip()}\n" if marks.strip() else ""
    return text or "No register differs.\n"


def _digits(value: str | None) -> str:
    """Digits in groups of sixteen."""
    if value is None:
        return "unreadable"
    return " ".join(value[at : at + 16] for at in range(0, len(value), 16))
