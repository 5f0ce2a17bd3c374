"""``osvtriage unwinder``: gdb's own backtraces of a Linux guest, across exceptions."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("kernel", type=click.Path(dir_okay=False, path_type=Path))
def unwinder(kernel: Path) -> None:
    """Print what makes a gdb of yours unwind the Linux KERNEL across exceptions.

    KERNEL is the vmlinuz that an x86-64 guest boots, stripped as distributions ship it. Once gdb is
    attached to the guest and that is in user space, source what is printed: `bt`, `frame N`,
    `p $rdi` and `finish` then work across page faults, interrupts and system calls, with KASLR or
    without, and `bt` says how the kernel was entered. gdb 13 or later, with Python.

    \b
    Examples:
      osvtriage unwinder /boot/vmlinuz-6.1.0-50-amd64 > unwind.gdb
      gdb -ex 'target remote :1234' -x unwind.gdb -ex bt
    """
    from osvtriage.report import live
    from osvtriage.trial.unwinder import gdb_commands

    with live.observer(quiet=False) as observer:
        lines = gdb_commands(kernel, lambda message: observer.phase("kernel", message))
    click.echo(lines, nl=False)
