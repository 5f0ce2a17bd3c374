"""The recorded consoles."""

from __future__ import annotations

from pathlib import Path

from osvtriage.consoles.crashes import crashes
from osvtriage.model.crash import Crash, most_telling

CONSOLES = Path(__file__).parents[1] / "fixtures" / "consoles"


def text(name: str) -> str:
    """The console of that name, without its ending."""
    return (CONSOLES / f"{name}.log").read_bytes().decode("utf-8", "replace")


def crash(said: str) -> Crash:
    """What a console tells of."""
    found = most_telling(crashes(said))
    assert found is not None
    return found


def recorded(name: str) -> Crash:
    """What the console of that name tells of."""
    return crash(text(name))


def every_name() -> list[str]:
    """All of them."""
    return sorted(path.stem for path in CONSOLES.glob("*.log"))
