"""Making an image from its manifest: from Debian's packages to a directory of files.

Results lie in the cache, see :mod:`osvtriage.images.results`::

    images/NAME/VERSION-SUM/   vmlinux, busybox, image.json
    images/NAME/VERSION-SUM/   vmlinuz, vmlinux, busybox, image.json

the second where Debian's kernel is a bzImage: ``vmlinux`` then holds its symbols.
"""

from __future__ import annotations

import datetime
import lzma
import re
import tempfile
from pathlib import Path

from osvtriage.arch import ARCHES
from osvtriage.images import glibc, sparse, suites
from osvtriage.images.atomic import PREFIX, new_directory, sweep
from osvtriage.images.debian import BUSYBOX_FILE, MODULE_FILE, Archive, Candidate
from osvtriage.images.kernel import check_kernel
from osvtriage.images.places import cache_directory
from osvtriage.images.progress import Progress
from osvtriage.images.record import Record, Stamp, damage
from osvtriage.images.results import Results
from osvtriage.model.errors import ImageError
from osvtriage.recipe.image import ImageManifest

BUSYBOX = "busybox"

_XZ = b"\xfd7zXZ\0"


def results_directory(name: str) -> Path:
    """The directory of all results for the image *name*."""
    return cache_directory() / "images" / name


def current_result(name: str) -> Path | None:
    """The directory of the newest result, or None where the image was never built."""
    return Results(results_directory(name)).current


def lock_file(name: str) -> Path:
    """The lock that is held while the image *name* changes."""
    return cache_directory() / "locks" / f"image-{name}.lock"


def build_image(manifest: ImageManifest, progress: Progress) -> None:
    """Make the newest result that Debian's packages give the current one. The lock is the caller's.

    Nothing is done where the current one is whole and made of the newest packages.
    """
    arch = ARCHES[manifest.arch]
    results = Results(results_directory(manifest.name))
    sweep(results.directory)
    with suites.opened(manifest.debian.suite, arch, progress) as archive:
        if manifest.debian.glibc:
            glibc.make(archive, arch, progress)
        busybox = archive.newest(manifest.debian.busybox)
        kernel = archive.newest(manifest.debian.kernel)
        wanted = {kernel.name: kernel.sha256, busybox.name: busybox.sha256}
        if _is_made_of(manifest.name, wanted):
            progress(f"{manifest.name} is made of the newest packages already")
            return
        result = results.place(kernel.version, wanted)
        with new_directory(result) as made:
            record = _make(manifest, archive, kernel, busybox, made, progress)
            record.write(made)
        results.publish(result)
    progress(f"built {manifest.name}: Linux {record.kernel_version}")


def _make(
    manifest: ImageManifest,
    archive: Archive,
    kernel: Candidate,
    busybox: Candidate,
    made: Path,
    progress: Progress,
) -> Record:
    """Put the files of the packages *kernel* and *busybox* into the directory *made*."""
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}deb-", dir=made) as directory:
        scratch = Path(directory)
        holder = archive.fetch_kernel(kernel.name, scratch / "kernel", scratch)
        if not archive.fetch_file(busybox, BUSYBOX_FILE, made / BUSYBOX, scratch):
            raise ImageError(
                f"the package {busybox.name} {busybox.version} of Debian {archive.suite} "
                "holds no bin/busybox"
            )
        progress("checking the kernel")
        linux = check_kernel(scratch / "kernel", ARCHES[manifest.arch], progress)
        for file, path in linux.files.items():
            sparse.copy(path, made / file)
        modules = [f"{name}.ko" for name in manifest.debian.modules]
        for name, file in zip(manifest.debian.modules, modules, strict=True):
            _fetch_module(archive, holder, name, made / file, scratch)
    return Record(
        system=manifest.system,
        arch=manifest.arch,
        memory=manifest.memory,
        append=manifest.append,
        kernel_version=linux.version,
        origin="debian",
        built=timestamp(),
        packages=(holder.package, busybox.package),
        wanted={kernel.name: kernel.sha256, busybox.name: busybox.sha256},
        files={file: Stamp.of(made / file) for file in (*linux.files, BUSYBOX, *modules)},
        kernel=linux.name,
        kernel_format=linux.format,
        modules=tuple(modules),
    )


def _fetch_module(
    archive: Archive, package: Candidate, name: str, destination: Path, scratch: Path
) -> None:
    """Write the kernel's module *name* to *destination*, as what ``insmod`` of any kernel takes."""
    wanted = re.compile(MODULE_FILE % re.escape(name))
    if not archive.fetch_file(package, wanted, destination, scratch):
        raise ImageError(f"the package {package.name} {package.version} has no module {name}")
    data = destination.read_bytes()
    if data.startswith(_XZ):
        destination.write_bytes(lzma.decompress(data))


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
