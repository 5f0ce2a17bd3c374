"""Running a trial so that a signal which asks for the end cancels it, rather than breaking in.

An exception that a signal handler raises can come up in any task, in the middle of anything, and
asyncio prints it as never retrieved. Cancelled, the trial ends its processes on the way out.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run *coroutine* to its end in an event loop of its own.

    Only the main thread hears of signals: in another one nothing is changed.

    Raises:
        KeyboardInterrupt: a signal came that this process does not ignore.
    """
    if threading.current_thread() is not threading.main_thread():
        asyncio.run(coroutine)
        return
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    heard = [number for number, handler in handlers.items() if callable(handler)]
    interrupted = False

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            # Once: a second cancellation would cut the ending short, which has its own limits.
            nonlocal interrupted
            if not interrupted:
                interrupted = True
                task.cancel()

        loop = asyncio.get_running_loop()
        for number in heard:
            loop.add_signal_handler(number, interrupt)
        await coroutine

    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        if not interrupted:
            raise
        raise KeyboardInterrupt from None
    finally:
        for number in heard:
            signal.signal(number, handlers[number])
