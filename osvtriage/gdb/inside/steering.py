"""Steering a guest from gdb's own Python: from one snapshot again and again, and telling of it.

gdb's own answer to a command comes as soon as the guest first runs.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any

import gdb

from osvtriage.gdb.inside import ANSWER_PREFIX, FAILURE_PREFIX, REFUSAL_PREFIX
from osvtriage.gdb.inside import process as user

_SNAPSHOT = "osvtriage"


def save_snapshot() -> None:
    """Take the snapshot of the whole guest; it takes the place of the one before."""
    gdb.execute(f"monitor savevm {_SNAPSHOT}", to_string=True)


def load_snapshot() -> None:
    """Put the guest back to the snapshot."""
    gdb.execute(f"monitor loadvm {_SNAPSHOT}", to_string=True)
    gdb.execute("maintenance flush register-cache", to_string=True)
    gdb.execute("maintenance flush dcache", to_string=True)


def answer(made: Callable[[], dict[str, Any]]) -> None:
    """Tell what *made* gives, or that it failed."""
    try:
        gdb.write(ANSWER_PREFIX + json.dumps(made(), separators=(",", ":")) + "\n")
    except (user.NotThatFile, Refusal) as refusal:
        gdb.write(REFUSAL_PREFIX + json.dumps(str(refusal)) + "\n")
        gdb.write(FAILURE_PREFIX + json.dumps(str(refusal)) + "\n")
    except Exception:
        gdb.write(FAILURE_PREFIX + json.dumps(traceback.format_exc()) + "\n")


class Refusal(Exception):
    """The guest is not what it should be; the sentence says how."""
