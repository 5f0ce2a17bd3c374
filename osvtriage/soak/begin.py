"""From names to a soak that is ready to run: what the user chose is looked up once, before it."""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osvtriage.guest import rundir
from osvtriage.images.places import result_directory, soaks_directory
from osvtriage.images.record import Image
from osvtriage.images.store import sweep_leftovers
from osvtriage.model.errors import MissingRequirement, UsageError
from osvtriage.recipe.recipe import AS_IS, Recipe
from osvtriage.soak import sizing
from osvtriage.soak.plan import FILE, Plan, matrix
from osvtriage.soak.pool import Pool
from osvtriage.soak.soak import Executor
from osvtriage.soak.store import RECORDS, Store
from osvtriage.soak.worker import Job
from osvtriage.trial import library
from osvtriage.trial.choice import choose_image
from osvtriage.trial.prepare import prepare
from osvtriage.trial.request import Engine, Observer, Request
from osvtriage.trial.snapshot import obstacle

# Enough for a first look: a bug that shows in 1 of 30 trials is missed by 100 in 3 of 100 soaks.
DEFAULT_RUNS = 100
_MIB = 1 << 20
# A run record takes 0.2 MB: some hundred of them.
DEFAULT_KEEP = 64 * _MIB


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user chose for a new soak; ``None`` leaves it to the recipe."""

    recipe: str
    variant: str = AS_IS
    matrix: tuple[str, ...] = ()
    image: str | None = None
    kernel: Path | None = None
    smp: int = 1
    timeout: float | None = None
    duration: float | None = None
    accelerator: str = "auto"
    engine: Engine = "auto"
    qemu: Path | None = None
    start: str | None = None
    seed: int | None = None
    runs: int | None = None
    seconds: float | None = None
    until_reproduced: bool = False
    half_width: float | None = None
    keep: int = DEFAULT_KEEP


def new(choice: Choice, out: Path | None, observer: Observer) -> tuple[Job, Path]:
    """A new soak: its plan is written into its directory, and its guests' files are made.

    Raises:
        UsageError: what is asked for does not exist or does not fit.
    """
    recipe = library.load(choice.recipe)
    plan = _plan(choice, recipe)
    directory = _directory(plan, out)
    image = _image(plan, recipe, observer)
    boot_sha256, why = _prepare(plan, image, recipe, observer)
    if plan.start == "snapshot" and why is not None:
        if choice.start is not None:
            raise UsageError(
                f"trials on {image.name} cannot start from a snapshot: {why}",
                "start from boots: --start boot",
            )
        observer.phase("start", f"every trial boots, for {why}")
        plan = replace(plan, start="boot")
    plan = replace(plan, image_name=image.name, boot_sha256=boot_sha256)
    job = Job(plan, plan.recipe, image)
    directory.mkdir(parents=True, exist_ok=True)
    plan.write(directory)
    return job, directory


def again(directory: Path, observer: Observer) -> Job:
    """The rest of the soak in *directory*.

    Raises:
        UsageError: it is none, or its recipe or image is not what it was.
    """
    plan = Plan.read(directory)
    recipe = library.load(plan.recipe)
    if _recipe_sum(plan.recipe) != plan.recipe_sha256:
        raise UsageError(
            f"{library.find(plan.recipe)} has changed since the soak in {directory} was begun",
            "trials of two recipes have no common rate: begin a new soak",
        )
    image = _image(plan, recipe, observer)
    boot_sha256, _ = _prepare(plan, image, recipe, observer)
    if boot_sha256 != plan.boot_sha256:
        raise UsageError(
            f"the kernel, the workload or the image is not what it was when {directory} was begun",
            "trials of two guests have no common rate: begin a new soak",
        )
    return Job(plan, plan.recipe, image)


@contextmanager
def opened(directory: Path) -> Iterator[Store]:
    """The store of the soak in *directory*, for writing.

    Raises:
        UsageError: another soak writes to it.
    """
    store = Store.resume(directory)
    try:
        yield store
    finally:
        store.close()


def executor(job: Job, directory: Path, jobs: int | None, scheduler: str | None) -> Executor:
    """What runs the trials: *jobs* workers on this machine, or the cluster of a *scheduler*.

    Raises:
        MissingRequirement: there is no Dask to find the cluster with.
    """
    if scheduler is not None:
        try:
            from osvtriage.soak.cluster import Cluster
        except ImportError:
            raise MissingRequirement(
                "--scheduler needs Dask, which is not installed",
                "install it beside osvtriage: pip install 'osvtriage[dask]'",
            ) from None
        return Cluster(scheduler, job, directory / RECORDS, jobs)
    return Pool(job, directory / RECORDS, jobs or sizing.jobs(job.plan, job.image))


def host() -> dict[str, Any]:
    """The machine that counts the trials, for the summary."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
    }


def _plan(choice: Choice, recipe: Recipe) -> Plan:
    start = choice.start or ("snapshot" if recipe.workload.snapshot else "boot")
    if start == "snapshot" and not recipe.workload.snapshot:
        raise UsageError(
            f"recipe {recipe.name} does not allow trials to start from a snapshot",
            "nobody has compared their rate with that of booted guests: use --start boot",
        )
    cells = matrix(choice.matrix, recipe, choice.variant, choice.smp)
    for cell in cells:
        variant = recipe.get_variant(cell.variant)
        assert variant is not None
        if variant.interleave is not None:
            raise UsageError(
                f"the variant {cell.variant!r} steers its guest: every run of it is the same",
                "`osvtriage interleave` runs it",
            )
    file = "/" in choice.recipe or choice.recipe.endswith(".toml")
    rule = (choice.runs, choice.seconds, choice.half_width)
    ends = choice.until_reproduced or any(item is not None for item in rule)
    return Plan(
        recipe=str(Path(choice.recipe).absolute()) if file else choice.recipe,
        recipe_name=recipe.name,
        recipe_sha256=_recipe_sum(choice.recipe),
        image=choice.image,
        image_name="",
        boot_sha256="",
        kernel=str(choice.kernel.absolute()) if choice.kernel else None,
        cells=cells,
        start=start,
        seed=secrets.randbelow(1 << 32) if choice.seed is None else choice.seed,
        runs=choice.runs if ends else DEFAULT_RUNS,
        seconds=choice.seconds,
        until_reproduced=choice.until_reproduced,
        half_width=choice.half_width,
        keep=choice.keep,
        timeout=choice.timeout,
        duration=choice.duration,
        accelerator=choice.accelerator,
        engine=choice.engine,
        qemu=str(choice.qemu.absolute()) if choice.qemu else None,
    )


def _recipe_sum(recipe: str) -> str:
    return hashlib.sha256(library.find(recipe).read_bytes()).hexdigest()


def _directory(plan: Plan, out: Path | None) -> Path:
    if out is not None and (out.absolute() / FILE).is_file():
        raise UsageError(
            f"{out} holds a soak already", f"go on with it: osvtriage soak --resume {out}"
        )
    return result_directory(out, soaks_directory(), plan.recipe_name)


def _image(plan: Plan, recipe: Recipe, observer: Observer) -> Image:
    return choose_image(recipe, plan.image, Path(plan.kernel) if plan.kernel else None, observer)


def _prepare(
    plan: Plan, image: Image, recipe: Recipe, observer: Observer
) -> tuple[str, str | None]:
    """Make what the guests boot from, once, before several workers would at the same time.

    Returns:
        One sum over all of it, and why trials cannot start from a snapshot.
    """
    rundir.sweep()
    sweep_leftovers()
    why = None
    parts: list[str | None] = [disk.sha256 for disk in image.disks]
    for name, smp in dict.fromkeys((cell.variant, cell.smp) for cell in plan.cells):
        variant = recipe.get_variant(name)
        assert variant is not None
        request = Request(
            recipe=recipe,
            recipe_directory=library.find(plan.recipe).parent,
            variant=variant,
            image=image,
            smp=smp,
            accelerator="kvm" if plan.accelerator == "kvm" else "auto",
            engine=plan.engine,
            qemu=Path(plan.qemu) if plan.qemu else None,
        )
        prepared = prepare(request, observer)
        why = why or obstacle(prepared)
        parts += [prepared.kernel.sha256, prepared.initrd_sha256, prepared.symbols_sha256]
        parts.append(prepared.boot.append)
    return hashlib.sha256(repr((parts, image.memory)).encode()).hexdigest(), why


def found() -> list[Path]:
    """The directories of soaks in the user's state directory, the newest first."""
    base = soaks_directory()
    if not base.is_dir():
        return []
    return sorted((path for path in base.iterdir() if (path / FILE).is_file()), reverse=True)


def named(name: Path) -> Path:
    """The directory of the soak *name*: a path, or the name of one that `soaks list` shows."""
    if not (name / FILE).is_file() and (soaks_directory() / name / FILE).is_file():
        return soaks_directory() / name
    return name
