"""``osvtriage images``: the guests' kernels and userlands on this machine."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from osvtriage.cli.options import complete_image, json_option
from osvtriage.report.printable import one_line

# The work's own modules bring pydantic: they are imported in the commands, so that `--help` and
# shell completion answer at once.
if TYPE_CHECKING:
    from osvtriage.images.record import Image
    from osvtriage.images.store import ImageSummary


_name = click.argument("name", shell_complete=complete_image)
_FILE = click.Path(path_type=Path)

_SYSTEMS = {"linux": "Linux", "osv": "OSv"}


@click.group()
def images() -> None:
    """Make, add and check the images that guests boot from.

    An image is a kernel and a userland. Those that come with osvtriage are made of Debian's
    packages, on first use or with `images build`; `images add` takes a Linux kernel of your own, or
    an OSv.
    """


@images.command("list")
@json_option
def list_images(as_json: bool) -> None:
    """List all images, made or not.

    \b
    Examples:
      osvtriage images list
      osvtriage images list --json | jq -r '.images[] | select(.state=="ready").name'
    """
    from osvtriage.images.store import ImageStore

    found = ImageStore().list()
    if as_json:
        _print_json("osvtriage.images/1", images=[image.to_json() for image in found])
        return
    rows = [("NAME", "STATE", "ARCH", "KERNEL", "SIZE", "TITLE")]
    rows += [
        (i.name, i.state, i.arch, i.kernel_version or "-", _size(i.size), i.title) for i in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@images.command()
@_name
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what the image NAME is made of and where its files are.

    \b
    Example:
      osvtriage images show debian-bookworm-ppc64le
    """
    from osvtriage.images.store import ImageStore, NotBuilt

    store = ImageStore()
    summary = store.summary(name)
    image = None
    with contextlib.suppress(NotBuilt):
        image = store.get(name)
    _print_image(summary, image, as_json)


@images.command()
@_name
@click.option("--update", is_flag=True, help="Make it again if Debian has newer packages.")
@json_option
def build(name: str, update: bool, as_json: bool) -> None:
    """Make the image NAME from Debian's packages, where that is still to be done.

    The packages come from the mirror that this machine's apt uses, with their signatures checked;
    neither root nor a change of apt's configuration is needed.

    \b
    Examples:
      osvtriage images build debian-bookworm-ppc64le
      osvtriage images build debian-sid-ppc64le --update
    """
    from osvtriage.images.store import ImageStore

    store = ImageStore()
    with _progress() as progress:
        image = store.build(name, update=update, progress=progress)
    _print_image(store.summary(name), image, as_json)


@images.command()
@click.argument("name")
@click.option(
    "--system",
    type=click.Choice(["linux", "osv"]),
    default="linux",
    show_default=True,
    help="The operating system.",
)
@click.option("--arch", help="The processor, such as ppc64le; OSv is for x86_64 anyway.")
@click.option(
    "--kernel",
    required=True,
    type=_FILE,
    help="Linux: vmlinux, not stripped, or for x86_64 vmlinuz. OSv: loader.elf, "
    "loader-stripped.elf, or a disk that boots (loader.img, usr.img).",
)
@click.option("--symbols", type=_FILE, help="OSv: loader.elf, where the kernel has no symbols.")
@click.option("--disk", type=_FILE, help="OSv: a further disk, such as usr.img.")
@click.option(
    "--append",
    metavar="LINE",
    help="The kernel's command line. Linux: in place of the default image's. OSv: its options and "
    "the application; a disk holds one already.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=64),
    metavar="MIB",
    help="Memory of the guest; for OSv 512 unless given.",
)
@json_option
def add(
    name: str,
    system: str,
    arch: str | None,
    kernel: Path,
    symbols: Path | None,
    disk: Path | None,
    append: str | None,
    memory: int | None,
    as_json: bool,
) -> None:
    """Copy a kernel of your own, and call it the image NAME.

    The userland of a Linux is that of the default image of the processor. An OSv has its
    application in itself, or on its disk; guests never write to either.

    \b
    Examples:
      osvtriage images add mainline --arch ppc64le --kernel ~/linux/vmlinux
      cd ~/osv/build/release.x64
      osvtriage images add hello --system osv --kernel loader-stripped.elf \\
          --symbols loader.elf --disk usr.img --append '--rootfs=rofs /hello'
      osvtriage images add hello-disk --system osv --kernel usr.img --symbols loader.elf
    """
    from osvtriage.images.store import ImageStore

    with _progress() as progress:
        summary = ImageStore().add(
            name, system, arch, kernel, append, memory, symbols, disk, progress
        )
    _print_image(summary, None, as_json)


@images.command()
@_name
def remove(name: str) -> None:
    """Remove the files of the image NAME.

    An image that comes with osvtriage stays in the list and can be built again; a kernel that was
    added is gone.
    """
    from osvtriage.images.store import ImageStore

    ImageStore().remove(name)


@images.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_image)
@json_option
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Read the files of the images again and compare their SHA-256 sums with the recorded ones.

    Without NAME, all images whose files are on this machine.

    \b
    Example:
      osvtriage images verify
    """
    from osvtriage.images.store import ImageStore
    from osvtriage.model.errors import ImageError

    store = ImageStore()
    wanted = names or [image.name for image in store.list() if image.state != "not built"]
    problems = {}
    with _progress() as progress:
        for name in wanted:
            progress(f"reading {name}")
            problems[name] = store.verify(name)
    if as_json:
        results = [{"name": name, "problems": found} for name, found in problems.items()]
        _print_json("osvtriage.images-verify/1", images=results)
    else:
        for name, found in problems.items():
            click.echo(f"{name}: {'; '.join(found) or 'whole'}")
    if damaged := [name for name, found in problems.items() if found]:
        raise ImageError(
            f"damaged: {', '.join(damaged)}",
            hint="`osvtriage images build NAME` makes one again; remove and add a kernel of yours",
        )


def _print_image(summary: ImageSummary, image: Image | None, as_json: bool) -> None:
    if as_json:
        details = image.to_json() if image else {}
        _print_json("osvtriage.image-details/1", **summary.to_json(), **_without(details, summary))
        return
    lines = {
        "name": summary.name,
        "title": summary.title,
        "state": summary.state,
        "system": f"{summary.system} on {summary.arch}",
    }
    if summary.kernel_version:
        lines["kernel"] = f"{_SYSTEMS[summary.system]} {summary.kernel_version}"
        lines["made"] = f"{summary.built} ({_size(summary.size)})"
    if image is not None:
        lines["files"] = "\n".join(str(path) for path in (image.kernel, image.busybox) if path)
        if image.symbols != image.kernel:
            lines["symbols"] = str(image.symbols)
        lines["disks"] = "\n".join(f"{disk.path} ({disk.format})" for disk in image.disks)
        lines["sha256"] = image.kernel_sha256
        lines["memory"] = f"{image.memory} MiB"
        # It may have been read from a disk that somebody else made.
        lines["append"] = one_line(image.append)
        lines["packages"] = "\n".join(f"{p.name} {p.version}" for p in image.packages)
    for key, value in lines.items():
        for number, line in enumerate(value.splitlines()):
            click.echo(f"{key if not number else '':10}{line}")


def _without(details: dict[str, Any], summary: ImageSummary) -> dict[str, Any]:
    known = summary.to_json()
    return {key: value for key, value in details.items() if key not in known}


def _print_json(schema: str, **fields: Any) -> None:
    click.echo(json.dumps({"schema": schema, **fields}, indent=2))


def _size(number: int) -> str:
    return f"{number / 1e6:.0f} MB" if number else "-"


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Progress on standard error: one changing line on a terminal, a line each elsewhere."""
    if not sys.stderr.isatty():
        yield lambda message: click.echo(message, err=True)
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("starting") as status:
        yield lambda message: status.update(escape(message))
