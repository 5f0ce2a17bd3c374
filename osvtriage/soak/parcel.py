"""What a worker on another machine needs for the trials of a soak, by content.

The files of an image are known by their sums. A worker keeps them in its cache and asks for those
that it lacks, so that they travel once to each machine. A recipe of the user's own is small and
goes along with every trial.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from osvtriage.images import payload
from osvtriage.images.atomic import new_directory, sweep
from osvtriage.images.places import cache_directory
from osvtriage.images.record import Image, file_sha256
from osvtriage.model.errors import ImageError, UsageError
from osvtriage.recipe.shipped import payloads_directory
from osvtriage.soak.worker import Job
from osvtriage.trial import library

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Parcel:
    """A job without its files. ``job`` has the paths of the machine that sends it.

    ``sums`` has the sum of every file of the image, by its path there; ``recipe`` the recipe's own
    files by their names, the recipe first, and is empty where it is a shipped one. ``code`` is the
    sum of the sender's osvtriage.
    """

    job: Job
    sums: Mapping[str, str]
    recipe: Mapping[str, bytes]
    code: str

    @property
    def name(self) -> str:
        """Tells this parcel from any other."""
        parts = (self.job.plan, sorted(self.sums.values()), sorted(self.recipe.items()), self.code)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def pack(job: Job) -> Parcel:
    """The parcel of *job*."""
    files = _recipe_files(job) if job.recipe.endswith(".toml") else {}
    sums = {str(path): file_sha256(path) for path in _files(job.image)}
    return Parcel(job, sums, files, code_sum())


def missing(parcel: Parcel) -> list[str]:
    """The paths, on the sender's machine, of the files that this machine lacks."""
    return [path for path, sum_ in parcel.sums.items() if not _kept(path, sum_).is_file()]


def receive(path: str, sum_: str, pieces: Callable[[], Iterator[bytes]]) -> None:
    """Keep the file that the sender has at *path*.

    Raises:
        ImageError: what came is not what was announced.
    """
    kept = _kept(path, sum_)
    sweep(kept.parent.parent)
    with new_directory(kept.parent) as directory:
        with (directory / kept.name).open("wb") as file:
            for piece in pieces():
                file.write(piece)
        if file_sha256(directory / kept.name) != sum_:
            raise ImageError(f"{path} came to this machine damaged", "run it again")


def unpack(parcel: Parcel) -> Job:
    """The job with the paths of this machine, which has all files.

    Raises:
        UsageError: this machine has another osvtriage.
    """
    if parcel.code != code_sum():
        raise UsageError(
            f"{os.uname().nodename} has another osvtriage than the machine that soaks",
            "trials of two programs have no common rate: install the same on all machines",
        )

    def here(path: Path | None) -> Path | None:
        return None if path is None else _kept(str(path), parcel.sums[str(path)])

    image, plan = parcel.job.image, parcel.job.plan
    kernel = here(image.kernel)
    assert kernel is not None
    image = replace(
        image,
        kernel=kernel,
        symbols=here(image.symbols),
        busybox=here(image.busybox),
        modules=tuple(kept for path in image.modules if (kept := here(path))),
        disks=tuple(replace(disk, path=here(disk.path) or disk.path) for disk in image.disks),
    )
    plan = replace(plan, kernel=None, qemu=None)
    recipe = parcel.job.recipe
    if parcel.recipe:
        directory = cache_directory() / "recipes" / parcel.name
        if not directory.is_dir():
            sweep(directory.parent)
            with new_directory(directory) as made:
                for name, content in parcel.recipe.items():
                    (made / name).write_bytes(content)
        recipe = str(directory / next(iter(parcel.recipe)))
    return Job(plan, recipe, image)


@cache
def code_sum() -> str:
    """One sum over this osvtriage and the workloads that come with it."""
    digest = hashlib.sha256()
    for base, pattern in ((_PACKAGE, "**/*.py"), (payloads_directory(), "*")):
        for path in sorted(base.glob(pattern)):
            digest.update(f"{path.relative_to(base)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _files(image: Image) -> list[Path]:
    paths = [image.kernel, image.symbols, image.busybox, *image.modules]
    return list(dict.fromkeys(path for path in (*paths, *_disks(image)) if path is not None))


def _disks(image: Image) -> list[Path]:
    return [disk.path for disk in image.disks]


def _kept(path: str, sum_: str) -> Path:
    # Under its own name: modules are loaded in the order of theirs.
    return cache_directory() / "by-sum" / sum_ / Path(path).name


def _recipe_files(job: Job) -> dict[str, bytes]:
    """The recipe's file and, where its payload is one of the user's, that with its headers.

    Raises:
        UsageError: the payload is not beside the recipe.
    """
    path = library.find(job.recipe)
    files = {path.name: path.read_bytes()}
    name = library.load(job.recipe).workload.payload
    if name is not None and name.endswith(".c"):
        source = payload.payload_source(name, path.parent)
        if source.parent != path.parent:
            raise UsageError(
                f"the payload {source} does not lie beside its recipe",
                "put it there: only so do both reach the machines of a cluster",
            )
        for file in (source, *sorted(source.parent.glob("*.h"))):
            files[file.name] = file.read_bytes()
    return files
