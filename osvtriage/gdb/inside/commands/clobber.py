"""``ot find-clobber``: the instruction that changes a register, found by stepping."""

from __future__ import annotations

from collections.abc import Sequence

import gdb

from osvtriage.gdb.inside.commands.base import Command
from osvtriage.gdb.inside.commands.frames import backtrace, listed
from osvtriage.gdb.inside.guest import Guest
from osvtriage.gdb.inside.interactive import guest, session, silence

# gdb steps some 100 instructions a second here, for at a terminal it looks up each one's source
# line; a first malloc on OSv takes 250 of them until it changes xmm0 (measured).
_MOST_STEPS = 20_000
_TOLD_EVERY = 500


class FindClobber(Command):
    """Step the guest until a register has another value, and show the instruction that did it.

    Usage: ot find-clobber REGISTER [STEPS]

    Stop before the span in question first, as with `--stop-at PROBE:entry`. Only the thread that is
    stepped counts: what others do while it is away is not taken for it. QEMU masks interrupts while
    it steps, so what only a preemption does is not seen. Ctrl-C ends it, and so do 20,000 steps."""

    name = "find-clobber"

    def run(self, words: Sequence[str]) -> None:
        if not 1 <= len(words) <= 2:
            raise self.usage()
        register, most = words[0], int(words[1]) if words[1:] else _MOST_STEPS
        here = guest()
        if session().session_plan.replay is not None:
            raise gdb.GdbError(
                "QEMU's replay can come to a standstill where it is stepped; "
                "`osvtriage run --pinpoint REGISTER` looks in a run"
            )
        if register not in here.arch.words:
            raise gdb.GdbError(f"{here.arch.name} has no register {register}")
        thread, before = here.identity(here.current())[0], here.register(register)
        for step in range(1, most + 1):
            pc = here.integer(here.arch.pc)
            with silence():
                gdb.execute("stepi", to_string=True)
            here = guest()
            if step % _TOLD_EVERY == 0:
                gdb.write(f"{step} instructions…\n")
                gdb.flush()
            if here.identity(here.current())[0] != thread:
                continue
            after = here.register(register)
            if after != before:
                gdb.write(f"{register} was {before}\n{'':<{len(register)}} is  {after}\n")
                gdb.write(f"changed by instruction {step}:\n")
                gdb.execute(f"x/i {pc:#x}")
                _show_calls(here)
                return
        gdb.write(f"{register} is still {before} after {most} instructions.\n")

    def offered(self, before: Sequence[str]) -> Sequence[str]:
        return () if before else tuple(session().arch.words)


def _show_calls(here: Guest) -> None:
    try:
        gdb.write(listed(backtrace(here)))
    except gdb.GdbError as unknown:
        gdb.write(f"{unknown}\n")
