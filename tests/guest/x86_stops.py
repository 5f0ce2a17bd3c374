"""Runs inside gdb: stops a guest at one address after the other, and says what is seen there.

The environment's OSVTRIAGE_STOPS names a file with what to do; the answer goes into another.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import gdb

task = json.loads(Path(os.environ["OSVTRIAGE_STOPS"]).read_text())
sys.path.insert(0, task["package"])

from osvtriage.arch import X86_64  # noqa: E402
from osvtriage.gdb.inside.guest import Guest, read  # noqa: E402
from osvtriage.model.plan import GdbPlan  # noqa: E402

plan = GdbPlan.from_json(json.dumps(task["plan"]))
deadline = time.monotonic() + 20
while not os.path.exists(task["stub"]) and time.monotonic() < deadline:
    time.sleep(0.05)
gdb.execute("set pagination off")
gdb.execute(f"target remote {task['stub']}")
stops = []
for name, address in task["stops"]:
    gdb.execute(f"thbreak *{address:#x}")
    gdb.execute("continue")
    guest = Guest(plan, X86_64)
    current = guest.current()
    key, comm = guest.identity(current)
    stops.append(
        {
            "at": name,
            "address": address,
            "pc": guest.integer("pc"),
            "level": int(gdb.parse_and_eval("$cs")) & 3,
            "gs_base": guest.integer("gs_base"),
            "task": current,
            "pid": key.pid,
            "comm": comm,
        }
    )
samples = [read(address, size) for address, size in task["samples"]]
for address, size, path in task["dumps"]:
    gdb.execute(f'monitor memsave {address:#x} {size} "{path}"')
answer = {"stops": stops, "samples": [None if one is None else one.hex() for one in samples]}
Path(task["answer"]).write_text(json.dumps(answer))
gdb.execute("kill")
