"""Making an image from its manifest: from Debian's packages to a directory of files.

Results lie in the cache, one directory each, named after the kernel and the packages' sums;
``current`` points at the newest::

    images/NAME/current -> VERSION-SUM
    images/NAME/VERSION-SUM/   vmlinux, busybox, image.json
"""

from __future__ import annotations

import datetime
import hashlib
import tempfile
from pathlib import Path

from osvtriage.arch import ARCHES
from osvtriage.images.atomic import (
    PREFIX,
    discard,
    explained,
    new_directory,
    replace_symlink,
    sweep,
)
from osvtriage.images.debian import BUSYBOX_FILE, Archive
from osvtriage.images.kernel import check_kernel
from osvtriage.images.places import cache_directory
from osvtriage.images.progress import Progress
from osvtriage.images.record import KERNEL, Record, Stamp, damage
from osvtriage.model.errors import ImageError
from osvtriage.recipe.image import ImageManifest

BUSYBOX = "busybox"
_CURRENT = "current"


def results_directory(name: str) -> Path:
    """The directory of all results for the image *name*."""
    return cache_directory() / "images" / name


def lock_file(name: str) -> Path:
    """The lock that is held while the image *name* changes."""
    return cache_directory() / "locks" / f"image-{name}.lock"


def current_result(name: str) -> Path | None:
    """The directory of the newest result, or None where the image was never built."""
    link = results_directory(name) / _CURRENT
    try:
        return link.parent / link.readlink()
    except OSError:
        return None


def build_image(manifest: ImageManifest, progress: Progress) -> None:
    """Make the newest result that Debian's packages give the current one. The lock is the caller's.

    Nothing is done where the current one is whole and made of the newest packages.
    """
    arch = ARCHES[manifest.arch]
    results = results_directory(manifest.name)
    sweep(results)
    root = cache_directory() / "apt" / f"{manifest.debian.suite}-{arch.debian}"
    archive = Archive(manifest.debian.suite, arch.debian, root, progress)
    archive.update()
    busybox = archive.newest(manifest.debian.busybox)
    kernel = archive.newest(manifest.debian.kernel)
    wanted = {kernel.name: kernel.sha256, busybox.name: busybox.sha256}
    if _is_made_of(manifest.name, wanted):
        progress(f"{manifest.name} is made of the newest packages already")
        return
    key = hashlib.sha256(repr(sorted(wanted.items())).encode()).hexdigest()[:12]
    # A version's colon (an epoch) would be a nuisance in a path.
    result = results / f"{kernel.version.replace(':', '_')}-{key}"
    before = current_result(manifest.name)
    with (
        new_directory(result) as made,
        tempfile.TemporaryDirectory(prefix=f"{PREFIX}deb-", dir=made) as scratch,
    ):
        holder = archive.fetch_kernel(kernel.name, made / KERNEL, Path(scratch))
        if not archive.fetch_file(busybox, BUSYBOX_FILE, made / BUSYBOX, Path(scratch)):
            raise ImageError(
                f"the package {busybox.name} {busybox.version} of Debian {manifest.debian.suite} "
                "holds no bin/busybox"
            )
        progress("checking the kernel")
        checked = check_kernel(made / KERNEL, arch)
        Record(
            system=manifest.system,
            arch=manifest.arch,
            memory=manifest.memory,
            append=manifest.append,
            kernel_version=checked.version,
            origin="debian",
            built=timestamp(),
            packages=(holder.package, busybox.package),
            wanted=wanted,
            files={
                KERNEL: Stamp.of(made / KERNEL, checked.sha256),
                BUSYBOX: Stamp.of(made / BUSYBOX),
            },
        ).write(made)
    with explained(results):
        replace_symlink(results / _CURRENT, result.name)
        _drop_old(results, keep={result, before})
    progress(f"built {manifest.name}: Linux {checked.version}")


def timestamp() -> str:
    """Now, in UTC, as ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _is_made_of(name: str, wanted: dict[str, str]) -> bool:
    if (directory := current_result(name)) is None:
        return False
    try:
        record = Record.read(directory)
    except (OSError, ValueError):
        return False
    return record.wanted == wanted and not damage(directory, record)


def _drop_old(results: Path, keep: set[Path | None]) -> None:
    # The result that was current until now stays: a run that has just looked it up may not have
    # started its guest yet.
    for path in results.iterdir():
        if path not in keep and not path.is_symlink() and not path.name.startswith(PREFIX):
            discard(path)
