"""QMP: what QEMU itself says of the guest. How it ended, and for how long it was stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError

from osvtriage.model.errors import GuestError

# QEMU opens its sockets before it does anything slow; 20 s is for a machine that is swapping.
CONNECT_LIMIT = 20.0
# It answers in a millisecond, and within one emulated instruction where the guest runs.
ANSWER_LIMIT = 20.0
# 512 MB are written in 0.5 s; a slow disk may take a hundredfold.
DUMP_LIMIT = 300.0
# Taking a snapshot of a guest of 1 GiB takes 0.5 s and loading it 0.2 s on two idle processors.
SNAPSHOT_LIMIT = 120.0
_HINT = "is this machine swapping? qemu.log in the run record has what QEMU said; run it again"


@dataclass(frozen=True, slots=True)
class Shutdown:
    """QMP's SHUTDOWN: ``reason`` is QEMU's (guest-shutdown, guest-reset, guest-panic, …)."""

    guest: bool
    reason: str


class Monitor:
    """A QMP connection that keeps account of the guest's stops."""

    def __init__(self) -> None:
        self._client = QMPClient("osvtriage")
        self._listener: asyncio.Task[None] | None = None
        self._stopped_at: float | None = None
        # Set while the guest is stopped by something that happened while it ran.
        self.standing = asyncio.Event()
        self.stops = 0
        self.stopped_seconds = 0.0
        self.panicked = False
        self.version: str | None = None
        self.shutdown: asyncio.Future[Shutdown] = asyncio.get_running_loop().create_future()

    async def connect(self, path: Path) -> None:
        """Connect to the QMP socket *path*, which QEMU may not have made yet."""
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                while True:
                    # QEMU says nowhere that its socket is there: the connection attempt is the
                    # test.
                    try:
                        await self._client.connect(str(path))
                        break
                    except QMPError:
                        await asyncio.sleep(0.01)
        except TimeoutError:
            raise GuestError(
                f"QEMU was started and did not open {path} within {CONNECT_LIMIT:g} s", _HINT
            ) from None
        answer = await self._execute("query-version")
        number = answer["qemu"]
        self.version = f"{number['major']}.{number['minor']}.{number['micro']}{answer['package']}"
        self._listener = asyncio.create_task(self._listen(), name="qmp")

    async def _listen(self) -> None:
        with self._client.listener() as events:
            async for event in events:
                self._account(event)

    def _account(self, event: Mapping[str, Any]) -> None:
        stamp = event.get("timestamp", {})
        now = stamp.get("seconds", 0) + stamp.get("microseconds", 0) / 1e6
        name = event["event"]
        if name == "STOP":
            self.standing.set()
            self.stops += 1
            self._stopped_at = now
        elif name == "RESUME":
            self.standing.clear()
            self._account_resume(now)
        elif name == "GUEST_PANICKED":
            self.panicked = True
        elif name == "SHUTDOWN" and not self.shutdown.done():
            data = event.get("data", {})
            self.shutdown.set_result(Shutdown(data.get("guest", False), data.get("reason", "")))

    def _account_resume(self, now: float) -> None:
        if self._stopped_at is not None:
            self.stopped_seconds += now - self._stopped_at
            self._stopped_at = None

    def restart(self) -> None:
        """Count stops and their time from here on anew; a stop that goes on now is none of them."""
        self.stops = 0
        self.stopped_seconds = 0.0
        self._stopped_at = None

    async def resume(self) -> None:
        """Let the guest run."""
        await self._execute("cont")

    async def stop(self) -> None:
        """Stop the guest, unless it is stopped already. A gdb at the stub hears of it."""
        await self._execute("stop")

    async def instructions(self) -> int:
        """How many instructions a guest whose execution is recorded or replayed has executed."""
        return int((await self._execute("query-replay"))["icount"])

    async def break_at(self, instructions: int) -> None:
        """Have a replayed guest stop once it has executed so many *instructions*."""
        await self._execute("replay-break", {"icount": instructions})

    async def registers(self) -> str:
        """What QEMU prints of every vCPU's registers."""
        line = {"command-line": "info registers -a"}
        return str(await self._execute("human-monitor-command", dict(line)))

    async def save_snapshot(self, name: str) -> None:
        """Keep the whole guest, which is stopped, as the snapshot *name*."""
        await self._tell_monitor(f"savevm {name}")

    async def load_snapshot(self, name: str) -> None:
        """Make the guest, which is stopped, what it was at the snapshot *name*."""
        await self._tell_monitor(f"loadvm {name}")

    async def _tell_monitor(self, line: str) -> None:
        """Give QEMU's human monitor a command that says nothing where it succeeds."""
        said = await self._execute("human-monitor-command", {"command-line": line}, SNAPSHOT_LIMIT)
        if said.strip():
            raise GuestError(f"QEMU was asked for {line!r} and said: {said.strip()}", _HINT)

    async def save_memory(self, address: int, size: int, path: Path) -> None:
        """Write *size* bytes at the first vCPU's virtual *address* into the file *path*."""
        # QAPI's int is signed, and kernels are in the upper half.
        value = address - (1 << 64) if address >> 63 else address
        await self._execute("memsave", {"val": value, "size": size, "filename": str(path)})

    async def dump_memory(self, path: Path) -> None:
        """Write the guest's physical memory into the file *path*, as an ELF core."""
        arguments: dict[str, object] = {"paging": False, "protocol": f"file:{path}"}
        await self._execute("dump-guest-memory", arguments, DUMP_LIMIT)

    async def quit(self) -> None:
        """End QEMU."""
        await self._execute("quit")

    async def _execute(
        self,
        command: str,
        arguments: dict[str, object] | None = None,
        limit: float = ANSWER_LIMIT,
    ) -> Any:
        try:
            async with asyncio.timeout(limit):
                return await self._client.execute(command, arguments)
        except TimeoutError:
            raise GuestError(
                f"QEMU was asked for {command!r} and did not answer within {limit:g} s",
                _HINT,
            ) from None
        except QMPError as error:
            raise GuestError(
                f"QEMU was asked for {command!r} and refused: {error}", _HINT
            ) from error

    async def close(self) -> None:
        """Disconnect; QEMU may be gone already."""
        if self._listener is not None:
            self._listener.cancel()
        with contextlib.suppress(QMPError, EOFError, OSError):
            await self._client.disconnect()
