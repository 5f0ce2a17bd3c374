"""``osvtriage audit``: many kernel functions at once, watched for a kind of damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from osvtriage.cli.options import complete_image, json_option


@click.group()
def audit() -> None:
    """Watch many kernel functions at once for a kind of damage that no recipe names yet."""


@audit.command()
@click.option(
    "--functions",
    metavar="GLOB",
    help="The functions to watch; by default all that have an instruction which can change a "
    "floating-point or vector register.",
)
@click.option(
    "--variant",
    default="as-is",
    show_default=True,
    metavar="V",
    help="A variant of the recipe ppc64le-save-fpu, whose workload runs: its patch and arguments.",
)
@click.option(
    "--image",
    metavar="NAME",
    shell_complete=complete_image,
    help="The image to boot; debian-bookworm-ppc64le by default.",
)
@click.option(
    "--kernel",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A kernel of your own, an ELF file with symbols, in place of the image's.",
)
@click.option(
    "--smp",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    metavar="N",
    help="The number of vCPUs.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Seconds that the guest may run in all.",
)
@click.option(
    "--qemu",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PATH",
    help="Another build of QEMU: it needs plugins, version 10 or later.",
)
@json_option
def fpu(functions: str | None, as_json: bool, **chosen: Any) -> int:
    """Find kernel functions that lose the user's floating-point and vector registers.

    Every passage is compared at the function's entry and its return, by QEMU's plugin: the guest is
    not stopped. What differs while the user's registers are live is ranked. Functions whose purpose
    is to change them are left out; the list of them names its sources.

    \b
    Exit status:
      0 no function outside the list loses registers   1 one does   128 error   129 usage

    \b
    Examples:
      osvtriage audit fpu
      osvtriage audit fpu --image debian-trixie-ppc64le --smp 2 --json
      osvtriage audit fpu --variant fp-fix-reverted
      osvtriage audit fpu --kernel ~/linux/vmlinux --functions '*giveup*'
    """
    from osvtriage.report import fpu_audit as report
    from osvtriage.report import live
    from osvtriage.trial.fpu_audit import audit as run_audit
    from osvtriage.trial.fpu_audit import audit_request

    with live.observer(quiet=as_json) as observer:
        request = audit_request(progress=lambda message: observer.phase("image", message), **chosen)
        found = run_audit(request, functions, observer)
    (report.print_json if as_json else report.print_audit)(found)
    return 1 if found.losses else 0
