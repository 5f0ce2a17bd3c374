"""The process that outlives osvtriage by a moment: it starts QEMU and gdb, and ends them.

Run as a script, by path, with Python's isolated mode: standard library only, nothing of osvtriage.
It holds the read end of a pipe (its standard input) whose write end only osvtriage has. When that
closes, however osvtriage ended, it kills what it started and removes the run's directory of
sockets.

PR_SET_PDEATHSIG would not do: it fires when the spawning *thread* ends, and misses grandchildren.

Standard input, one line: ``{"directory", "children": [{"name", "argv", "fds": [in, out, err]}]}``.
Standard output: one JSON line for each child that started (``{"name", "pid"}``), could not be
started (``{"name", "error"}``), or ended (``{"name", "status"}``, negative for a signal).
"""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess

# In the environment of all that is started here: a later command's sweep knows them by it, should
# this process be killed before it can end them.
MARK = "OSVTRIAGE_RUN_DIRECTORY"


def main() -> None:
    """Start the children, wait for them and for osvtriage, end them."""
    # Unbuffered: what select() is asked about must not lie in a buffer.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        spec = json.loads(stdin.readline())
    directory = spec["directory"]
    # A later command's sweep takes the directory for abandoned once nobody holds this lock.
    lease = os.open(directory, os.O_RDONLY)
    fcntl.flock(lease, fcntl.LOCK_SH)

    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Neither a terminal nor a shell knows of this process; who signals it means osvtriage.
    asked: list[int] = []
    for ending in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(ending, lambda number, _: asked.append(number))

    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for child in spec["children"]:
            name = child["name"]
            try:
                children[name] = _start(child, directory)
            except OSError as error:
                _say({"name": name, "error": f"{child['argv'][0]}: {error.strerror}"})
                return
            finally:
                for descriptor in set(child["fds"]):
                    os.close(descriptor)
            _say({"name": name, "pid": children[name].pid})
        _watch(children, wake_read, asked)
    finally:
        _end(children.values())
        shutil.rmtree(directory, ignore_errors=True)


def _start(child: dict, directory: str) -> "subprocess.Popen[bytes]":  # type: ignore[type-arg]
    stdin, stdout, stderr = child["fds"]
    # SIGPIPE and SIGINT as a shell would leave them; the process group is the supervisor's own.
    return subprocess.Popen(
        child["argv"],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        restore_signals=True,
        env={**os.environ, MARK: directory},
    )


def _watch(children: "dict[str, subprocess.Popen[bytes]]", wake: int, asked: "list[int]") -> None:
    running = dict(children)
    while not asked:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
        for name, process in list(running.items()):
            if (status := process.poll()) is not None:
                del running[name]
                _say({"name": name, "status": status})
        if 0 in ready and not os.read(0, 4096):
            return


def _end(processes) -> None:  # type: ignore[no-untyped-def]
    # SIGKILL at once: a replaying QEMU ignores SIGTERM, and nothing here has state worth saving.
    # Through Popen, so that a process id that was already reaped is never signalled.
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


def _say(message: "dict[str, object]") -> None:
    # osvtriage may be gone already; the children still have to be ended.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
