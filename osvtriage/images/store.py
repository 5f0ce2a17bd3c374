"""The images of this machine: those of the shipped manifests, and kernels that the user added.

An image with a manifest is made in the cache (see :mod:`osvtriage.images.build`). A kernel that was
added lies in the data directory, in ``images/NAME/``. A Linux one borrows busybox from the image of
its processor that is marked ``default``; OSv has its application in itself or on a disk, and a
Linux disk its whole userland.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from osvtriage.arch import ARCHES
from osvtriage.images import addition, osv
from osvtriage.images.atomic import discard, new_directory, sweep
from osvtriage.images.build import (
    BUSYBOX,
    build_image,
    current_result,
    lock_file,
    results_directory,
)
from osvtriage.images.initramfs import MODULES, make_initramfs
from osvtriage.images.kernel import check_kernel
from osvtriage.images.lock import locked
from osvtriage.images.names import added_names, image_names, shipped_names
from osvtriage.images.places import cache_directory, data_directory
from osvtriage.images.progress import Progress, silent
from osvtriage.images.record import Disk, Image, Origin, Record, damage, renewed
from osvtriage.model.errors import ImageError, UsageError
from osvtriage.recipe.image import IMAGE_NAME, IMAGE_NAME_LENGTH, ImageManifest
from osvtriage.recipe.shipped import images_directory
from osvtriage.recipe.tomlfile import load

State = Literal["ready", "not built", "damaged"]


class NotBuilt(ImageError):
    """The image's manifest is there, its files are not."""


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """One line of ``osvtriage images list``. ``size`` is what its files take here, in bytes."""

    name: str
    title: str
    system: str
    arch: str
    origin: Origin
    state: State
    default: bool
    kernel_version: str | None
    built: str | None
    size: int

    def to_json(self) -> dict[str, Any]:
        """The summary as ``images list --json`` prints it."""
        return asdict(self)


class ImageStore:
    """Finds, makes, adds and checks images. Nothing is read before it is asked for."""

    def list(self) -> list[ImageSummary]:
        """Every image there is, built or not: those with manifests first, each kind by name."""
        return [self.summary(name) for name in (*shipped_names(), *added_names())]

    def summary(self, name: str) -> ImageSummary:
        """One line on the image *name*, whatever state it is in."""
        manifest = None if name in added_names() else _manifest(name)
        record: Record | None = None
        state: State
        try:
            directory, record = _record(name)
            state = "damaged" if damage(directory, record) else "ready"
        except NotBuilt:
            state = "not built"
        except ImageError:
            state = "damaged"
        about = manifest or record
        return ImageSummary(
            name=name,
            title=manifest.title if manifest else f"{_what(record)} that was added",
            system=about.system if about else "linux",
            arch=about.arch if about else "unknown",
            origin="debian" if manifest else "user",
            state=state,
            default=bool(manifest and manifest.default),
            kernel_version=record.kernel_version if record else None,
            built=record.built if record else None,
            size=sum(stamp.size for stamp in record.files.values()) if record else 0,
        )

    def get(self, name: str) -> Image:
        """The image *name*.

        Raises:
            UsageError: there is none of that name.
            NotBuilt: its files, or those that it borrows, are still to be made.
            ImageError: its files were changed or lost.
        """
        directory, record = _sound_record(name)
        busybox, busybox_sha256 = None, None
        if record.system == "linux" and not record.boots_itself:
            lender_directory, lender = directory, record
            if BUSYBOX not in record.files:
                lender_directory, lender = _sound_record(_userland(record.arch).name)
            busybox = lender_directory / BUSYBOX
            busybox_sha256 = lender.files[BUSYBOX].sha256
        return Image(
            name=name,
            system=record.system,
            arch=record.arch,
            kernel=directory / record.kernel,
            kernel_format=record.kernel_format,
            symbols=directory / record.symbols if record.symbols else None,
            disks=tuple(
                Disk(directory / file, format_, record.files[file].sha256)
                for file, format_ in record.disks.items()
            ),
            busybox=busybox,
            modules=tuple(directory / module for module in record.modules),
            memory=record.memory,
            append=record.append,
            kernel_version=record.kernel_version,
            kernel_sha256=record.files[record.kernel].sha256,
            symbols_sha256=record.files[record.symbols].sha256 if record.symbols else None,
            busybox_sha256=busybox_sha256,
            packages=record.packages,
            origin=record.origin,
            built=record.built,
            glibc_suite=None if name in added_names() else _manifest(name).glibc_suite,
        )

    def ensure(self, name: str, progress: Progress = silent) -> Image:
        """The image *name*, with what it needs made first where that is still to be done.

        A damaged image is not made again unasked: how it was damaged may be worth a look.
        """
        try:
            return self.get(name)
        except NotBuilt:
            if name in added_names():
                self.build(_userland(_record(name)[1].arch).name, progress=progress)
                return self.get(name)
            return self.build(name, progress=progress)

    def build(self, name: str, *, update: bool = False, progress: Progress = silent) -> Image:
        """Make the image *name* from its manifest, where it is not built or is damaged.

        With *update*, also where the archive has newer packages.
        """
        if name in added_names():
            raise UsageError(
                f"{name} was added: there is nothing to build it from",
                hint=f"to replace it, `osvtriage images remove {name}`, then `images add`",
            )
        manifest = _manifest(name)
        with locked(lock_file(name), f"building {name}", progress):
            if not update:
                with contextlib.suppress(ImageError):
                    return self.get(name)
            build_image(manifest, progress)
        return self.get(name)

    def add(
        self,
        name: str,
        system: str,
        arch: str | None,
        kernel: Path | None,
        append: str | None = None,
        memory: int | None = None,
        symbols: Path | None = None,
        disk: Path | None = None,
        progress: Progress = silent,
    ) -> ImageSummary:
        """Copy a kernel of the user's own into the data directory, as the image *name*.

        *memory* is in MiB. For Linux, it and *append* are the default image's of that processor,
        unless given, and the busybox that the image borrows need not be there yet: :meth:`ensure`
        sees to that. A Linux without *kernel* is a *disk* that boots by itself, see
        :func:`osvtriage.images.addition.of_linux_disk`; for OSv, see
        :func:`osvtriage.images.addition.of_osv`.

        Raises:
            UsageError: the name is taken or none, or the arguments do not go together.
            ImageError: a file is not what it should be.
        """
        _check_new_name(name)
        progress(f"checking {kernel or disk or symbols}")
        if system == "osv":
            if kernel is None:
                raise UsageError("an OSv needs --kernel: its loader.elf, or a disk that boots")
            if arch not in (None, osv.ARCH.name):
                raise UsageError(
                    f"images of osv are for {osv.ARCH.name}, not for {arch!r}",
                    hint="leave --arch out",
                )
            new = addition.of_osv(kernel, symbols, disk, append, memory)
        elif kernel is None:
            new = addition.of_linux_disk(disk, symbols, _arch(arch), append, memory, progress)
        else:
            userland = _linux_userland(system, arch, symbols, disk)
            new = addition.of_linux(kernel, userland, append, memory, progress)
        target = _added_directory(name)
        with locked(target.parent / ".lock", f"adding {name}", silent):
            _check_new_name(name)
            sweep(target.parent)
            with new_directory(target) as scratch:
                new.write(scratch, progress)
        return self.summary(name)

    def with_kernel(self, image: Image, kernel: Path, progress: Progress = silent) -> Image:
        """*image* with another kernel file, which is checked, not copied."""
        kernel = kernel.absolute()
        if image.boots_itself:
            raise ImageError(
                f"the kernel of the image {image.name} is inside a disk and cannot be replaced",
                hint="add the other kernel as an image of its own: `osvtriage images add --help`",
            )
        if image.system == "osv":
            return osv.with_kernel(image, kernel)
        linux = check_kernel(kernel, ARCHES[image.arch], progress)
        return replace(
            image,
            kernel=kernel,
            kernel_format=linux.format,
            symbols=linux.symbols,
            kernel_version=linux.version,
            kernel_sha256=linux.sha256,
            symbols_sha256=linux.symbols_sha256,
            # A module fits its own kernel alone.
            modules=(),
            packages=(),
            origin="user",
        )

    def remove(self, name: str) -> None:
        """Remove the image's files. One that has a manifest can be built again."""
        if name in added_names():
            directory, lock = _added_directory(name), _added_directory(name).parent / ".lock"
        else:
            _manifest(name)
            directory, lock = results_directory(name), lock_file(name)
        with locked(lock, f"removing {name}", silent):
            if not directory.is_dir():
                raise _not_built(name)
            discard(directory)

    def verify(self, name: str) -> tuple[str, ...]:
        """Read every file of the image again; what is wrong, one sentence each."""
        try:
            directory, record = _record(name)
        except (NotBuilt, UsageError):
            raise
        except ImageError as error:
            return (str(error),)
        return tuple(damage(directory, record, thorough=True))


def initrd(
    image: Image, payload: Path | None, more_files: Mapping[str, Path] | None = None
) -> Path:
    """The initramfs with *image*'s userland and *payload*, from the cache where it was made.

    Args:
        more_files: files by their absolute paths in the guest, such as a program's libraries.

    Raises:
        ImageError: *image* has its userland in itself.
    """
    if image.busybox is None:
        raise ImageError(f"{image.name} has its userland in itself, and takes no initramfs")
    modules = {f"{MODULES}/{number}-{path.name}": path for number, path in enumerate(image.modules)}
    return make_initramfs(image.busybox, payload, {**modules, **(more_files or {})})


def sweep_leftovers() -> None:
    """Remove what was being made when its maker was killed, wherever images, programs and kernels
    are made."""
    cache = cache_directory()
    for directory in (*cache.glob("*/"), *cache.glob("images/*/"), data_directory() / "images"):
        sweep(directory)


def _manifest(name: str) -> ImageManifest:
    if name not in shipped_names():
        near = difflib.get_close_matches(name, image_names(), 1)
        raise UsageError(
            f"there is no image {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            hint="`osvtriage images list` shows the images there are",
        )
    path = images_directory() / f"{name}.toml"
    manifest = load(path, ImageManifest)
    if manifest.name != name:
        raise ImageError(f"{path} says that its name is {manifest.name!r}; the two must agree")
    return manifest


def _userland(arch: str) -> ImageManifest:
    """The manifest of the image that lends its busybox to added kernels of *arch*."""
    manifests = [_manifest(name) for name in shipped_names()]
    if arch not in ARCHES:
        known = ", ".join(sorted({manifest.arch for manifest in manifests}))
        raise UsageError(f"there is no processor {arch!r}", hint=f"the processors are: {known}")
    for manifest in manifests:
        if manifest.default and manifest.arch == arch:
            return manifest
    raise UsageError(
        f"no image for {arch} is marked `default = true`, so none lends its userland to a kernel",
        hint=f"mark one in {images_directory()}",
    )


def _linux_userland(
    system: str, arch: str | None, symbols: Path | None, disk: Path | None
) -> ImageManifest:
    """The userland for a kernel that is added, where the other arguments are those of a Linux."""
    if symbols or disk:
        raise UsageError(
            "--symbols and --disk do not go with a Linux --kernel: it is given with its symbols, "
            "and its disk is the initramfs",
            hint="leave them out; or leave --kernel out, where the disk boots by itself",
        )
    userland = _userland(_arch(arch))
    if system != userland.system:
        raise UsageError(f"there is no userland for {system} on {arch}")
    return userland


def _arch(arch: str | None) -> str:
    if arch is None:
        raise UsageError(
            "the processor that the kernel is for is missing", hint="give --arch, such as ppc64le"
        )
    return arch


def _what(record: Record | None) -> str:
    """What the user added, in two words."""
    if record is None or record.system == "linux":
        return "a disk" if record and record.boots_itself else "a kernel"
    return "an OSv"


def _added_directory(name: str) -> Path:
    return data_directory() / "images" / name


def _not_built(name: str) -> NotBuilt:
    return NotBuilt(f"the image {name} is not built", hint=f"run `osvtriage images build {name}`")


def _record(name: str) -> tuple[Path, Record]:
    """Where the image's files are, and their record."""
    added = name in added_names()
    if not added:
        _check_known(name)
    directory = _added_directory(name) if added else current_result(name)
    if directory is None:
        raise _not_built(name)
    try:
        return directory, Record.read(directory)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"the image {name} is damaged: its record cannot be read: {error}",
            hint=_make_again(name, added),
        ) from error


def _sound_record(name: str) -> tuple[Path, Record]:
    directory, record = _record(name)
    if problems := damage(directory, record):
        raise ImageError(
            f"the image {name} is damaged: {'; '.join(problems)}",
            hint=_make_again(name, record.origin == "user"),
        )
    return directory, renewed(directory, record)


def _make_again(name: str, added: bool) -> str:
    if added:
        return f"remove it with `osvtriage images remove {name}` and add it again"
    return f"make it again with `osvtriage images build {name}`"


def _check_known(name: str) -> None:
    if name not in shipped_names():
        _manifest(name)


def _check_new_name(name: str) -> None:
    if not re.fullmatch(IMAGE_NAME, name) or len(name) > IMAGE_NAME_LENGTH:
        raise UsageError(
            f"{name!r} cannot be the name of an image",
            hint=f"use at most {IMAGE_NAME_LENGTH} of a-z, 0-9, '.', '_', '+' and '-', "
            "with a letter or a digit first",
        )
    if name in shipped_names():
        raise UsageError(f"{name!r} is the name of an image with a manifest; choose another")
    if name in added_names():
        raise UsageError(
            f"there is an image {name!r} already",
            hint=f"choose another name, or `osvtriage images remove {name}` first",
        )
