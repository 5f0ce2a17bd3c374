"""A guest's console as it grows, on this terminal, and this terminal's keys to the guest."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator

from osvtriage.model.errors import GuestError
from osvtriage.report.printable import printable
from osvtriage.trial.running import Running

# Ctrl-], which ends telnet and `virsh console` too.
_LEAVE = b"\x1d"
# QEMU writes the log as the guest prints: a tenth of a second is as good as at once for a reader.
_POLL_SECONDS = 0.1


def follow(session: Running) -> None:
    """Show the console from its beginning on, until the session ends or the user leaves.

    Raises:
        GuestError: the session ended before this.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as keyboard, _keys() as keys:
        try:
            keyboard.connect(str(session.keyboard))
        except OSError as error:
            raise GuestError(
                f"the session at {session.record} does not answer: {error.strerror}",
                "it may just have ended",
            ) from error
        if keys:
            print("Ctrl-] ends this; all other keys go to the guest.\r", file=sys.stderr)
        with session.console_log.open("rb", buffering=0) as log:
            _show(log.fileno(), keyboard, 0 if keys else None)


def _show(log: int, keyboard: socket.socket, keys: int | None) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    waited = [keyboard.fileno(), *([] if keys is None else [keys])]
    while True:
        ready, _, _ = select.select(waited, [], [], _POLL_SECONDS)
        while raw := os.read(log, 1 << 16):
            # In raw mode a line feed alone does not return the carriage.
            text = printable(decoder.decode(raw).replace("\r", ""))
            sys.stdout.write(text.replace("\n", "\r\n" if keys is not None else "\n"))
            sys.stdout.flush()
        # Nothing is ever sent back: it is the end.
        if keyboard.fileno() in ready:
            return
        if keys is not None and keys in ready:
            typed = os.read(keys, 1024)
            if not typed or _LEAVE in typed:
                return
            keyboard.sendall(typed)


@contextlib.contextmanager
def _keys() -> Iterator[bool]:
    """Have every key at once and unchanged; whether standard input is a terminal at all."""
    if not sys.stdin.isatty():
        yield False
        return
    modes = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield True
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, modes)
