"""osvtriage at a terminal, as a person has it, and QMP for looking into its guest from outside."""

from __future__ import annotations

import json
import re
import socket
import termios
from pathlib import Path
from typing import Any

import pexpect
from harness import LIMIT, OSVTRIAGE, Places, until

PROMPT = r"\(gdb\) $"


class Terminal:
    """A session in a pseudo-terminal. Its terminal's modes are compared at its end."""

    def __init__(self, places: Places, *arguments: str | Path, command: str = "gdb") -> None:
        self.places = places
        self._before = set(places.runs.glob("*"))
        environment = {**places.environment, "TERM": "dumb", "HOME": str(places.runs.parent)}
        self.child = pexpect.spawn(
            OSVTRIAGE[0],
            [command, *map(str, arguments)],
            env=environment,
            timeout=LIMIT,
            dimensions=(50, 200),
            encoding="utf-8",
            codec_errors="replace",
        )
        self.modes = termios.tcgetattr(self.child.child_fd)

    def until(self, pattern: str) -> str:
        """What was printed until *pattern*, that included."""
        self.child.expect(pattern)
        return f"{self.child.before}{self.child.after}"

    def until_prompt(self) -> str:
        """What was printed until gdb's prompt."""
        self.child.expect(PROMPT)
        return str(self.child.before)

    def run(self, line: str) -> str:
        """What gdb prints for the command *line*."""
        self.child.sendline(line)
        # The line itself is echoed.
        return self.until_prompt().partition("\n")[2].replace("\r", "")

    def ctrl_c(self) -> None:
        """Press Ctrl-C."""
        self.child.sendcontrol("c")

    def hang_up(self) -> None:
        """Close the terminal, as a window is closed."""
        self.child.ptyproc.fileobj.close()
        self.child.ptyproc.closed = self.child.closed = True

    def wait(self) -> tuple[int | None, str]:
        """Status and last words of the session, which is about to end."""
        self.child.expect(pexpect.EOF)
        modes = termios.tcgetattr(self.child.child_fd)
        assert modes == self.modes, "the terminal has other modes than before"
        self.child.close()
        return self.child.exitstatus, str(self.child.before)

    def quit(self) -> tuple[int | None, str]:
        """Leave gdb; as :meth:`wait`."""
        self.child.sendline("quit")
        return self.wait()

    def record(self) -> dict[str, Any]:
        """The run record that the session left."""
        (path,) = set(self.places.runs.glob("*")) - self._before
        record: dict[str, Any] = json.loads((path / "run.json").read_bytes())
        return record


class Outside:
    """QEMU's second control socket, which osvtriage leaves to others."""

    def __init__(self, places: Places) -> None:
        (path,) = until(
            lambda: list(places.runtime.glob("osvtriage/*/qmp-outside.sock")), "QEMU's socket"
        )
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(LIMIT)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        self._lines.readline()
        self._scratch = Path(path).parent / "outside"
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        """QEMU's answer."""
        question = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(question).encode() + b"\n")
        while True:
            answer = json.loads(self._lines.readline())
            if "event" not in answer:
                assert "return" in answer, answer
                return answer["return"]

    def is_running(self) -> bool:
        """Whether the guest runs."""
        return bool(self.ask("query-status")["running"])

    def registers(self) -> str:
        """What QEMU itself prints of the first vCPU."""
        return str(self.ask("human-monitor-command", **{"command-line": "info registers"}))

    def register(self, name: str) -> str:
        """The digits of one register of `info registers`, in as many groups as it has."""
        match = re.search(rf"\b{name} *[= ] *([0-9a-f]+(?: [0-9a-f]{{16}})*)", self.registers())
        assert match is not None, name
        return match[1]

    def memory(self, address: int, size: int) -> bytes:
        """The guest's bytes at a virtual address of the first vCPU."""
        # QMP's integers are signed.
        signed = address - (1 << 64) if address >> 63 else address
        self.ask("memsave", val=signed, size=size, filename=str(self._scratch))
        raw = self._scratch.read_bytes()
        self._scratch.unlink()
        return raw

    def is_mapped(self, address: int) -> bool:
        """Whether there is memory at a virtual address of the first vCPU."""
        line = f"x /1xb 0x{address:x}"
        said = str(self.ask("human-monitor-command", **{"command-line": line}))
        return "Cannot access memory" not in said

    def word(self, address: int) -> int:
        """The doubleword at a virtual address of the first vCPU."""
        return int.from_bytes(self.memory(address, 8), "little")

    def close(self) -> None:
        self._lines.close()
        self._socket.close()
