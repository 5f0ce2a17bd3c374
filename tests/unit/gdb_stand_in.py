"""A stand-in for gdb's Python module, with a stopped guest behind it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from guest_memory import Memory

from osvtriage.gdb.inside import EVENT_PREFIX, FAILURE_PREFIX, PINPOINT_PREFIX
from osvtriage.model.plan import GdbPlan, ProbePlan

_INSIDE = "osvtriage.gdb.inside."


class Vector(dict[int, int]):
    """gdb's vector value: indexed like an array, with its range in its type."""

    @property
    def type(self) -> Any:
        return SimpleNamespace(range=lambda: (0, len(self) - 1))


def vector(digits: str) -> dict[str, Vector]:
    """A 128-bit register as gdb has it: a union; its elements are signed, the lowest first."""
    words = [int(digits[at : at + 8], 16) for at in (24, 16, 8, 0)]
    return {"v4_int32": Vector(enumerate(word - (word >> 31 << 32) for word in words))}


class Gdb(ModuleType):
    """gdb's module. ``monitor`` is QEMU's answer to `info registers -a`, ``step`` the guest's next
    instruction, ``cpu`` the vCPU that stopped."""

    error = type("error", (Exception,), {})
    MemoryError = type("MemoryError", (error,), {})

    def __init__(self) -> None:
        super().__init__("gdb")
        self.breakpoints: list[Any] = []
        self.lines: list[str] = []
        self.memory = Memory()
        self.registers: dict[str, Any] = {}
        self.monitor = ""
        self.asked = 0
        self.cpu = 1
        self.step: Callable[[], None] = lambda: None
        self._stepping: list[str] | None = None
        guest = self

        class Breakpoint:
            def __init__(self, spec: str, internal: bool) -> None:
                assert internal
                self.address = int(spec.removeprefix("*"), 16)
                self.enabled = True
                guest.breakpoints.append(self)

        self.Breakpoint = Breakpoint

    def write(self, text: str) -> None:
        # What is written while a command runs goes to whoever asked for the command's output.
        (self.lines if self._stepping is None else self._stepping).append(text)

    def execute(self, command: str, to_string: bool) -> str:
        assert to_string
        if command == "stepi":
            self._stepping = []
            self.step()
            said, self._stepping = self._stepping, None
            return "".join([*said, f"{self.registers['rip']:#x} in ?? ()\n"])
        assert command == "monitor info registers -a"
        self.asked += 1
        return self.monitor

    def selected_thread(self) -> Any:
        return SimpleNamespace(ptid=(1, self.cpu + 1, 0))

    def selected_frame(self) -> Any:
        return SimpleNamespace(read_register=self._register)

    def selected_inferior(self) -> Any:
        return SimpleNamespace(read_memory=self._read, write_memory=self.memory.write)

    def _register(self, name: str) -> Any:
        try:
            return self.registers[name]
        except KeyError:
            raise ValueError(f"no register {name}") from None

    def _read(self, address: int, size: int) -> memoryview:
        content = self.memory.read(address, size)
        if content is None:
            raise self.MemoryError
        return memoryview(content)

    def armed(self) -> list[int]:
        """The addresses of the breakpoints that are in place."""
        return sorted(stop.address for stop in self.breakpoints if stop.enabled)

    def come_to(self, address: int) -> bool:
        """The current thread comes to *address*; whether the guest stays stopped there."""
        stops = [stop for stop in self.breakpoints if stop.enabled and stop.address == address]
        answers = [stop.stop() for stop in stops]
        return any(answers)

    def said(self, prefix: str) -> list[Any]:
        """What the lines with *prefix* say."""
        return [
            json.loads(line.removeprefix(prefix)) for line in self.lines if line.startswith(prefix)
        ]

    @property
    def events(self) -> list[dict[str, Any]]:
        return self.said(EVENT_PREFIX)

    @property
    def failures(self) -> list[str]:
        return self.said(FAILURE_PREFIX)

    @property
    def pinpoints(self) -> list[dict[str, Any]]:
        return self.said(PINPOINT_PREFIX)


def take_the_place_of_gdb(stand_in: Gdb, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what runs inside gdb import *stand_in*, until the test ends."""
    for name in [name for name in sys.modules if name.startswith(_INSIDE)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gdb", stand_in)


def arm(directory: Path, plan: GdbPlan) -> ModuleType:
    """Arm the probes of *plan*, as a trial does; the module that did it."""
    path = directory / "probes.json"
    path.write_text(plan.to_json())
    probes = importlib.import_module(f"{_INSIDE}probes")
    probes.arm(str(path))
    return probes


def probe(name: str, entry: int, *exits: int, **changed: Any) -> ProbePlan:
    """A probe that takes nothing, but for what is given."""
    defaults: dict[str, Any] = {"limit": 100, "required": 0, "registers": (), "fields": {}}
    return ProbePlan(name, name, (entry,), exits, False, **(defaults | changed))
