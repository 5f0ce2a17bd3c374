"""Compiling the plugin, and finding out whether a QEMU can load it.

Compiled with the host's compiler when it is first needed, and kept by content. Whether a QEMU can
load it is not looked up but tried: its version says neither whether it was built with plugins nor
which interface they get.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from osvtriage.images.atomic import new_file
from osvtriage.images.places import cache_directory
from osvtriage.images.processes import install_command, run
from osvtriage.model.errors import MissingRequirement, OsvtriageError
from osvtriage.plugin.shared import Shared

_SOURCES = ("probes.c", "qemu_api.h")
# -fvisibility=hidden: QEMU finds what it needs, and nothing of ours gets into its way.
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread")

# Compiling takes 0.5 s, QEMU 0.1 s to load it; the rest is for a machine that is swapping.
_COMPILE_LIMIT = 120.0
_LOAD_LIMIT = 30.0


def plugin() -> Path:
    """The compiled plugin.

    Raises:
        MissingRequirement: there is no C compiler.
        OsvtriageError: it does not compile.
    """
    here = Path(__file__).parent
    contents = [(here / name).read_bytes() for name in _SOURCES]
    # The cache may be shared by machines of several kinds.
    contents.append(" ".join((*_FLAGS, platform.machine())).encode())
    key = hashlib.sha256(b"\0".join(contents)).hexdigest()
    path = cache_directory() / "plugins" / f"{key[:16]}.so"
    if path.is_file():
        return path
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise MissingRequirement(
            "the plugin engine needs a C compiler for this machine, and there is none",
            f"install one with: {install_command(('gcc', 'libc6-dev'))}",
        )
    with tempfile.TemporaryDirectory(prefix="osvtriage-plugin-") as directory:
        made = Path(directory) / "probes.so"
        command = [compiler, *_FLAGS, "-o", str(made), str(here / "probes.c")]
        done = run(command, limit=_COMPILE_LIMIT)
        if done.status != 0:
            raise OsvtriageError(
                f"QEMU's plugin cannot be compiled:\n{done.last_words()}",
                f"does {compiler} compile other programs? --engine gdb needs no plugin",
            )
        with new_file(path, mode=0o755) as file:
            file.write(made.read_bytes())
    return path


def argument(plugin_file: Path, shared: Path) -> list[str]:
    """The part of QEMU's command line that loads the plugin."""
    escaped = [str(path).replace(",", ",,") for path in (plugin_file, shared)]
    return ["-plugin", f"file={escaped[0]},shared={escaped[1]}"]


def obstacle(qemu: Path) -> str | None:
    """Why *qemu* cannot run guests with the plugin, in half a sentence; ``None`` where it can."""
    try:
        plugin_file = plugin()
    except OsvtriageError as error:
        return str(error).splitlines()[0]
    # A directory without a comma, which would have to be doubled.
    with tempfile.TemporaryDirectory(prefix="osvtriage-plugin-") as directory:
        shared = Shared(Path(directory) / "shared")
        command = [str(qemu), "-M", "none", "-nodefaults", "-no-user-config", "-display", "none"]
        command += ["-S", "-monitor", "stdio", *argument(plugin_file, shared.path)]
        # timeout(1) ends a QEMU that does not listen, also where this process is killed first.
        try:
            done = subprocess.run(
                ["timeout", "-s", "KILL", f"{_LOAD_LIMIT:g}", *command],
                input="quit\n",
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            return str(error)
        is_loaded = shared.interface > 0
        shared.close()
    if done.returncode == 0 and is_loaded:
        return None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return _explained(qemu, lines[0] if lines else f"it ended with status {done.returncode}")


def _explained(qemu: Path, said: str) -> str:
    """QEMU's complaint (plugins/loader.c, system/vl.c) as a user can use it."""
    if "plugin requires API version" in said or "undefined symbol" in said:
        return f"the plugin interface of {qemu} is too old (QEMU 10 or later is needed)"
    if "invalid option" in said and "plugin" in said:
        return f"{qemu} was built without plugins"
    return f"{qemu} does not load the plugin: {said}"
