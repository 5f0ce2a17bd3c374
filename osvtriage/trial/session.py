"""An interactive session: a trial whose gdb is the user's, at his own terminal."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from asyncio.subprocess import DEVNULL
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from osvtriage.gdb.terminal import Answer, TerminalGdb, user_gdbinit
from osvtriage.guest.processes import Child
from osvtriage.guest.qemu import Sockets
from osvtriage.images.places import state_directory
from osvtriage.model.errors import GdbError, GuestError, Interrupted, OsvtriageError, UsageError
from osvtriage.model.event import Frame
from osvtriage.model.finding import Finding
from osvtriage.model.session import STOP_KINDS, Memory, SessionPlan, StopAt
from osvtriage.recipe.recipe import Recipe, Variant
from osvtriage.symbols import linux, linux_stacks
from osvtriage.systems import SYSTEMS
from osvtriage.trial import checking, draft, identity
from osvtriage.trial.reception import DISTURBED
from osvtriage.trial.running import SOCKETS, announce
from osvtriage.trial.seen import Seen
from osvtriage.trial.trial import Trial
from osvtriage.trial.watch import Over, Watch

# More is read by QEMU, into a file: gdb reads 2 KiB at a time.
_MUCH = 4096
# gdb stops a guest in 20 ms by itself. What it is in the middle of, such as a probe's stop, takes
# as long again; a busy host takes a hundred times that.
_STOP_PAUSE, _STOP_TRIES = 0.1, 100
_SCRATCH_BYTES = 1 << 20
_PANE_LINES = "12"
# It answers in milliseconds; a pane is not worth more.
_TMUX_LIMIT = 20.0


def stop_at(text: str, recipe: Recipe, variant: Variant) -> StopAt:
    """What ``--stop-at`` says: finding, crash, boot, or a probe of the recipe, also ``NAME:exit``.

    Raises:
        UsageError: the recipe has no such probe, or a session of it comes to no finding, or to no
            stop at all.
    """
    if variant.kaslr:
        raise UsageError(
            f"{variant.name} moves its kernel, and a session goes by the addresses in its file",
            "take another --variant; `osvtriage unwinder` is for a gdb of yours at such a guest",
        )
    if text == "finding" and (recipe.context or recipe.sweep):
        raise UsageError(
            f"{recipe.name} finds what it does by steering its guest, which a session leaves alone",
            "stop it with --stop-at boot or --stop-at crash, and where you like from there",
        )
    for kind in STOP_KINDS:
        if text == kind:
            return StopAt(kind)
    name, _, side = text.partition(":")
    names = [probe.name for probe in recipe.probe]
    if name not in names or side not in ("", "entry", "exit"):
        raise UsageError(
            f"there is nothing called {text!r} to stop at in {recipe.name}",
            f"it has finding, crash, boot, and the probes {', '.join(names)}, also as NAME:exit",
        )
    return StopAt("probe", name, "exit" if side == "exit" else "entry" if side else None)


class Session(Trial):
    """A trial that runs to a stop and is the user's from there on."""

    async def run(self) -> Seen:
        """Boot, arm, hand over to gdb; returns when gdb has ended.

        Raises:
            OsvtriageError: QEMU or gdb failed, or the guest is not the kernel it should be.
        """
        self._refused: OsvtriageError | None = None
        self._findings: list[str] = []
        # Whether the first prompt's way has begun, and whether gdb is at a prompt now.
        self._guest_runs = self._at_prompt = False
        self._stopping: asyncio.Task[None] | None = None
        self._checks = checking.build(self.request.recipe)
        async with AsyncExitStack() as stack:
            self._open_machine(stack)
            self._user_gdb = await stack.enter_async_context(
                TerminalGdb(
                    self.prepared.gdb,
                    self._answers(),
                    self._on_ctrl_c,
                )
            )
            try:
                await self._start()
                await self.watch.until(self._resolve_probes(), "the probes' addresses")
                await self._come_to_gdb()
                await self._hold()
            except Over:
                self.seen.ending = self.watch.ending()
            finally:
                self.seen.stops = self.monitor.stops
                self.seen.timings["stopped"] = self.monitor.stopped_seconds
        return self.seen

    def _answers(self) -> dict[str, Answer]:
        """By its name, what each question of gdb's Python is answered by."""
        return {
            "compare": self._compare,
            "go": self._go,
            "prompt": self._prompt,
            "event": self._judge_event,
            "name": self._name,
            "is entry": self._is_entry,
            "status": self._status,
            "tasks": self._tasks,
            "memory": self._memory,
            "draft": self._draft,
            "hand over": self._hand_over,
            "failed": self._failed,
        }

    async def _come_to_gdb(self) -> None:
        """Let the guest run to where gdb attaches."""
        if self.prepared.waits:
            await self.watch.until(self.monitor.resume(), "QEMU's answer")
            await self._until_ready()

    def _more_arguments(self) -> list[str]:
        return [*super()._more_arguments(), *self._snapshot_disk()]

    def _snapshot_disk(self) -> list[str]:
        # Snapshots need a disk that can hold them. No device has this one: the guest is a trial's.
        scratch = self._processes.directory / "scratch.img"
        with scratch.open("wb") as file:
            file.truncate(_SCRATCH_BYTES)
        return ["-drive", f"file={scratch},if=none,id=snapshots,format=raw,snapshot=on"]

    async def _start_processes(self, qemu: Child) -> None:
        self._qemu = qemu
        await self._processes.start(qemu)
        self.watch = Watch(qemu, self._user_gdb, self.monitor, self._console, self.directory)

    async def _hold(self) -> None:
        """Start gdb, and wait until the user has left it."""
        self.observer.phase("gdb", f"stops at: {self._stop_at.name}")
        await self._open_console()
        plan = self.directory / "session.json"
        plan.write_text(self._plan().to_json(), encoding="utf-8")
        package = str(Path(__file__).parents[2])
        mi = self.request.mi
        steps = ["--interpreter=mi3"] if mi else []
        steps += [
            *("-ex", f"python import sys; sys.path.insert(0, {package!r})"),
            *("-ex", "python from osvtriage.gdb.inside import interactive as _osvtriage"),
            *("-ex", f"python _osvtriage.prepare({str(plan)!r}, mi={mi})"),
        ]
        if self.request.gdbinit:
            for path in user_gdbinit():
                steps += ["-x", str(path)]
        if not self.request.when_asked:
            steps += ["-ex", "python _osvtriage.begin()"]
        await self._user_gdb.start(self._link, steps)
        await self._until_left()
        if self._refused is not None:
            raise self._refused
        self.seen.ending = DISTURBED
        with suppress(Over):
            # That the guest has ended by itself is no failure; that QEMU was killed is one.
            await self.watch.until(asyncio.sleep(0), "the end")

    async def _open_console(self) -> None:
        """Let others type into the guest's console, and show it in a pane where there is tmux."""
        server = await asyncio.start_unix_server(self._type, str(self.running.keyboard))
        self._stack.callback(server.close)
        announce(self.running)
        self._stack.callback((self.directory / SOCKETS).unlink)
        if self.request.pane and os.environ.get("TMUX"):
            follow = shlex.join([sys.executable, "-m", "osvtriage", "console", str(self.directory)])
            tmux = ["tmux", "split-window", "-d", "-l", _PANE_LINES, follow]
            with suppress(OSError):
                process = await asyncio.create_subprocess_exec(
                    *tmux, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
                )
                await self.watch.until(process.wait(), "tmux", _TMUX_LIMIT)

    async def _type(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._stack.callback(writer.close)
        while keys := await reader.read(1024):
            self._console.type(keys)

    async def _until_left(self) -> None:
        """Wait until gdb has ended, or somebody asks for the end."""
        left = asyncio.Event()
        for number in (signal.SIGHUP, signal.SIGTERM):
            # The terminal was closed, for one. What was seen is kept.
            asyncio.get_running_loop().add_signal_handler(number, left.set)
        leaving = asyncio.ensure_future(left.wait())
        gdb, lost = self._user_gdb.child.ended, asyncio.ensure_future(self._lost())
        ends: list[asyncio.Future[Any]] = [leaving, gdb, lost]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            early = self.seen.undisturbed is None
            if early and self._refused is None and gdb.done() and self._user_gdb.interrupted:
                raise KeyboardInterrupt
            if gdb.done() and gdb.result() < 0 and not left.is_set():
                name = signal.strsignal(-gdb.result())
                raise GdbError(
                    f"gdb was ended by signal {-gdb.result()} ({name})",
                    "what it said last is on the terminal; the guest has been ended too",
                )
            if lost.done():
                lost.result()
        finally:
            leaving.cancel()
            lost.cancel()

    async def _lost(self) -> None:
        """Wait for as long as the supervisor holds QEMU; QEMU's own end is for the user to see."""
        await asyncio.shield(self._qemu.ended)
        await asyncio.Event().wait()

    @property
    def _stop_at(self) -> StopAt:
        assert self.request.stop_at is not None
        return self.request.stop_at

    @property
    def _link(self) -> Path:
        return self._processes.directory / "session.sock"

    def _plan(self) -> SessionPlan:
        resolved = self.resolved
        assert resolved is not None
        request, image = self.request, self.request.image
        state = state_directory()
        state.mkdir(parents=True, exist_ok=True)
        system = SYSTEMS[image.system]
        return SessionPlan(
            title=f"{request.recipe.name} · {request.variant.name} · {image.name} "
            f"({system.title} {image.kernel_version})",
            system=image.system,
            link=str(self._link),
            stub=str(Sockets(self._processes.directory).gdb),
            symbols=str(self.prepared.symbols),
            history=str(state / "gdb_history"),
            setup=self.prepared.arch.gdb_setup,
            samples=tuple(
                Memory(sample.address, sample.size)
                for sample in self._samples()
                if sample.size <= _MUCH
            ),
            arm_address=resolved.arm_address,
            sleep_address=resolved.sleep_address,
            gives_up=tuple(
                self._elf.symbol(name).entry
                for name in system.gives_up_in
                if self._elf.has_symbol(name)
            ),
            stop_at=self._stop_at,
            probes=resolved.plan,
        )

    # What gdb's Python asks.

    async def _compare(self, question: dict[str, Any]) -> None:
        """Compare what gdb has read, and what is too much for it, with the kernel's file."""
        self._require_no_ctrl_c()
        there = iter(question["memory"])
        try:
            for sample in self._samples():
                if sample.size <= _MUCH:
                    digits = next(there)
                    raw = None if digits is None else bytes.fromhex(digits)
                else:
                    raw = await self._read_sample(sample)
                identity.compare(sample, self._elf, raw)
        except OsvtriageError as error:
            self._refused = error
            raise

    async def _prompt(self, question: dict[str, Any]) -> None:
        self._at_prompt = question["there"]

    def _on_ctrl_c(self) -> None:
        """See to it that the guest stops: gdb loses a Ctrl-C while a probe's Python runs.

        What QEMU's monitor stops, gdb sees stopped by SIGINT, as if it had asked for that itself.
        """
        # An editor asks over MI, and has no prompt.
        if self.request.mi:
            return
        if not self._stopping or self._stopping.done():
            self._stopping = asyncio.create_task(self._stop_guest(), name="ctrl-c")
            self._stack.callback(self._stopping.cancel)

    async def _stop_guest(self) -> None:
        for _ in range(_STOP_TRIES):
            await asyncio.sleep(_STOP_PAUSE)
            if self._at_prompt or self._user_gdb.child.ended.done():
                return
            if self._guest_runs:
                with suppress(OsvtriageError):
                    await self.monitor.stop()

    def _require_no_ctrl_c(self) -> None:
        """Until the guest runs, Ctrl-C ends the session; a gdb that starts has not heard it."""
        if self._user_gdb.interrupted:
            raise Interrupted("Ctrl-C was pressed")

    async def _go(self, _: dict[str, Any]) -> None:
        """Type the word that the workload waits for; it is read when the guest runs."""
        self._require_no_ctrl_c()
        if self.prepared.waits:
            self._console.send("go")
        self._guest_runs = True

    async def _judge_event(self, question: dict[str, Any]) -> list[dict[str, Any]]:
        """The findings that are there with this event and were not before."""
        self._on_event(question["event"])
        found = [
            finding
            for check in self._checks
            for finding in check(self.prepared.arch, self.seen.events).findings
        ]
        return [_as_told(finding) for finding in found if self._is_new(finding)]

    def _is_new(self, finding: Finding) -> bool:
        text = json.dumps(finding.to_json(), sort_keys=True)
        if text in self._findings:
            return False
        self._findings.append(text)
        return True

    async def _name(self, question: dict[str, Any]) -> list[tuple[str | None, int | None]]:
        frames = [Frame(address, kind=kind) for address, kind in question["frames"]]
        return [(frame.function, frame.offset) for frame in self._named(frames)]

    async def _is_entry(self, question: dict[str, Any]) -> bool:
        """Whether the address is where a function is entered, and has made no frame yet."""
        symbol = self._elf.containing(question["address"])
        return symbol is not None and question["address"] in (symbol.address, symbol.entry)

    async def _status(self, _: dict[str, Any]) -> dict[str, Any]:
        ending = None
        try:
            await self.watch.until(asyncio.sleep(0), "the guest's state")
        except Over:
            ending = self.watch.ending().sentence
        except OsvtriageError as error:
            ending = str(error)
        return {"ending": ending, "directory": str(self.directory)}

    async def _tasks(self, _: dict[str, Any]) -> dict[str, Any]:
        """Where Linux's lists of tasks are, and where in a task the saved stack pointer is."""
        ksp = None
        if self.prepared.arch.link_register is not None:
            # thread_struct begins with ksp: arch/powerpc/include/asm/processor.h.
            ksp = linux.offsets(self._elf)["thread"]
        return {
            "init_task": self._elf.symbol("init_task").address,
            "offsets": linux_stacks.task_offsets(self._elf),
            "stack_bytes": linux_stacks.stack_bytes(self._elf),
            "ksp": ksp,
        }

    async def _memory(self, question: dict[str, Any]) -> str | None:
        """The digits of memory that QEMU reads in gdb's place; ``None``: not all of it is there."""
        path = self._processes.directory / "memory"
        try:
            with suppress(GuestError):
                await self.monitor.save_memory(question["address"], question["size"], path)
                return path.read_bytes().hex()
            return None
        finally:
            path.unlink(missing_ok=True)

    async def _draft(self, question: dict[str, Any]) -> dict[str, Any]:
        """A draft recipe with probes at these places; which of them a recipe cannot say."""
        found = {at: draft.place(self._elf, at, spec) for at, spec in question["places"]}
        places = [place for place in dict.fromkeys(found.values()) if place is not None]
        unknown = [Frame(f"{at:016x}") for at, place in found.items() if place is None]
        request = self.request
        text = draft.draft(request.recipe, places, request.variant, beside=request.recipe_directory)
        return {
            "text": text,
            "probes": len(places),
            "left_out": [frame.name for frame in self._named(unknown)],
        }

    async def _hand_over(self, _: dict[str, Any]) -> None:
        """What is seen from now on, the user may have had a hand in."""
        self.seen.undisturbed = len(self.seen.events)

    async def _failed(self, question: dict[str, Any]) -> None:
        last = question["trace"].strip().splitlines()[-1]
        self._refused = GdbError(
            f"gdb could not attach to the guest: {last}", "run it again; `osvtriage doctor` helps"
        )
        raise self._refused


def _as_told(finding: Finding) -> dict[str, Any]:
    return finding.to_json() | {"backtrace": [frame.line for frame in finding.backtrace]}
