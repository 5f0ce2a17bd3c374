"""``osvtriage triage``: what a guest died of, from what it left behind."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from osvtriage.cli.options import json_option

# As `git bisect run` has it: nothing can be said.
_NOT_FOUND = 125


@click.command()
@click.argument("path", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE|DIR|-")
@click.option(
    "--kernel",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With a dump: the kernel that the guest ran (vmlinuz or vmlinux), for names.",
)
@json_option
def triage(path: Path, kernel: Path | None, as_json: bool) -> int:
    """Say what a guest died of: cause, task, registers, backtrace, and a signature.

    Reads a console log (Linux, OSv), a dump of the guest's memory that QEMU wrote
    (dump-guest-memory), or a run record's directory; - is standard input. Equal crashes have equal
    signatures, whatever the build or KASLR.

    \b
    Examples:
      osvtriage triage console.log
      ssh guest dmesg | osvtriage triage -
      osvtriage triage guest.vmcore --kernel /boot/vmlinuz-6.1.0-50-amd64
      osvtriage triage --json console.log | jq -r .crash.signature

    \b
    Exit status: 0 a cause was found, 125 none, 129 usage.
    """
    from osvtriage.report import live
    from osvtriage.report import triage as report
    from osvtriage.triage import triage as reader

    if str(path) == "-":
        data = sys.stdin.buffer.read(reader.MOST_BYTES)
        record = reader.console("standard input", data)
    else:
        with live.observer(quiet=True) as observer:
            record = reader.triage(path, kernel, lambda what: observer.phase("triage", what))
    if as_json:
        report.print_triage_json(record)
    else:
        report.print_triage(record)
    return 0 if record.found else _NOT_FOUND
