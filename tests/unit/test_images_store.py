"""The store of images, with results put in place by hand: nothing is fetched or compiled."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import elf_specimen as specimen
import pytest
import x86_kernel
from click.testing import CliRunner

from osvtriage.arch import PPC64LE, X86_64
from osvtriage.cli.images import images
from osvtriage.images import addition, payload
from osvtriage.images.atomic import replace_symlink
from osvtriage.images.build import results_directory
from osvtriage.images.names import image_names
from osvtriage.images.payload import compile_payload, payload_source
from osvtriage.images.progress import silent
from osvtriage.images.record import Package, Record, Stamp, file_sha256
from osvtriage.images.store import ImageStore, NotBuilt, initrd
from osvtriage.model.errors import ImageError, MissingRequirement, UsageError
from osvtriage.recipe.image import ImageManifest
from osvtriage.recipe.shipped import images_directory
from osvtriage.recipe.tomlfile import load
from osvtriage.symbols.elf import ElfImage

NAME = "debian-bookworm-ppc64le"


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinux"
    path.write_bytes(specimen.kernel())
    return path


@pytest.fixture
def built(kernel: Path) -> Path:
    """The directory of a result of NAME, as a build leaves it."""
    directory = results_directory(NAME) / "6.1-abc"
    directory.mkdir(parents=True)
    shutil.copy(kernel, directory / "vmlinux")
    (directory / "busybox").write_bytes(b"busybox")
    Record(
        system="linux",
        arch="ppc64le",
        memory=1024,
        append="panic=-1",
        kernel_version="6.1.0-50-test",
        origin="debian",
        built="2026-01-01T00:00:00+00:00",
        packages=(Package("linux-image", "6.1", "00" * 32),),
        wanted={"linux-image": "00" * 32},
        files={name: Stamp.of(directory / name) for name in ("vmlinux", "busybox")},
    ).write(directory)
    replace_symlink(directory.parent / "current", directory.name)
    return directory


def test_a_built_image(store: ImageStore, built: Path) -> None:
    image = store.get(NAME)
    assert image.kernel == built / "vmlinux"
    assert image.packages == (Package("linux-image", "6.1", "00" * 32),)
    assert store.ensure(NAME) == image
    assert store.build(NAME) == image
    assert store.verify(NAME) == ()


def test_a_record_from_before_there_were_disks(store: ImageStore, built: Path) -> None:
    image = store.get(NAME)
    record = json.loads((built / "image.json").read_text())
    for key in ("kernel", "kernel_format", "symbols", "disks"):
        del record[key]
    (built / "image.json").write_text(json.dumps(record))
    assert store.get(NAME) == image
    assert (image.kernel_format, image.symbols, image.disks) == ("elf", image.kernel, ())
    assert image.symbols_sha256 == image.kernel_sha256
    assert store.verify(NAME) == ()


def test_an_unknown_name_gets_the_nearest(store: ImageStore) -> None:
    for call in (store.get, store.ensure, store.build, store.verify, store.remove, store.summary):
        with pytest.raises(UsageError, match=f"did you mean '{NAME}'"):
            call("debian-bokworm-ppc64le")
    with pytest.raises(UsageError, match=r"no image '\.\./\.\./etc'$"):
        store.get("../../etc")


def test_an_image_that_is_not_built(store: ImageStore) -> None:
    for call in (store.get, store.verify, store.remove):
        with pytest.raises(NotBuilt) as caught:
            call(NAME)
        assert f"images build {NAME}" in str(caught.value.hint)
    assert store.summary(NAME).state == "not built"


@pytest.mark.parametrize("name", ["vmlinux", "busybox"])
def test_a_file_that_lost_its_end(store: ImageStore, built: Path, name: str) -> None:
    os.truncate(built / name, 3)
    with pytest.raises(ImageError, match="has 3 bytes; it had") as caught:
        store.ensure(NAME)
    assert f"images build {NAME}" in str(caught.value.hint)
    assert store.summary(NAME).state == "damaged"
    assert len(store.verify(NAME)) == 1


def test_a_file_that_was_changed(store: ImageStore, built: Path) -> None:
    before = (built / "busybox").stat()
    (built / "busybox").write_bytes(b"bysubox")
    with pytest.raises(ImageError, match="SHA-256"):
        store.get(NAME)
    # With its old time it passes the quick look that a run takes; `verify` reads it.
    os.utime(built / "busybox", ns=(before.st_atime_ns, before.st_mtime_ns))
    store.get(NAME)
    assert "SHA-256" in store.verify(NAME)[0]


def test_a_restored_backup_is_read_once(store: ImageStore, built: Path) -> None:
    os.utime(built / "vmlinux", (1, 1))
    assert store.get(NAME).kernel == built / "vmlinux"
    assert Record.read(built).files["vmlinux"].mtime_ns == 10**9


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "osvtriage.built-image/1"}', "\xff"])
def test_a_record_that_cannot_be_read(store: ImageStore, built: Path, text: str) -> None:
    (built / "image.json").write_text(text, encoding="latin-1")
    with pytest.raises(ImageError, match="its record cannot be read"):
        store.get(NAME)
    assert store.summary(NAME).state == "damaged"
    assert "record" in store.verify(NAME)[0]


def test_a_kernel_is_added(store: ImageStore, built: Path, kernel: Path) -> None:
    summary = store.add("mine", "linux", "ppc64le", kernel, memory=2048)
    assert (summary.origin, summary.state) == ("user", "ready")
    kernel.unlink()
    image = store.get("mine")
    assert image.kernel.read_bytes() == specimen.kernel()
    assert image.busybox == built / "busybox"
    assert (image.memory, image.kernel_version) == (2048, "6.1.0-50-test")
    assert "loglevel" in image.append
    assert "mine" in image_names()
    assert [s.name for s in store.list()][-1] == "mine"
    with pytest.raises(UsageError, match="nothing to build"):
        store.build("mine")
    store.remove("mine")
    assert "mine" not in image_names()


def test_an_added_kernel_waits_for_its_userland(store: ImageStore, kernel: Path) -> None:
    store.add("mine", "linux", "ppc64le", kernel)
    with pytest.raises(NotBuilt, match=NAME):
        store.get("mine")


def test_a_name_that_is_taken(store: ImageStore, kernel: Path) -> None:
    store.add("mine", "linux", "ppc64le", kernel)
    for name in ("mine", NAME):
        with pytest.raises(UsageError, match=r"there is an image|is the name of"):
            store.add(name, "linux", "ppc64le", kernel)


@pytest.mark.parametrize("name", ["a/b", "../x", ".hidden", "-o", "", "A", "x" * 65, "a\nb", "a\n"])
def test_a_name_that_is_no_name(store: ImageStore, kernel: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        store.add(name, "linux", "ppc64le", kernel)


def test_a_bad_kernel_is_not_added(store: ImageStore, kernel: Path) -> None:
    kernel.write_bytes(specimen.kernel(machine=specimen.X86_64))
    with pytest.raises(ImageError, match="EM_X86_64"):
        store.add("mine", "linux", "ppc64le", kernel)
    assert "mine" not in image_names()


def test_a_processor_without_userland(store: ImageStore, kernel: Path) -> None:
    with pytest.raises(UsageError, match="riscv64"):
        store.add("mine", "linux", "riscv64", kernel)
    with pytest.raises(UsageError, match="osv"):
        store.add("mine", "osv", "ppc64le", kernel)


def test_another_kernel_for_one_run(store: ImageStore, built: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(specimen.kernel(banner=b"Linux version 6.9.0 (a@b) (c) #1\n\0"))
    image = store.with_kernel(store.get(NAME), other)
    assert (image.kernel, image.kernel_version, image.packages) == (other, "6.9.0", ())
    assert (image.symbols, image.symbols_sha256) == (other, image.kernel_sha256)
    assert image.busybox == built / "busybox"
    other.write_bytes(b"no kernel")
    with pytest.raises(ImageError, match="not an ELF file"):
        store.with_kernel(image, other)


def test_the_initramfs_is_made_once(store: ImageStore, built: Path, tmp_path: Path) -> None:
    program = tmp_path / "payload"
    program.write_bytes(b"\x7fELF one")
    image = store.get(NAME)
    first = initrd(image, program)
    made = first.stat()
    assert initrd(image, program) == first
    assert first.stat().st_mtime_ns == made.st_mtime_ns
    assert initrd(image, None) != first
    program.write_bytes(b"\x7fELF two")
    assert initrd(image, program) != first
    assert b"\x7fELF one" in first.read_bytes()
    program.unlink()
    with pytest.raises(ImageError, match="initramfs"):
        initrd(image, program)


def test_a_missing_compiler_names_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(payload.platform, "machine", lambda: "x86_64")
    with pytest.raises(MissingRequirement) as caught:
        compile_payload(tmp_path / "x.c", PPC64LE)
    assert "powerpc64le-linux-gnu-gcc" in str(caught.value)
    hint = str(caught.value.hint)
    assert "apt-get install" in hint
    assert all(package in hint for package in PPC64LE.cross_packages)


def test_plain_gcc_serves_a_host_of_the_same_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gcc = tmp_path / "gcc"
    gcc.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(payload.platform, "machine", lambda: "ppc64le")
    assert payload.compiler(PPC64LE) == gcc


def test_a_host_without_apt(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingRequirement, match="apt-get is not on this machine") as caught:
        store.ensure(NAME)
    assert "images add" in str(caught.value.hint)


def test_an_unknown_payload() -> None:
    with pytest.raises(UsageError, match="no payload 'nonesuch'"):
        payload_source("nonesuch")
    with pytest.raises(UsageError, match="no payload"):
        payload_source("../../etc/passwd")


def test_the_command_lists_as_json(built: Path) -> None:
    result = CliRunner().invoke(images, ["list", "--json"], catch_exceptions=False)
    listed = json.loads(result.stdout)
    assert listed["schema"] == "osvtriage.images/1"
    states = {image["name"]: image["state"] for image in listed["images"]}
    assert states[NAME] == "ready"
    assert states["debian-sid-ppc64le"] == "not built"


def test_the_command_verifies(built: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(images, ["verify"], catch_exceptions=False)
    assert result.stdout == f"{NAME}: whole\n"
    os.truncate(built / "vmlinux", 1)
    result = runner.invoke(images, ["verify", "--json", NAME])
    assert isinstance(result.exception, ImageError)
    (listed,) = json.loads(result.stdout)["images"]
    assert listed["name"] == NAME
    assert len(listed["problems"]) == 1


def test_the_command_shows_an_image(built: Path) -> None:
    result = CliRunner().invoke(images, ["show", NAME], catch_exceptions=False)
    assert f"files     {built / 'vmlinux'}\n          {built / 'busybox'}\n" in result.stdout
    result = CliRunner().invoke(images, ["show", NAME, "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["packages"][0]["name"] == "linux-image"
    result = CliRunner().invoke(images, ["show", "debian-sid-ppc64le"], catch_exceptions=False)
    assert "not built" in result.stdout


def test_the_command_adds_and_removes(kernel: Path) -> None:
    runner = CliRunner()
    arguments = ["add", "mine", "--arch", "ppc64le", "--kernel", str(kernel), "--json"]
    result = runner.invoke(images, arguments, catch_exceptions=False)
    assert json.loads(result.stdout)["origin"] == "user"
    assert runner.invoke(images, ["remove", "mine"], catch_exceptions=False).stdout == ""
    assert isinstance(runner.invoke(images, ["remove", "mine"]).exception, UsageError)


def test_names_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_IMAGES_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "images show debian-s")
    monkeypatch.setenv("COMP_CWORD", "2")
    result = CliRunner().invoke(images, prog_name="images")
    assert result.stdout == "plain,debian-sid-ppc64le\n"


# Kernels that are compressed, as x86-64 has them.


@pytest.fixture
def vmlinuz(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(x86_kernel.bzimage(x86_kernel.elf()))
    return path


def test_a_compressed_kernel_in_an_image_of_another(
    store: ImageStore, built: Path, vmlinuz: Path
) -> None:
    image = store.with_kernel(replace(store.get(NAME), arch="x86_64"), vmlinuz)
    assert (image.kernel, image.kernel_format) == (vmlinuz, "bzimage")
    assert image.symbols != image.kernel
    assert image.symbols_sha256 == file_sha256(image.symbols)


def test_a_compressed_kernel_is_added_with_its_symbols(tmp_path: Path, vmlinuz: Path) -> None:
    userland = load(images_directory() / f"{NAME}.toml", ImageManifest)
    userland = userland.model_copy(update={"arch": "x86_64"})
    added = tmp_path / "added"
    added.mkdir()
    addition.of_linux(vmlinuz, userland, None, None, silent).write(added, silent)
    record = Record.read(added)
    assert (record.kernel_format, record.kernel, record.symbols) == (
        "bzimage",
        "vmlinuz",
        "vmlinux",
    )
    assert (added / "vmlinuz").read_bytes() == vmlinuz.read_bytes()
    with ElfImage(added / "vmlinux", X86_64) as elf:
        assert elf.symbol("linux_banner").address == x86_kernel.RODATA
