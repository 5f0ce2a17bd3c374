"""``ot list``: doubly linked lists of the guest, walked as if they were damaged."""

from __future__ import annotations

from collections.abc import Sequence

import gdb

from osvtriage.gdb.inside.commands.base import Command
from osvtriage.gdb.inside.guest import read
from osvtriage.gdb.inside.interactive import guest, session
from osvtriage.model.text import printable
from osvtriage.systems import rings

# Links that are shown of a long list: what is in the middle seldom matters.
_SHOWN = 200


class List(Command):
    """A doubly linked list, by its head: Linux's struct list_head, glibc's list_t.

    Usage: ot list HEAD [--offset N] [--both-ways]
           ot list check [HEAD]

    HEAD is an expression for the head's address, such as 0x7f0012345678, `(long)&init_task+0x310`,
    or &init_task.tasks for a kernel with debug information. With --offset the addresses of the
    objects are shown that have the link so far in. `check` walks both
    ways and compares, and says whether the list is whole; without HEAD it takes glibc's lists of
    thread stacks in the process that the recipe looks into. Cycles and unreadable links end a
    walk, and 10,000 links."""

    name = "list"

    def run(self, words: Sequence[str]) -> None:
        guest()
        if words and words[0] == "check":
            self._check(words[1:])
            return
        both = "--both-ways" in words
        words = [word for word in words if word != "--both-ways"]
        offset = 0
        if "--offset" in words:
            at = list(words).index("--offset")
            if at + 1 == len(words):
                raise self.usage()
            offset = int(gdb.parse_and_eval(words[at + 1]))
            words = [*words[:at], *words[at + 2 :]]
        if not words:
            raise self.usage()
        head = _address(" ".join(words))
        self._show("", rings.walk(read, head), offset)
        if both:
            self._show("backwards: ", rings.walk(read, head, back=True), offset)

    def _show(self, what: str, walk: rings.Walk, offset: int) -> None:
        for number, link in enumerate(walk.links[:_SHOWN]):
            gdb.write(f"{number:<4} 0x{link - offset:016x}\n")
        if len(walk.links) > _SHOWN:
            gdb.write(f"… and {len(walk.links) - _SHOWN} more\n")
        gdb.write(f"{what}{len(walk.links)} links; {walk.damage or 'it closes'}\n")

    def _check(self, words: Sequence[str]) -> None:
        if words:
            gdb.write(verdict(rings.check(read, _address(" ".join(words)))))
            return
        made = session()
        if made.process is None or made.plan.process is None or made.plan.process.lists is None:
            raise gdb.GdbError(
                "no process with glibc's lists of thread stacks has been found here; name a head"
            )
        plan = made.process.lists(made.plan.process.lists)
        heads = (("stack_used", plan.used), ("stack_cache", plan.cache), ("stack_user", plan.user))
        for name, head in heads:
            if head is not None:
                gdb.write(f"{name} at 0x{head:x}: {verdict(rings.check(read, head))}")

    def offered(self, before: Sequence[str]) -> Sequence[str]:
        return ("check", "--offset", "--both-ways") if not before else ("--offset", "--both-ways")


def verdict(ring: rings.Ring) -> str:
    """Whether a list is whole, and where not."""
    if ring.is_whole:
        return f"whole, {len(ring.forward.links)} links\n"
    lines = ["damaged"]
    for what, walk in (("forwards", ring.forward), ("backwards", ring.backward)):
        lines.append(f"  {what}: {len(walk.links)} links; {walk.damage or 'it closes'}")
    for before, link, previous in ring.broken[:_SHOWN]:
        seen = "unreadable" if previous is None else f"0x{previous:x}"
        lines.append(f"  0x{link:x} comes behind 0x{before:x}, and points back to {seen}")
    return printable("\n".join(lines) + "\n")


def _address(expression: str) -> int:
    """The value of an expression, or where it is, for a variable that is no number.

    Raises:
        gdb.error: gdb cannot make anything of it.
    """
    value = gdb.parse_and_eval(expression)
    # A symbol without a type stands for what is there: its place is meant.
    if value.type.code not in (gdb.TYPE_CODE_INT, gdb.TYPE_CODE_PTR):
        value = value.address
    return int(value.cast(gdb.lookup_type("unsigned long")))
