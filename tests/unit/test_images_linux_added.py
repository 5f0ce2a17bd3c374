"""Linux guests that a user already has: a disk that boots by itself, with or without symbols."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import elf_specimen as specimen
import osv_files
import pytest
from click.testing import CliRunner
from test_cpio import read

from osvtriage.cli.images import images
from osvtriage.images import build
from osvtriage.images.atomic import replace_symlink
from osvtriage.images.build import results_directory
from osvtriage.images.debian import Archive, Candidate
from osvtriage.images.record import Record, Stamp
from osvtriage.images.store import ImageStore, initrd
from osvtriage.model.errors import ImageError, UsageError

DISK = osv_files.partitioned(1, 3, 4)
NAME = "debian-bookworm-ppc64le"

Write = Callable[[str, bytes], Path]


@pytest.mark.parametrize(
    ("format_", "data"), [("raw", DISK), ("qcow2", osv_files.qcow2())], ids=["raw", "qcow2"]
)
def test_a_disk_is_added(store: ImageStore, write: Write, format_: str, data: bytes) -> None:
    disk = write("disk", data)
    summary = store.add("mine", "linux", "x86_64", None, disk=disk)
    assert (summary.title, summary.state) == ("a disk that was added", "ready")
    assert summary.kernel_version == "unknown"
    disk.unlink()
    image = store.ensure("mine")
    assert image.kernel.read_bytes() == data
    assert (image.kernel_format, image.boots_itself) == (format_, True)
    assert (image.symbols, image.symbols_sha256, image.busybox) == (None, None, None)
    assert (image.memory, image.append) == (2048, "")
    assert store.verify("mine") == ()
    with pytest.raises(ImageError, match="mine has its userland in itself"):
        initrd(image, None)
    with pytest.raises(ImageError, match="is inside a disk and cannot be replaced"):
        store.with_kernel(image, disk)


def test_a_disk_with_the_symbols_of_its_kernel(store: ImageStore, write: Write) -> None:
    kernel = specimen.kernel(machine=specimen.X86_64, notes=specimen.PVH_NOTE)
    store.add(
        "mine", "linux", "x86_64", None, None, 512, write("vmlinux", kernel), write("disk", DISK)
    )
    image = store.get("mine")
    assert image.symbols is not None
    assert image.symbols.read_bytes() == kernel
    assert (image.kernel_version, image.memory) == ("6.1.0-50-test", 512)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("linux", "ppc64le", None, None, None, None, "disk"), "is for x86_64, not for 'ppc64le'"),
        (("linux", "x86_64", None, "quiet", None, None, "disk"), "--append cannot change it"),
        (("linux", "x86_64", None, None, None, None, None), "needs --kernel, or --disk"),
        (("linux", None, None, None, None, None, "disk"), "the processor .* is missing"),
        (("linux", "x86_64", "disk", None, None, None, "disk"), "do not go with a Linux --kernel"),
        (("osv", None, None, None, None, None, "disk"), "an OSv needs --kernel"),
    ],
)
def test_what_does_not_go_together(
    store: ImageStore, write: Write, arguments: tuple[str | None, ...], words: str
) -> None:
    disk = write("disk", DISK)
    given = [disk if argument == "disk" else argument for argument in arguments]
    with pytest.raises(UsageError, match=words):
        store.add("mine", *given)  # type: ignore[arg-type]


def test_a_disk_that_is_none(store: ImageStore, write: Write) -> None:
    with pytest.raises(ImageError, match="is not a raw or qcow2 disk image"):
        store.add("mine", "linux", "x86_64", None, disk=write("disk", b"no disk"))


def test_the_command_adds_and_shows_a_disk(write: Write) -> None:
    disk = write("disk", DISK)
    added = CliRunner().invoke(images, ["add", "mine", "--arch", "x86_64", "--disk", str(disk)])
    assert added.exit_code == 0, added.output
    shown = CliRunner().invoke(images, ["show", "mine"]).output
    assert "Linux unknown" in shown
    assert "symbols   none" in shown
    details = json.loads(CliRunner().invoke(images, ["show", "mine", "--json"]).output)
    assert (details["symbols"], details["kernel_format"]) == (None, "raw")
    assert details["modules"] == []


def built(tmp_path: Path) -> Path:
    """The directory of a result of NAME with a module."""
    directory = results_directory(NAME) / "6.1-abc"
    directory.mkdir(parents=True)
    (directory / "vmlinux").write_bytes(specimen.kernel())
    (directory / "busybox").write_bytes(b"busybox")
    (directory / "brd.ko").write_bytes(b"module")
    Record(
        system="linux",
        arch="ppc64le",
        memory=1024,
        append="",
        kernel_version="6.1",
        origin="debian",
        built="2026-01-01T00:00:00+00:00",
        packages=(),
        wanted={},
        files={name: Stamp.of(directory / name) for name in ("vmlinux", "busybox", "brd.ko")},
        modules=("brd.ko",),
    ).write(directory)
    replace_symlink(directory.parent / "current", directory.name)
    return directory


def test_modules_go_into_the_initramfs(store: ImageStore, tmp_path: Path) -> None:
    directory = built(tmp_path)
    image = store.get(NAME)
    assert image.modules == (directory / "brd.ko",)
    entries = {name: data for name, _, data in read(initrd(image, None).read_bytes())}
    assert entries["modules/0-brd.ko"] == b"module"
    # Another kernel does not take them.
    other = tmp_path / "other"
    other.write_bytes(specimen.kernel(banner=b"Linux version 6.9.0 (a@b) (c) #1\n\0"))
    assert store.with_kernel(image, other).modules == ()


@pytest.mark.parametrize("packed", [False, True])
def test_a_module_is_unpacked(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = Candidate("linux-image-6.1", "6.1-1", "linux", "00" * 32, 1, ())
    path = "./lib/modules/6.1/kernel/drivers/block/brd.ko" + (".xz" if packed else "")

    class FakeArchive:
        def fetch_file(self, _candidate: object, wanted: object, to: Path, _scratch: Path) -> bool:
            to.write_bytes(build.lzma.compress(b"module") if packed else b"module")
            return bool(wanted.fullmatch(path))  # type: ignore[attr-defined]

    archive: Archive = FakeArchive()  # type: ignore[assignment]
    build._fetch_module(archive, candidate, "brd", tmp_path / "brd.ko", tmp_path)
    assert (tmp_path / "brd.ko").read_bytes() == b"module"
    with pytest.raises(ImageError, match=r"linux-image-6\.1 6\.1-1 has no module rbd"):
        build._fetch_module(archive, candidate, "rbd", tmp_path / "rbd.ko", tmp_path)
