"""Runs inside gdb: steps a guest through a page fault, and has gdb unwind it by itself.

The environment's OSVTRIAGE_UNWINDING names a file with what to do; the answer goes into another.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

import gdb

task = json.loads(Path(os.environ["OSVTRIAGE_UNWINDING"]).read_text())
sys.path.insert(0, task["package"])

from osvtriage.arch import X86_64  # noqa: E402
from osvtriage.gdb.inside.guest import Guest  # noqa: E402
from osvtriage.gdb.inside.orc import OrcGuest  # noqa: E402
from osvtriage.model.plan import GdbPlan  # noqa: E402

plan = GdbPlan.from_json(Path(task["plan"]).read_text())
SYMBOLS = task["symbols"]
STEPS = 400


def guest() -> Guest:
    return Guest(plan, X86_64)


def run_to(symbol: str, cs_at: int, user: bool) -> None:
    """To *symbol* in a thread of the payload, entered from user mode or not."""
    stop = gdb.Breakpoint(f"*{SYMBOLS[symbol]:#x}", internal=True)
    stop.silent = True
    while True:
        gdb.execute("continue", to_string=True)
        here = guest()
        base = here.integer("rdi") if symbol == "exc_page_fault" else here.integer("rsp")
        is_payload = here.identity(here.current())[1] == "payload"
        if is_payload and (here.word(base + cs_at) & 3 == 3) == user:
            break
    stop.delete()


def backtrace() -> tuple[str | None, list[tuple[str, str, str]]]:
    """What is unsure, and the frames. Left out is what not every place knows:
    an error code, and which registers."""
    orc = OrcGuest(guest(), plan.orc)
    walk = orc.walk()
    notes = re.compile(r" \(.*?\)| at [0-9a-f]{16}|;.*")
    frames = [(one.kind, one.address, notes.sub("", one.note or "")) for one in orc.frames(walk)]
    return walk.doubt, frames


def steps(user: bool) -> dict[str, object]:
    """The backtraces at each of the instructions behind a fault that takes as many at least.

    One that is dealt with sooner is back at the instruction that faulted: then the next is taken.
    """
    while True:
        # The error code, then RIP and CS are what the processor pushed.
        run_to("asm_exc_page_fault", 16, user)
        faulted = guest().word(guest().integer("rsp") + 8)
        _, before = backtrace()
        seen: list[tuple[int, str | None, list[tuple[str, str, str]]]] = []
        while len(seen) < STEPS and (pc := guest().integer("pc")) != faulted:
            seen.append((pc, *backtrace()))
            gdb.execute("stepi", to_string=True)
        if len(seen) == STEPS:
            return {"before": before[1:], "seen": seen}


def said(command: str) -> str:
    return gdb.execute(command, to_string=True)


def own() -> dict[str, object]:
    """gdb's own commands, where the handler of a fault in the kernel is entered."""
    run_to("exc_page_fault", 136, user=False)
    _, frames = backtrace()
    plain = said("bt 12")
    gdb.execute(f"source {task['commands']}")
    here = guest()
    found = {"plain": plain, "bt": said("bt"), "frames": frames}
    names = ("rdi", "r12", "rip", "rsp")
    said("frame 2")
    found["registers"] = {
        name: int(gdb.parse_and_eval(f"${name}")) & (1 << 64) - 1 for name in names
    }
    said("frame 0")
    at = here.integer("rdi")
    found["saved"] = {"rdi": here.word(at + 112), "r12": here.word(at + 24)}
    said("frame 4")
    found["behind"] = str(gdb.parse_and_eval("$r12"))
    said("frame 0")
    said("finish")
    found["after handler"] = said("bt 2")
    said("finish")
    found["after fault"] = int(gdb.parse_and_eval("$pc")) & (1 << 64) - 1
    return found


deadline = time.monotonic() + 20
while not os.path.exists(task["stub"]) and time.monotonic() < deadline:
    time.sleep(0.05)
gdb.execute("set pagination off")
gdb.execute("set confirm off")
gdb.execute(f"target remote {task['stub']}")
gdb.execute(f"thbreak *{SYMBOLS['__x64_sys_getppid']:#x}")
gdb.execute("continue")
answer = {"kernel": steps(user=False), "user": steps(user=True), "own": own()}
Path(task["answer"]).write_text(json.dumps(answer))
gdb.execute("kill")
