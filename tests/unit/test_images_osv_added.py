"""Images made of OSv's files: added, shown, verified, and with another kernel."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import osv_files
import pytest
from click.testing import CliRunner

from osvtriage.cli.images import images
from osvtriage.images import sparse
from osvtriage.images.record import Disk
from osvtriage.images.store import ImageStore, initrd
from osvtriage.model.errors import ImageError, UsageError

STRIPPED = osv_files.loader(symbols=False)
LINE = "--rootfs=rofs /hello"

Write = Callable[[str, bytes], Path]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_an_osv_is_added(store: ImageStore, write: Write) -> None:
    disk = osv_files.partitioned(1, 3, 4)
    paths = [
        write("loader-stripped.elf", STRIPPED),
        write("loader.elf", osv_files.loader()),
        write("usr.img", disk),
    ]
    messages: list[str] = []
    summary = store.add(
        "mine", "osv", None, paths[0], LINE, None, paths[1], paths[2], messages.append
    )
    assert (summary.system, summary.arch, summary.state) == ("osv", "x86_64", "ready")
    assert (summary.kernel_version, summary.title) == (
        "v0.57.0-34-gb11b225d",
        "an OSv that was added",
    )
    assert [f"copying {path}" for path in paths] == messages[1:]
    for path in paths:
        path.unlink()
    image = store.ensure("mine")
    assert image.kernel.read_bytes() == STRIPPED
    assert image.symbols.read_bytes() == osv_files.loader()
    assert image.disks == (Disk(image.kernel.parent / "disk0", "raw", sha256(disk)),)
    assert image.disks[0].path.read_bytes() == disk
    assert (image.kernel_format, image.append, image.memory) == ("elf", LINE, 512)
    assert (image.kernel_sha256, image.symbols_sha256) == (
        sha256(STRIPPED),
        sha256(osv_files.loader()),
    )
    assert (image.busybox, image.busybox_sha256) == (None, None)
    assert store.verify("mine") == ()
    with pytest.raises(ImageError, match="mine has its userland in itself, and takes no initramfs"):
        initrd(image, None)


@pytest.mark.parametrize("given", [None, "loader.elf", "copy.elf"])
def test_one_file_is_kept_once(store: ImageStore, write: Write, given: str | None) -> None:
    kernel = write("loader.elf", osv_files.loader())
    symbols = write(given, osv_files.loader()) if given else None
    store.add("mine", "osv", "x86_64", kernel, LINE, 64, symbols)
    image = store.get("mine")
    assert image.symbols == image.kernel
    assert image.memory == 64
    assert sorted(path.name for path in image.kernel.parent.iterdir()) == ["image.json", "kernel"]


def test_a_disk_boots_by_itself(store: ImageStore, write: Write) -> None:
    symbols = write("loader.elf", osv_files.loader())
    for name, data, format_, line in (
        ("raw", osv_files.disk(b"/hello"), "raw", "/hello"),
        ("qcow2", osv_files.qcow2(), "qcow2", ""),
    ):
        store.add(name, "osv", None, write(name, data), symbols=symbols)
        image = store.get(name)
        assert (image.kernel_format, image.append, image.disks) == (format_, line, ())
        assert image.kernel.read_bytes() == data


def test_a_command_line_is_written_into_the_copy(store: ImageStore, write: Write) -> None:
    data = osv_files.disk(b"/a/much/longer/name\0")
    kernel, symbols = write("usr.img", data), write("loader.elf", osv_files.loader())
    store.add("mine", "osv", None, kernel, "/hello", symbols=symbols)
    image = store.get("mine")
    assert kernel.read_bytes() == data
    seen = image.kernel.read_bytes()
    assert seen[512:].startswith(b"/hello\0")
    assert (seen[:512], seen[519:]) == (data[:512], data[519:])
    assert image.append == "/hello"
    assert image.kernel_sha256 == sha256(seen)
    assert store.verify("mine") == ()


def test_a_command_line_that_does_not_fit(store: ImageStore, write: Write) -> None:
    symbols = write("loader.elf", osv_files.loader())
    raw, qcow2 = write("usr.img", osv_files.disk()), write("usr.qcow2", osv_files.qcow2())
    with pytest.raises(UsageError, match="takes 32257 bytes; OSv's boot sector loads 32256"):
        store.add("mine", "osv", None, raw, "x" * 32256, symbols=symbols)
    with pytest.raises(UsageError, match="--append cannot change it in qcow2") as caught:
        store.add("mine", "osv", None, qcow2, "/hello", symbols=symbols)
    assert "imgedit.py setargs" in str(caught.value.hint)
    assert "qemu-img convert -O raw" in str(caught.value.hint)
    store.add("mine", "osv", None, raw, "x" * 32255, symbols=symbols)
    assert len(store.get("mine").append) == 32255


@pytest.mark.parametrize("data", [osv_files.loader(), osv_files.disk()])
def test_a_command_line_that_is_missing(store: ImageStore, write: Write, data: bytes) -> None:
    symbols = write("loader.elf", osv_files.loader())
    with pytest.raises(UsageError, match="needs a command line") as caught:
        store.add("mine", "osv", None, write("kernel", data), symbols=symbols)
    assert "--append '--rootfs=rofs /hello'" in str(caught.value.hint)


def test_arguments_that_do_not_go_together(store: ImageStore, write: Write) -> None:
    kernel = write("loader.elf", osv_files.loader())
    with pytest.raises(UsageError, match="images of osv are for x86_64, not for 'aarch64'"):
        store.add("mine", "osv", "aarch64", kernel, LINE)
    with pytest.raises(UsageError, match="--symbols and --disk do not go with a Linux --kernel"):
        store.add("mine", "linux", "ppc64le", kernel, symbols=kernel)
    with pytest.raises(UsageError, match="--symbols and --disk do not go with a Linux --kernel"):
        store.add("mine", "linux", "ppc64le", kernel, disk=kernel)
    with pytest.raises(UsageError, match="the processor that the kernel is for is missing"):
        store.add("mine", "linux", None, kernel)
    with pytest.raises(UsageError, match="no userland for plan9"):
        store.add("mine", "plan9", "ppc64le", kernel)


def test_a_bad_disk_is_not_added(store: ImageStore, write: Write, tmp_path: Path) -> None:
    kernel = write("loader.elf", osv_files.loader())
    for disk in (tmp_path / "none", tmp_path, write("text", b"hello"), write("empty", b"")):
        with pytest.raises(ImageError, match="the disk"):
            store.add("mine", "osv", None, kernel, LINE, disk=disk)
    assert "mine" not in [image.name for image in store.list()]


@pytest.mark.parametrize("victim", ["kernel", "symbols", "disk0"])
def test_a_file_that_changes_while_it_is_copied(
    store: ImageStore, write: Write, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    copy = sparse.copy

    def meddle(source: Path, target: Path) -> None:
        copy(source, target)
        if target.name == victim:
            os.truncate(target, target.stat().st_size - 1)

    monkeypatch.setattr(sparse, "copy", meddle)
    names = {
        "kernel": write("loader-stripped.elf", STRIPPED),
        "symbols": write("loader.elf", osv_files.loader()),
        "disk0": write("usr.img", osv_files.disk()),
    }
    with pytest.raises(ImageError, match=f"{names[victim].name} changed while it was copied"):
        store.add(
            "mine", "osv", None, names["kernel"], LINE, None, names["symbols"], names["disk0"]
        )
    assert not list((store_directory := names["kernel"].parent / "data" / "images").glob("[!.]*"))
    assert not list(store_directory.glob(".part-*"))


@pytest.fixture
def added(store: ImageStore, write: Write) -> Path:
    """The directory of the image ``mine``, of three files."""
    store.add(
        "mine",
        "osv",
        None,
        write("loader-stripped.elf", STRIPPED),
        LINE,
        None,
        write("loader.elf", osv_files.loader()),
        write("usr.img", osv_files.disk()),
    )
    return store.get("mine").kernel.parent


@pytest.mark.parametrize("name", ["kernel", "symbols", "disk0"])
def test_verify_names_the_file_that_was_changed(store: ImageStore, added: Path, name: str) -> None:
    before = (added / name).stat()
    with (added / name).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    os.utime(added / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    (problem,) = store.verify("mine")
    assert problem.startswith(f"{added / name} has SHA-256")
    (added / name).unlink()
    with pytest.raises(ImageError, match=f"{name} cannot be read") as caught:
        store.get("mine")
    assert "images remove mine" in str(caught.value.hint)


def test_a_record_that_names_a_file_without_a_sum(store: ImageStore, added: Path) -> None:
    record = json.loads((added / "image.json").read_text())
    del record["files"]["disk0"]
    (added / "image.json").write_text(json.dumps(record))
    with pytest.raises(ImageError, match=r"its record cannot be read: .* lacks the sum of disk0"):
        store.get("mine")


def test_another_kernel_with_its_symbols(store: ImageStore, added: Path, write: Write) -> None:
    image = store.get("mine")
    other = osv_files.loader(code=b"\xc3" * 64, constants=b"OSv v0.58.0\n\0")
    kernel = write("other.elf", other)
    changed = store.with_kernel(image, kernel)
    assert (changed.kernel, changed.symbols) == (kernel, kernel)
    assert changed.kernel_sha256 == changed.symbols_sha256 == sha256(other)
    assert changed.kernel_version == "v0.58.0"
    assert (changed.disks, changed.append) == (image.disks, image.append)


def test_another_kernel_with_the_same_code(store: ImageStore, added: Path, write: Write) -> None:
    image = store.get("mine")
    other = osv_files.loader(symbols=False, constants=b"OSv v0.58.0\n\0")
    changed = store.with_kernel(image, write("other.elf", other))
    assert (changed.symbols, changed.symbols_sha256) == (image.symbols, image.symbols_sha256)
    assert (changed.kernel_sha256, changed.kernel_version) == (sha256(other), "v0.58.0")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (
            osv_files.loader(symbols=False, code=b"\xc3" * 64),
            "and the symbols of the image mine are of another build",
        ),
        (osv_files.loader(functions=("main",)), "it lacks premain"),
        (osv_files.disk(), "is not an ELF file"),
    ],
)
def test_another_kernel_that_does_not_fit(
    store: ImageStore, added: Path, write: Write, data: bytes, what: str
) -> None:
    with pytest.raises(ImageError, match="other") as caught:
        store.with_kernel(store.get("mine"), write("other", data))
    assert what in str(caught.value)
    assert caught.value.hint


def test_a_kernel_inside_a_disk_is_not_replaced(store: ImageStore, write: Write) -> None:
    symbols = write("loader.elf", osv_files.loader())
    store.add("mine", "osv", None, write("usr.img", osv_files.disk(b"/x")), symbols=symbols)
    with pytest.raises(ImageError, match="is inside a disk and cannot be replaced") as caught:
        store.with_kernel(store.get("mine"), symbols)
    assert "images add" in str(caught.value.hint)


def run_images(*arguments: str | Path) -> Any:
    result = CliRunner().invoke(images, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result


def test_the_command_adds_shows_and_removes(added: Path, write: Write) -> None:
    result = run_images(
        *("add", "two", "--system", "osv", "--kernel", write("stripped", STRIPPED)),
        *("--symbols", write("loader.elf", osv_files.loader()), "--append", LINE, "--json"),
    )
    described = json.loads(result.stdout)
    assert (described["system"], described["arch"]) == ("osv", "x86_64")
    shown = run_images("show", "mine").stdout
    assert "kernel    OSv v0.57.0-34-gb11b225d\n" in shown
    assert f"files     {added / 'kernel'}\n" in shown
    assert f"symbols   {added / 'symbols'}\n" in shown
    assert f"disks     {added / 'disk0'} (raw)\n" in shown
    assert f"append    {LINE}\n" in shown
    described = json.loads(run_images("show", "mine", "--json").stdout)
    assert described["kernel_format"] == "elf"
    assert described["symbols"] == str(added / "symbols")
    assert described["disks"] == [
        {"path": str(added / "disk0"), "format": "raw", "sha256": sha256(osv_files.disk())}
    ]
    assert described["busybox"] is None
    (line,) = [x for x in run_images("list").stdout.splitlines() if x.startswith("mine ")]
    assert "v0.57.0-34-gb11b225d" in line
    assert run_images("verify", "mine").stdout == "mine: whole\n"
    run_images("remove", "two")
    assert not (added.parent / "two").exists()


def test_a_command_line_from_a_disk_is_escaped(store: ImageStore, write: Write) -> None:
    kernel = write("usr.img", osv_files.disk(b"/x\x1b[2J\n"))
    store.add("mine", "osv", None, kernel, symbols=write("loader.elf", osv_files.loader()))
    assert "append    /x\\x1b[2J\\n\n" in run_images("show", "mine").stdout


def test_the_help_has_an_example_for_each_system() -> None:
    text = run_images("add", "--help").stdout
    assert "--arch ppc64le --kernel ~/linux/vmlinux" in text
    assert "--system osv --kernel loader-stripped.elf" in text
    assert "--symbols loader.elf --disk usr.img --append '--rootfs=rofs /hello'" in text


def test_the_systems_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_IMAGES_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "images add x --system o")
    monkeypatch.setenv("COMP_CWORD", "4")
    assert CliRunner().invoke(images, prog_name="images").stdout == "plain,osv\n"
