"""``reproduce.sh``: the same guest and the same breakpoints with plain QEMU and plain gdb."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from osvtriage.consoles import payload as payload_console
from osvtriage.guest.qemu import machine_arguments
from osvtriage.model.plan import ProbePlan
from osvtriage.trial.prepare import Prepared
from osvtriage.trial.resolve import Resolved

# Seconds for a boot, and for the rest: what a trial of osvtriage gives at most, twice.
_BOOT_LIMIT = 240
_LIMIT = 600

_SCRIPT = """\
#!/bin/sh
# The guest of this run record, without osvtriage: QEMU, and gdb stopping where the probes were.
# Written by osvtriage for the run that this command repeats:
#   {title}
set -eu
same() {{
    echo "$1  $2" | sha256sum --check --status || {{
        echo "$0: $2 is not the file of this run: its SHA-256 differs" >&2
        exit 1
    }}
}}
{checks}
dir=$(mktemp -d)
qemu=
trap 'kill -KILL $qemu 2>/dev/null || true; rm -rf "$dir"' EXIT
trap 'exit 130' HUP INT TERM
mkfifo "$dir/console.in" "$dir/console.out"
cat "$dir/console.out" >"$dir/console.log" &
{qemu} \\
    -chardev "socket,id=gdb,path=$dir/gdb.sock,server=on,wait=off" -gdb chardev:gdb \\
    -chardev "pipe,id=console,path=$dir/console" -serial chardev:console </dev/null &
qemu=$!
{boot}
cat >"$dir/commands" <<'END'
{commands}
END
timeout --foreground {limit} {gdb} -nx -quiet -batch -ex "target remote $dir/gdb.sock" \\
    -x "$dir/commands" {go} \\
    {symbols} </dev/null || [ $? -ne 124 ] || echo "$0: the guest did not end within {limit} s" >&2
echo "--- the guest's console:"
grep -a -e 'osvtriage: ' -e 'Kernel panic' -e 'Aborted' "$dir/console.log" |
    LC_ALL=C tr -c '[:print:]\\n' '?'
"""

_BOOT_UNTIL_READY = """\
# The guest has booted when it says so; it then waits for a line.
left={boot_limit}
until grep -q -a 'osvtriage: {ready}' "$dir/console.log"; do
    if ! kill -0 "$qemu" 2>/dev/null || [ "$left" -eq 0 ]; then
        echo "$0: the guest did not boot within {boot_limit} s; its last lines:" >&2
        tail -n 5 "$dir/console.log" | LC_ALL=C tr -c '[:print:]\\n' '?' >&2
        exit 1
    fi
    left=$((left - 1))
    sleep 1
done"""

# QEMU makes its socket before it runs the guest, which -S holds at reset.
_BOOT_UNTIL_FUNCTION = """\
left={boot_limit}
until [ -S "$dir/gdb.sock" ]; do
    [ "$left" -gt 0 ] || exit 1
    left=$((left - 1))
    sleep 1
done"""


def script(prepared: Prepared, resolved: Resolved, title: str) -> str:
    """The text of the script."""
    boot = prepared.boot
    files = {boot.kernel: prepared.kernel.sha256, prepared.symbols: prepared.symbols_sha256}
    if boot.initrd is not None and prepared.initrd_sha256 is not None:
        files[boot.initrd] = prepared.initrd_sha256
    files |= {disk.path: disk.sha256 for disk in boot.disks}
    if resolved.arm_address is None:
        append = f"{payload_console.WAIT} {boot.append}"
        qemu = machine_arguments(prepared.qemu, replace(boot, append=append))
        wait = _BOOT_UNTIL_READY.format(boot_limit=_BOOT_LIMIT, ready=payload_console.READY)
        go = '-ex "shell echo >$dir/console.in" -ex continue'
    else:
        qemu = [*machine_arguments(prepared.qemu, boot), "-S"]
        wait = _BOOT_UNTIL_FUNCTION.format(boot_limit=_BOOT_LIMIT)
        go = "-ex continue"
    return _SCRIPT.format(
        # In a comment: a line feed in a file's name would end it.
        title=title.replace("\n", "\\n"),
        checks="\n".join(
            f"same {sha256} {shlex.quote(str(path))}" for path, sha256 in files.items()
        ),
        symbols=shlex.quote(str(prepared.symbols)),
        qemu=shlex.join(qemu),
        gdb=shlex.quote(str(prepared.gdb)),
        boot=wait,
        go=go,
        limit=_LIMIT,
        commands="\n".join(_commands(prepared, resolved)),
    )


def _commands(prepared: Prepared, resolved: Resolved) -> Iterator[str]:
    probes = resolved.plan.probes
    yield from ("set pagination off", "set confirm off", *prepared.arch.gdb_setup)
    # gdb numbers breakpoints from 1 on, in the order of their making.
    numbers: dict[str, str] = {}
    last = 0
    if resolved.arm_address is not None:
        last = 1
        yield from (f"thbreak *{resolved.arm_address:#x}", "continue")
    for probe in probes:
        first, last = last + 1, last + len(probe.entries) + len(probe.exits)
        numbers[probe.name] = f"{first}-{last}"
    for probe in probes:
        followers = [
            f"enable count {other.arm_stops} {numbers[other.name]}"
            for other in probes
            if other.arm_after == probe.name
        ]
        for address in probe.entries:
            arms = [] if probe.exits else followers
            yield from _breakpoint(prepared, probe, "entry", address, arms)
        for address in probe.exits:
            yield from _breakpoint(prepared, probe, "exit", address, followers)
    for probe in probes:
        at_once = probe.limit if probe.arm_after is None else probe.arm_first
        yield (
            f"enable count {at_once} {numbers[probe.name]}"
            if at_once
            else (f"disable {numbers[probe.name]}")
        )


def _breakpoint(
    prepared: Prepared, probe: ProbePlan, side: str, address: int, arms: Sequence[str]
) -> Iterator[str]:
    formats, values = [], []
    words = [(name, prepared.arch.words[name]) for name in probe.registers]
    for register, word in words:
        if word.monitor:
            continue
        if word.elements is None:
            formats.append(f"{register}=%0{word.bits // 4}{'l' if word.bits > 32 else ''}x")
            values.append(f"${word.gdb_name}")
        else:
            count = word.bits // 32
            formats.append(f"{register}={'%08x' * count}")
            values += [f"${word.gdb_name}.{word.elements}[{n}]" for n in reversed(range(count))]
    text = " ".join([f"{probe.name} {side}:", *formats])
    yield f"break *{address:#x}"
    yield "commands"
    yield "silent"
    yield ", ".join([f'printf "{text}\\n"', *values])
    if any(word.monitor for _, word in words):
        yield "monitor info registers"
    yield from arms
    yield "kill" if probe.fatal else "continue"
    yield "end"


def write(directory: Path, text: str) -> None:
    """Write the script, executable, into the record."""
    path = directory / "reproduce.sh"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
