"""``reproduce.sh``: the same guest and the same breakpoints with plain QEMU and plain gdb."""

from __future__ import annotations

import shlex
from pathlib import Path

from osvtriage.guest.qemu import machine_arguments
from osvtriage.trial.prepare import Prepared
from osvtriage.trial.resolve import Resolved

_SCRIPT = """\
#!/bin/sh
# The guest of this run record, without osvtriage: QEMU, and gdb stopping where the probes were.
# Written by osvtriage; {title}
set -eu
echo "{kernel_sha256}  "{kernel} | sha256sum --check --quiet
{check_initrd}dir=$(mktemp -d)
trap 'kill -KILL "$qemu" 2>/dev/null || true; rm -rf "$dir"' EXIT INT TERM
{qemu} \\
    -S -chardev "socket,id=gdb,path=$dir/gdb.sock,server=on,wait=off" -gdb chardev:gdb \\
    -serial "file:$dir/console.log" &
qemu=$!
cat >"$dir/commands" <<'END'
{commands}
END
while [ ! -S "$dir/gdb.sock" ]; do kill -0 "$qemu"; sleep 0.1; done
{gdb} -nx -batch -ex "target remote $dir/gdb.sock" -x "$dir/commands" {kernel} || true
echo "--- the guest's console:"
grep -a -e 'osvtriage: ' -e 'Kernel panic' "$dir/console.log" || tail -n 20 "$dir/console.log"
"""


def script(prepared: Prepared, resolved: Resolved, title: str) -> str:
    """The text of the script."""
    initrd = prepared.boot.initrd
    check = ""
    if initrd is not None:
        quoted = shlex.quote(str(initrd))
        check = f'echo "{prepared.initrd_sha256}  "{quoted} | sha256sum --check --quiet\n'
    return _SCRIPT.format(
        title=title,
        kernel=shlex.quote(str(prepared.boot.kernel)),
        kernel_sha256=prepared.kernel.sha256,
        check_initrd=check,
        qemu=shlex.join(machine_arguments(prepared.qemu, prepared.boot)),
        gdb=shlex.quote(str(prepared.gdb)),
        commands=_commands(prepared, resolved),
    )


def _commands(prepared: Prepared, resolved: Resolved) -> str:
    lines = ["set pagination off", "set confirm off", *prepared.arch.gdb_setup]
    for probe in resolved.plan.probes:
        for side, addresses in (("entry", probe.entries), ("exit", probe.exits)):
            for address in addresses:
                lines += _breakpoint(prepared, probe.name, side, address, probe.registers)
    return "\n".join([*lines, "continue"])


def _breakpoint(
    prepared: Prepared, name: str, side: str, address: int, registers: tuple[str, ...]
) -> list[str]:
    words = [prepared.arch.words[register] for register in registers]
    shown = [
        f"output/x ${word.gdb_name}" + (f".{word.elements}" if word.elements else "")
        for word in words
    ]
    return [
        f"break *{address:#x}",
        "commands",
        "silent",
        f'printf "{name} {side}:"',
        *[
            line
            for register, command in zip(registers, shown, strict=True)
            for line in (f'printf " {register}="', command)
        ],
        'printf "\\n"',
        "continue",
        "end",
    ]


def write(directory: Path, text: str) -> None:
    """Write the script, executable, into the record."""
    path = directory / "reproduce.sh"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
