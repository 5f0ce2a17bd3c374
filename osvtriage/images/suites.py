"""Debian's suites on the mirror: one is opened for reading, and what is there where it is not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from osvtriage.arch import Arch
from osvtriage.images.debian import Archive, SuiteGone
from osvtriage.images.lock import locked
from osvtriage.images.names import shipped_names
from osvtriage.images.places import cache_directory
from osvtriage.images.progress import Progress, silent
from osvtriage.model.errors import ImageError
from osvtriage.recipe.image import ImageManifest
from osvtriage.recipe.shipped import images_directory
from osvtriage.recipe.tomlfile import load


@contextlib.contextmanager
def opened(suite: str, arch: Arch, progress: Progress) -> Iterator[Archive]:
    """The packages of *suite* for *arch*, with the list of today. Other processes wait meanwhile.

    Raises:
        SuiteGone: the mirror does not have the suite; the message says which it has.
    """
    name = f"{suite}-{arch.debian}"
    lock = cache_directory() / "locks" / f"apt-{name}.lock"
    with locked(lock, f"fetching packages of Debian {suite}", progress):
        archive = _archive(suite, arch, progress)
        try:
            archive.update()
        except SuiteGone as error:
            progress("looking which suites the mirror has")
            there = [other for other in known_suites(arch) if other != suite and _has(other, arch)]
            raise SuiteGone(f"{error}\n{_told(there)}", error.hint) from error
        yield archive


def known_suites(arch: Arch) -> list[str]:
    """The suites that shipped images for *arch* are made of."""
    manifests = (
        load(images_directory() / f"{name}.toml", ImageManifest) for name in shipped_names()
    )
    return sorted({m.debian.suite for m in manifests if m.arch == arch.name})


def _archive(suite: str, arch: Arch, progress: Progress) -> Archive:
    root = cache_directory() / "apt" / f"{suite}-{arch.debian}"
    return Archive(suite, arch.debian, root, progress)


def _has(suite: str, arch: Arch) -> bool:
    try:
        _archive(suite, arch, silent).update()
    except ImageError:
        return False
    return True


def _told(suites: Iterable[str]) -> str:
    names = ", ".join(suites)
    return f"of the suites that osvtriage has images of, the mirror has: {names or 'none'}"
