"""A debug adapter, and a client of the Debug Adapter Protocol, as an editor is one."""

from __future__ import annotations

import json
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import LIMIT

# The version that docs/editors.md speaks of; npm has it.
ADAPTER = "cdt-gdb-adapter@1.7.0"
# It was tried with this one. It takes Debian 12's for too old.
_NODE = 20
_INSTALL_LIMIT = 180


def install(directory: Path) -> list[str]:
    """The command that starts the adapter, which npm installs into *directory*; else a skip."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed, and the debug adapter runs on them")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    number = re.match(r"v(\d+)", version)
    if number is None or int(number[1]) < _NODE:
        pytest.skip(f"the debug adapter needs node {_NODE}, and this is {version.strip()}")
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", ADAPTER]
    done = subprocess.run(
        [*command, "--prefix", str(directory)],
        capture_output=True,
        text=True,
        timeout=_INSTALL_LIMIT,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        pytest.skip(f"npm cannot install {ADAPTER}: {' '.join(last)}")
    return [node, str(directory / "node_modules/cdt-gdb-adapter/dist/debugTargetAdapter.js")]


class DebugAdapter:
    """An adapter at work. ``events`` are those of its events that nobody has waited for."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while True:
            length = 0
            while header := stream.readline().strip():
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if not length:
                self._messages.put(None)
                return
            self._messages.put(json.loads(stream.read(length)))

    def begin(self, command: str, **arguments: Any) -> int:
        """Send a request; its number."""
        self._number += 1
        message = {"seq": self._number, "type": "request", "command": command}
        raw = json.dumps(message | {"arguments": arguments}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(raw), raw))
        self._process.stdin.flush()
        return self._number

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """What the adapter answers to a request."""
        return self.answer(self.begin(command, **arguments))

    def answer(self, number: int) -> dict[str, Any]:
        """What the adapter answers to the request of that number."""
        self._until(lambda: number in self._answers)
        answer = self._answers.pop(number)
        assert answer["success"], (answer, self.events)
        return dict(answer.get("body") or {})

    def event(self, name: str) -> dict[str, Any]:
        """What the next event of that *name* says."""

        def named() -> list[dict[str, Any]]:
            return [event for event in self.events if event["event"] == name]

        self._until(lambda: bool(named()))
        first = named()[0]
        self.events.remove(first)
        return dict(first.get("body") or {})

    def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            message = self._messages.get(timeout=LIMIT)
            assert message is not None, ("the adapter has ended", self.events)
            if message["type"] == "event":
                self.events.append(message)
            elif message["type"] == "response":
                self._answers[message["request_seq"]] = message

    @property
    def output(self) -> str:
        """All that the Debug Console shows so far."""
        said = [one["body"]["output"] for one in self.events if one["event"] == "output"]
        return "".join(said)

    def close(self) -> None:
        """End it, as an editor does once it has disconnected."""
        self._process.kill()
        self._process.wait(LIMIT)
        self._reader.join(LIMIT)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
