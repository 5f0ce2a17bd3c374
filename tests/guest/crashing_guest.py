"""A Linux guest that crashes when it is told to, and stays for QEMU to dump its memory."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import LIMIT, until
from qemu.qmp import QMPClient

from osvtriage.arch import ARCHES
from osvtriage.guest.programs import find_gdb
from osvtriage.images.record import Image
from osvtriage.images.store import initrd
from osvtriage.symbols.elf import ElfImage

# MiB, as little as boots: a dump has it all.
MEMORY = {"x86_64": "256", "ppc64le": "512"}
# Documentation/admin-guide/sysrq.rst, command 'c'.
PAYLOAD = """\
#!/bin/busybox sh
echo ready to crash
read -r _ < /dev/{port}
echo c > /proc/sysrq-trigger
"""
READY = b"ready to crash"
# The last line of a panic; arch/powerpc hands over to the firmware before it, which ends QEMU or,
# with -action panic=pause, stops it.
END = b"---[ end Kernel panic"


@dataclass
class CrashingGuest:
    """A guest that has booted and waits for a word."""

    image: Image
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def console(self) -> Path:
        """Its console so far."""
        return self.directory / "console.log"

    def crash(self) -> None:
        """Make it crash, and wait until it has told of it."""
        with socket.socket(socket.AF_UNIX) as typed:
            typed.connect(str(self.directory / "c"))
            typed.sendall(b"\n")
            until(self._ended, "the end of the panic", LIMIT)

    def _ended(self) -> bool:
        if END in self.console.read_bytes():
            return True
        return self._qmp("query-status")["status"] == "guest-panicked"

    def crash_at(self, function: str, registers: dict[str, int]) -> None:
        """Make it crash where *function* is called with those *registers*, by gdb."""
        arch = ARCHES[self.image.arch]
        assert self.image.symbols is not None
        with ElfImage(self.image.symbols, arch) as elf:
            places = [elf.symbol(name).entry for name in ("write_sysrq_trigger", function)]
        values = registers | {"rip": places[1]}
        script = [
            *("set pagination off", "set confirm off", *arch.gdb_setup),
            *(f"target remote {self.directory / 'g'}", f"hbreak *{places[0]:#x}", "continue"),
            *(f"set ${name} = {value:#x}" for name, value in values.items()),
            *("delete", "detach"),
        ]
        (self.directory / "script").write_text("\n".join(script))
        with subprocess.Popen(
            [str(find_gdb(arch)), "-nx", "-batch", "-x", str(self.directory / "script")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as gdb:
            assert gdb.stdout is not None
            # It says so when the breakpoint is there; typed before, the guest would be past it.
            for line in gdb.stdout:
                if b"Hardware assisted breakpoint" in line:
                    break
            self.crash()
            gdb.communicate(timeout=LIMIT)

    def dump(self, name: str) -> Path:
        """Its memory, in a file."""
        path = self.directory / name
        self._qmp("stop")
        self._qmp("dump-guest-memory", {"paging": False, "protocol": f"file:{path}"})
        if self._qmp("query-status")["status"] == "paused":
            self._qmp("cont")
        # QEMU makes it readable for its owner alone, and so it stays.
        assert path.stat().st_mode & 0o077 == 0
        return path

    def _qmp(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        async def ask() -> Any:
            client = QMPClient("test")
            await client.connect(str(self.directory / "q"))
            try:
                async with asyncio.timeout(LIMIT):
                    return await client.execute(command, arguments)
            finally:
                await client.disconnect()

        return asyncio.run(ask())


@contextmanager
def crashing_guest(
    image: Image, directory: Path, append: str, smp: int = 1
) -> Iterator[CrashingGuest]:
    """Boot it. *directory* is short, for the sockets in it."""
    arch = ARCHES[image.arch]
    payload = directory / "payload"
    # A port of its own: with a socket at the console, QEMU 7.2 wrote single bytes twice into its
    # log, or lost lines, where the socket's reader was slow.
    payload.write_text(PAYLOAD.format(port=f"{arch.console[:-1]}1"))
    payload.chmod(0o755)
    arguments: Sequence[str] = [
        *(arch.qemu, *(word for machine in arch.machine for word in ("-M", machine))),
        *("-accel", "tcg", "-cpu", arch.cpu, "-m", MEMORY[arch.name], "-smp", str(smp)),
        *("-nodefaults", "-vga", "none", "-display", "none", "-nic", "none", "-no-reboot"),
        *("-action", "panic=pause"),
        *("-kernel", str(image.kernel), "-initrd", str(initrd(image, payload))),
        *("-append", f"console={arch.console} no_timer_check {append}"),
        *("-serial", f"file:{directory / 'console.log'}"),
        *("-serial", f"unix:{directory / 'c'},server=on,wait=off"),
        *("-qmp", f"unix:{directory / 'q'},server=on,wait=off"),
        *("-gdb", f"unix:{directory / 'g'},server=on,wait=off"),
    ]
    with (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ
        )
    guest = CrashingGuest(image, directory, process)
    try:
        until(
            lambda: (
                (guest.console.exists() and READY in guest.console.read_bytes())
                or process.poll() is not None
            ),
            "the boot",
            LIMIT,
        )
        assert process.poll() is None, (directory / "qemu.log").read_text(errors="replace")
        yield guest
    finally:
        process.kill()
        process.wait()
