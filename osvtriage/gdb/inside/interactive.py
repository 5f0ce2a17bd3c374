"""A session: the probes of a trial in a gdb whose command line is the user's.

gdb is started with three steps on its command line: :func:`prepare`, the user's own gdbinit, and
:func:`begin`, which attaches, arms and runs to the first stop. gdb's prompt comes behind them. An
editor that has settings to make first asks for the attaching itself: :func:`begin_when_asked`.
"""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import gdb

from osvtriage.gdb.inside import probes
from osvtriage.gdb.inside.guest import Guest, read
from osvtriage.gdb.inside.link import Link, Refused
from osvtriage.model.event import Event, Frame
from osvtriage.model.session import SessionPlan
from osvtriage.model.text import printable

_SETUP = (
    "set confirm off",
    "set pagination off",
    "set auto-load off",
    "set debuginfod enabled off",
    "set breakpoint always-inserted on",
    "set history save on",
)

# gdb asks QEMU for 2 KiB at a time.
_MUCH = 4096


@dataclass(slots=True)
class Stop:
    """Why the guest stands still, where that is for a probe: what was seen, and what it shows."""

    event: Event
    reason: str
    findings: list[dict[str, Any]] = field(default_factory=list)


class Session(probes.Session):
    """The probes of a session, which tells osvtriage of each event and hears what that shows."""

    def __init__(self, plan: SessionPlan, link: Link, mi: bool) -> None:
        # Of a silent stop MI says neither the reason nor the thread, and an editor shows none.
        self.silent = not mi
        super().__init__(plan.probes)
        self.session_plan = plan
        self.link = link
        self.stop_at = plan.stop_at
        self.findings: list[dict[str, Any]] = []
        # Of the stop that the guest stands at; of the newest event.
        self.stopped: Stop | None = None
        self.last: Event | None = None
        self._told_prompt = False
        self._known: dict[str, Any] = {}

    def hand_out(self, event: Event, record: dict[str, Any]) -> bool:
        """Tell osvtriage; whether the user wants the guest stopped here."""
        found = self.link.ask("event", event=record)
        self.last = event
        self.findings += found
        if not self.stop_at.is_met(event, len(found)) and record["stays"] is None:
            return False
        at = f"probe {event.probe}, {event.side}, of {event.comm or 'a thread'}"
        pid = event.thread.pid
        reason = at + (f" ({pid})" if pid is not None else "")
        self.stopped = Stop(event, reason, found)
        return True

    def at_prompt(self) -> None:
        """Tell osvtriage that the user can type: until then it sees to it that Ctrl-C arrives."""
        if not self._told_prompt:
            self._told_prompt = True
            self.link.ask("prompt", there=True)

    def goes_on(self) -> None:
        """The guest was let go, and there is no prompt any more."""
        self.stopped = None
        if self._told_prompt:
            self._told_prompt = False
            self.link.ask("prompt", there=False)

    def say(self, prefix: str, what: Any) -> None:
        """A probe failed: the guest stays stopped, and the user sees why."""
        gdb.write(f"osvtriage: a probe failed: {what}\n", gdb.STDERR)

    def known(self, what: str) -> Any:
        """The answer to a question about the kernel, which is asked once."""
        if what not in self._known:
            self._known[what] = self.link.ask(what)
        return self._known[what]

    def read(self, address: int, size: int) -> bytes | None:
        """As gdb reads it, but much by QEMU: gdb takes half a second for a megabyte."""
        if size <= _MUCH:
            return read(address, size)
        digits = self.link.ask("memory", address=address, size=size)
        return None if digits is None else bytes.fromhex(digits)

    def name(self, addresses: Iterable[int]) -> list[str]:
        """Symbol and offset of each address; the address where there is no symbol."""
        return self.name_frames([Frame(f"{address:016x}") for address in addresses])

    def name_frames(self, frames: Iterable[Frame]) -> list[str]:
        """As :meth:`name`: a return address is named by the call before it."""
        return [printable(frame.name) for frame in self.named(frames)]

    def named(self, frames: Iterable[Frame]) -> list[Frame]:
        """The frames with the functions that they are in; those that have a name keep it."""
        frames = list(frames)
        asked = [(frame.address, frame.kind) for frame in frames]
        functions = self.link.ask("name", frames=asked)
        return [
            frame
            if frame.function is not None
            else replace(frame, function=function, offset=offset)
            for frame, (function, offset) in zip(frames, functions, strict=True)
        ]


class _GivesUp(gdb.Breakpoint):  # type: ignore[misc]
    """A function that the kernel calls when it dies."""

    def __init__(self, address: int, silent: bool) -> None:
        super().__init__(f"*{address:#x}", internal=True)
        self.silent = silent
        self.address = address

    def stop(self) -> bool:
        """Stop here, whatever the session stops at: nothing comes after."""
        gdb.write("osvtriage: the guest's kernel gives up\n")
        return True


_session: Session | None = None
_begin: Callable[[bool], None] | None = None


def session() -> Session:
    """The session of this gdb.

    Raises:
        gdb.GdbError: there is none yet.
    """
    if _session is None:
        raise gdb.GdbError("the guest is not attached yet")
    return _session


def prepare(path: str, mi: bool = False) -> None:
    """Set gdb up for the session whose plan is in the file *path*; not attached yet.

    With *mi* it talks the machine interface.
    """
    global _begin
    with open(path, encoding="utf-8") as file:
        plan = SessionPlan.from_json(file.read())
    link = Link(plan.link)
    gdb.execute(f"set history filename {plan.history}", to_string=True)
    for line in (*_SETUP, *plan.setup):
        gdb.execute(line, to_string=True)
    gdb.execute(f"file {_quoted(plan.symbols)}", to_string=True)
    from osvtriage.gdb.inside.commands.all import define

    # Not above: the commands import this module.
    define()
    if plan.replay is not None:
        from osvtriage.gdb.inside import replay

        replay.prepare()
    _begin = functools.partial(_attach, plan, link, mi)


def begin(to_stop: bool = True) -> None:
    """Attach to the guest, arm the probes, and run to the first stop, or stay before it."""
    # Ctrl-C comes as an exception where Python runs, and ends what gdb itself is in the middle of.
    try:
        if _begin is None:
            raise KeyboardInterrupt
        _begin(to_stop)
    except Refused:
        # osvtriage says why, once this gdb is gone.
        gdb.execute("quit 1")
    except KeyboardInterrupt:
        if _session is None:
            gdb.execute("quit 1")
        raise


def begin_when_asked() -> None:
    """Attach to the guest and arm the probes: a client of MI lets it go when it is ready.

    Raises:
        gdb.GdbError: it is attached already.
    """
    if _session is not None:
        raise gdb.GdbError("the guest is attached already")
    begin(to_stop=False)


def _attach(plan: SessionPlan, link: Link, mi: bool, to_stop: bool) -> None:
    global _session
    made: Session
    try:
        with silence():
            gdb.execute(f"target remote {plan.stub}", to_string=True)
        if plan.replay is not None:
            pass
        elif plan.arm_address is not None:
            _run_to(plan.arm_address)
        elif plan.sleep_address is not None and read(plan.samples[0].address, 1) is None:
            # In user mode still, from where the stub cannot read the kernel.
            _run_to(plan.sleep_address)
        there = [read(sample.address, sample.size) for sample in plan.samples]
        link.ask("compare", memory=[None if raw is None else raw.hex() for raw in there])
        made = _made(plan, link, mi)
        made.arm()
        for address in plan.gives_up:
            _GivesUp(address, made.silent)
        if plan.probes.orc is not None:
            # Not above: no other guest needs it.
            from osvtriage.gdb.inside import unwinder

            unwinder.install(plan.probes)
        if plan.system == "osv":
            from osvtriage.gdb.inside.commands import osv

            osv.read_types()
    except (gdb.error, OSError, ValueError):
        link.ask("failed", trace=traceback.format_exc())
    _session = made
    gdb.events.before_prompt.connect(made.at_prompt)
    gdb.events.stop.connect(_tell_stop)
    gdb.events.cont.connect(_forget_stop)
    gdb.write(f"osvtriage: {plan.title}\n")
    link.ask("go")
    if plan.replay is not None:
        gdb.write(
            f"Replayed to instruction {plan.replay[0].instructions}; `continue` replays on.\n"
        )
        _tell_stop(None)
    elif plan.stop_at.kind == "boot" or not to_stop:
        gdb.write("The guest has booted and is armed; `continue` lets its workload begin.\n")
    else:
        gdb.write(f"Running until {plan.stop_at.name}; Ctrl-C stops the guest.\n")
        gdb.flush()
        try:
            gdb.execute("continue")
        except gdb.error as error:
            gdb.write(f"{error}\n", gdb.STDERR)
    link.ask("hand over")


def _made(plan: SessionPlan, link: Link, mi: bool) -> Session:
    if plan.replay is None:
        return Session(plan, link, mi)
    from osvtriage.gdb.inside.replay import ReplaySession

    # Not above: it imports this module.
    return ReplaySession(plan, link, mi)


def _run_to(address: int) -> None:
    breakpoint_ = gdb.Breakpoint(f"*{address:#x}", internal=True)
    breakpoint_.silent = True
    try:
        with silence():
            gdb.execute("continue", to_string=True)
        reached = int(gdb.parse_and_eval("(unsigned long)$pc")) == address
    finally:
        breakpoint_.delete()
    if not reached:
        # By Ctrl-C: nothing else stops it here.
        raise KeyboardInterrupt


@contextmanager
def silence() -> Iterator[None]:
    """Keep gdb from telling each stop: on a terminal it does, whoever asks for its output."""
    if not os.isatty(1):
        # What stands there may be MI.
        yield
        return
    gdb.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        gdb.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _tell_stop(stopped: Any) -> None:
    """Say why a probe stopped the guest: gdb itself says nothing of internal breakpoints."""
    stop = _session.stopped if _session else None
    if stop is None:
        return
    gdb.write(f"\nStopped: {stop.reason}\n")
    for finding in stop.findings:
        gdb.write(f"Finding: {printable(finding['title'])}\n")
    if stop.findings:
        gdb.write("`ot finding` shows the evidence, `help ot` what else can be looked at.\n")


def _forget_stop(_: Any) -> None:
    if _session is not None:
        _session.goes_on()


def guest() -> Guest:
    """The guest as it is stopped now.

    Raises:
        gdb.GdbError: it runs, or has gone.
    """
    made = session()
    thread = gdb.selected_thread()
    if thread is None:
        raise gdb.GdbError("the guest has gone; `quit` ends the session")
    if thread.is_running():
        raise gdb.GdbError("the guest runs; Ctrl-C stops it")
    return made.guest()


def _quoted(path: str) -> str:
    # gdb splits the arguments of `file` as a shell does, in double quotes too.
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
