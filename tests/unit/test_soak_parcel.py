"""What travels to the machines of a cluster, and how many trials a machine is given."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from soaks import plan

from osvtriage.images.record import Disk, Image
from osvtriage.model.errors import ImageError, UsageError
from osvtriage.recipe.shipped import recipes_directory
from osvtriage.soak import parcel, sizing
from osvtriage.soak.plan import Cell
from osvtriage.soak.worker import Job


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSVTRIAGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def image(tmp_path: Path) -> Image:
    def write(name: str) -> Path:
        path = tmp_path / "sender" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"contents of {name}".encode())
        return path

    kernel = write("vmlinux")
    return Image(
        name="mine",
        system="linux",
        arch="ppc64le",
        kernel=kernel,
        kernel_format="elf",
        symbols=kernel,
        disks=(Disk(write("usr.img"), "raw", "0" * 64),),
        busybox=write("busybox"),
        modules=(write("00-brd.ko"),),
        memory=1024,
        append="",
        kernel_version="6.1",
        kernel_sha256="0" * 64,
        symbols_sha256="0" * 64,
        busybox_sha256="0" * 64,
        packages=(),
        origin="user",
        built="today",
    )


def send(sent: parcel.Parcel) -> None:
    for path in parcel.missing(sent):
        content = Path(path).read_bytes()
        parcel.receive(
            path, sent.sums[path], lambda content=content: iter([content[:5], content[5:]])
        )


def test_each_file_travels_once_and_keeps_its_name(image: Image, tmp_path: Path) -> None:
    sent = parcel.pack(Job(plan(), "ppc64le-save-fpu", image))
    assert len(parcel.missing(sent)) == 4
    send(sent)
    assert parcel.missing(sent) == []
    job = parcel.unpack(sent)
    for mine, theirs in (
        (image.kernel, job.image.kernel),
        (image.busybox, job.image.busybox),
        (image.modules[0], job.image.modules[0]),
        (image.disks[0].path, job.image.disks[0].path),
    ):
        assert mine is not None
        assert theirs is not None
        assert tmp_path / "cache" in theirs.parents
        assert theirs.read_bytes() == mine.read_bytes()
        assert theirs.name == mine.name
    assert job.image.symbols == job.image.kernel
    assert job.recipe == "ppc64le-save-fpu"


def test_a_file_that_came_damaged_is_not_kept(image: Image) -> None:
    sent = parcel.pack(Job(plan(), "ppc64le-save-fpu", image))
    path = str(image.kernel)
    with pytest.raises(ImageError, match="damaged"):
        parcel.receive(path, sent.sums[path], lambda: iter([b"something else"]))
    assert path in parcel.missing(sent)


def test_a_recipe_of_one_s_own_goes_along_with_its_payload(image: Image, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    text = (recipes_directory() / "ppc64le-save-fpu.toml").read_text(encoding="utf-8")
    mine.write_text(text.replace('payload = "fpstate"', 'payload = "mine.c"'), encoding="utf-8")
    (tmp_path / "mine.c").write_text("int main(void) { return 0; }\n")
    (tmp_path / "mine.h").write_text("/* its header */\n")
    sent = parcel.pack(Job(plan(), str(mine), image))
    assert list(sent.recipe) == ["mine.toml", "mine.c", "mine.h"]
    send(sent)
    for path in (mine, tmp_path / "mine.c", tmp_path / "mine.h"):
        path.unlink()
    there = Path(parcel.unpack(sent).recipe)
    assert there.name == "mine.toml"
    assert (there.parent / "mine.c").read_text().startswith("int main")


def test_a_worker_with_another_osvtriage_is_refused(image: Image) -> None:
    sent = parcel.pack(Job(plan(), "ppc64le-save-fpu", image))
    send(sent)
    with pytest.raises(UsageError, match="another osvtriage"):
        parcel.unpack(replace(sent, code="0" * 64))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    def become(cores: int, mebibytes: float) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
        monkeypatch.setattr(sizing, "_free_mib", lambda: mebibytes)

    return become


@pytest.mark.parametrize(
    ("cores", "mebibytes", "vcpus", "cells", "jobs"),
    [
        (8, 100_000, 1, 1, 8),
        (8, 100_000, 3, 1, 2),
        (1, 100_000, 4, 1, 1),
        (8, 9_000, 1, 1, 5),
        (8, 500, 1, 1, 1),
        # Guests of four cells are kept, and no more.
        (8, 36_000, 1, 9, 5),
    ],
)
def test_jobs_fit_processors_and_memory(
    machine: Callable[[int, float], None],
    image: Image,
    cores: int,
    mebibytes: float,
    vcpus: int,
    cells: int,
    jobs: int,
) -> None:
    machine(cores, mebibytes)
    made = plan(cells=tuple(Cell(f"cell={n}", "as-is", vcpus) for n in range(cells)))
    assert sizing.jobs(made, image) == jobs
