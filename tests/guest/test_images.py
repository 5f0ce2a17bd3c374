"""Images made for real: Debian's packages fetched, payloads compiled, the result booted."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from osvtriage.arch import ARCHES, PPC64LE, X86_64
from osvtriage.guest.qemu import Boot, machine_arguments
from osvtriage.images.atomic import new_file, sweep
from osvtriage.images.build import results_directory
from osvtriage.images.cpio import archive, character_device, directory, regular, symlink
from osvtriage.images.debian import Archive
from osvtriage.images.payload import compile_payload
from osvtriage.images.processes import run
from osvtriage.images.progress import silent
from osvtriage.images.record import Disk, Image
from osvtriage.images.store import ImageStore, initrd
from osvtriage.model.errors import ImageError, LimitExceeded

pytestmark = pytest.mark.guest

BOOKWORM, TRIXIE = "debian-bookworm-ppc64le", "debian-trixie-ppc64le"

# A boot takes 8 s on an idle machine.
_BOOT_LIMIT = 180

_PAYLOAD = """\
#include <stdio.h>
#include "number.h"
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        printf("argument %s\\n", argv[i]);
    return NUMBER;
}
"""

# A boot sector that writes itself to the second sector of a disk, reads that back, and resets the
# machine where it reads what it wrote: QEMU then ends (-no-reboot). Else it hangs. The disk is the
# BIOS's number at 0x10 and 0x1e. The listing is objdump's.
_WRITER = bytes.fromhex(
    "31c0"  #       xor  %ax,%ax
    "8ed8"  #       mov  %ax,%ds
    "8ec0"  #       mov  %ax,%es
    "bb007c"  #     mov  $0x7c00,%bx      this sector
    "b80103"  #     mov  $0x0301,%ax      write one sector
    "b90200"  #     mov  $0x2,%cx         cylinder 0, sector 2
    "ba8000"  #     mov  $0x80,%dx        head 0, the first disk
    "cd13"  #       int  $0x13
    "bb0080"  #     mov  $0x8000,%bx
    "b80102"  #     mov  $0x0201,%ax      read one sector
    "b90200"  #     mov  $0x2,%cx
    "ba8000"  #     mov  $0x80,%dx
    "cd13"  #       int  $0x13
    "a1007c"  #     mov  0x7c00,%ax
    "3b060080"  #   cmp  0x8000,%ax
    "7504"  #       jne  1f
    "b0fe"  #       mov  $0xfe,%al        the keyboard controller's reset line
    "e664"  #       out  %al,$0x64
    "f4"  #      1: hlt
    "ebfd"  #       jmp  1b
)
_WRITER_DISK_AT = (0x10, 0x1E)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def places(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSVTRIAGE_CACHE", str(cache))
    monkeypatch.setenv("OSVTRIAGE_DATA", str(tmp_path / "data"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "number.h").write_text("#define NUMBER 7\n")
    (tmp_path / "say.c").write_text(_PAYLOAD)
    return tmp_path / "say.c"


@pytest.fixture(params=[BOOKWORM, TRIXIE])
def image(request: pytest.FixtureRequest) -> Image:
    return ImageStore().ensure(request.param)


def boot(image: Image, initramfs: Path, *arguments: str) -> str:
    """What the guest printed until it switched itself off."""
    arch = ARCHES[image.arch]
    append = f"console={arch.console} {image.append} -- {' '.join(arguments)}"
    command = [
        *(arch.qemu, "-M", *arch.machine, "-cpu", arch.cpu, "-m", str(image.memory)),
        *("-nographic", "-vga", "none", "-nic", "none", "-no-reboot"),
        *("-kernel", str(image.kernel), "-initrd", str(initramfs), "-append", append),
    ]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_BOOT_LIMIT,
        check=True,
    )
    return done.stdout.replace("\r\n", "\n")


@pytest.mark.parametrize("number", [0, 1], ids=["the kernel", "a further disk"])
def test_a_guest_does_not_change_its_disks(tmp_path: Path, number: int) -> None:
    sector = bytearray(_WRITER.ljust(510, b"\0") + b"\x55\xaa")
    for at in _WRITER_DISK_AT:
        sector[at] = 0x80 + number
    # Of a size for which the BIOS finds a geometry. A comma in the name is one of QEMU's options'.
    paths = [tmp_path / f"disk,{n}" for n in range(2)]
    for path in paths:
        path.write_bytes(sector.ljust(4 << 20, b"\0"))
    before = [path.read_bytes() for path in paths]
    boot = Boot(
        arch=X86_64,
        kernel=paths[0],
        kernel_format="raw",
        initrd=None,
        append="",
        memory=64,
        smp=1,
        accelerator="tcg",
        cpu="max",
        disks=(Disk(paths[1], "raw", ""),),
    )
    command = machine_arguments(Path(X86_64.qemu), boot)
    subprocess.run(command, stdin=subprocess.DEVNULL, timeout=_BOOT_LIMIT, check=True)
    assert [path.read_bytes() for path in paths] == before
    # Without the overlay the same guest does change the disk that it writes to, and no other.
    writable = [argument.replace(",snapshot=on", "") for argument in command]
    subprocess.run(writable, stdin=subprocess.DEVNULL, timeout=_BOOT_LIMIT, check=True)
    after = bytearray(before[number])
    after[512:1024] = sector
    assert paths[number].read_bytes() == after
    assert paths[1 - number].read_bytes() == before[1 - number]


def test_two_builds_at_once_make_one_image(cache: Path) -> None:
    script = (
        "from osvtriage.images.store import ImageStore\n"
        f"ImageStore().build({TRIXIE!r}, progress=lambda message: print(message, flush=True))\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("downloading" in output for output in outputs) == 1
    assert sum("waiting for another osvtriage" in output for output in outputs) == 1
    assert not list(cache.rglob(".part-*"))


def test_a_built_image_is_recorded(image: Image) -> None:
    assert hashlib.sha256(image.kernel.read_bytes()).hexdigest() == image.kernel_sha256
    assert image.kernel_version.endswith("-powerpc64le")
    assert [package.name for package in image.packages][1] == "busybox-static"
    assert image.packages[0].name.endswith("-powerpc64le")
    assert all(len(package.sha256) == 64 for package in image.packages)
    assert ImageStore().verify(image.name) == ()


def test_a_built_image_is_there_at_once(image: Image) -> None:
    messages: list[str] = []
    assert ImageStore().ensure(image.name, messages.append) == image
    assert ImageStore().build(image.name, progress=messages.append) == image
    assert not messages


def test_a_suite_whose_image_package_holds_no_kernel() -> None:
    """On sid the kernel is in a package that the image package depends on."""
    try:
        image = ImageStore().ensure("debian-sid-ppc64le")
    except ImageError as error:
        if "expired" not in str(error):
            raise
        pytest.skip("the mirror's copy of sid is too old for apt to trust it")
    assert image.kernel_version.endswith("-powerpc64le")
    assert "sid" in image.name
    assert ImageStore().verify(image.name) == ()


def test_an_update_without_newer_packages_downloads_nothing(image: Image) -> None:
    messages: list[str] = []
    assert ImageStore().build(image.name, update=True, progress=messages.append) == image
    assert "newest packages already" in messages[-1]


def test_an_update_replaces_older_packages_and_damaged_files() -> None:
    store = ImageStore()
    image = store.ensure(TRIXIE)
    results = results_directory(TRIXIE)
    os.truncate(image.busybox, 100)
    again = store.build(TRIXIE)
    assert again.kernel == image.kernel
    assert store.verify(TRIXIE) == ()
    # As if an older result were the current one: the newest is made beside it, and takes its place.
    old = results / "6.0-old"
    image.kernel.parent.rename(old)
    (results / "current").unlink()
    (results / "current").symlink_to(old.name)
    record = (old / "image.json").read_text()
    (old / "image.json").write_text(record.replace('"linux-image-powerpc64le"', '"older"'))
    assert store.get(TRIXIE).kernel.parent == old
    assert store.build(TRIXIE, update=True).kernel == image.kernel
    assert sorted(path.name for path in results.iterdir()) == sorted(
        ["current", old.name, image.kernel.parent.name]
    )


def test_the_payload_runs_and_its_status_comes_back(image: Image, source: Path) -> None:
    output = boot(image, initrd(image, compile_payload(source, PPC64LE)), "one", "--two=2")
    lines = output.splitlines()
    assert "osvtriage: ready" in lines
    assert "argument one" in lines
    assert "argument --two=2" in lines
    assert "osvtriage: exit status=7" in lines


def test_an_image_without_payload_says_so() -> None:
    image = ImageStore().ensure(BOOKWORM)
    assert "\nosvtriage: exit status=127\n" in boot(image, initrd(image, None))


def test_the_host_is_left_alone() -> None:
    def architectures() -> str:
        command = ["dpkg", "--print-foreign-architectures"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def lists() -> dict[str, int]:
        found = Path("/var/lib/apt/lists").glob("*_Packages*")
        return {path.name: path.stat().st_mtime_ns for path in found}

    before = architectures(), lists()
    ImageStore().build(TRIXIE, update=True)
    assert (architectures(), lists()) == before


def test_a_suite_that_the_mirror_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the mirror does not have this suite") as caught:
        Archive("nonesuch", "ppc64el", tmp_path / "apt", silent).update()
    assert "OSVTRIAGE_DEBIAN_MIRROR" in str(caught.value.hint)


def test_a_processor_that_the_suite_does_not_have(tmp_path: Path) -> None:
    archive = Archive("bookworm", "vax", tmp_path / "apt", silent)
    archive.update()
    with pytest.raises(ImageError, match="has no package busybox-static for vax"):
        archive.newest("busybox-static")


def test_a_package_that_the_suite_does_not_have(tmp_path: Path) -> None:
    archive = Archive("bookworm", "ppc64el", tmp_path / "apt", silent)
    archive.update()
    with pytest.raises(ImageError, match="has no package linux-image-vax for ppc64el"):
        archive.newest("linux-image-vax")
    with pytest.raises(ImageError, match=r"neither busybox-static .* holds a kernel"):
        archive.fetch_kernel("busybox-static", tmp_path / "vmlinux", tmp_path)


def test_a_mirror_that_is_not_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 ("discard") of this machine: nothing listens there.
    monkeypatch.setenv("OSVTRIAGE_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ImageError, match="the mirror was not reached"):
        Archive("bookworm", "ppc64el", tmp_path / "apt", silent).update()


def test_a_mirror_whose_signature_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tmp_path / "mirror" / "dists" / "bookworm" / "Release"
    release.parent.mkdir(parents=True)
    release.write_text(
        "Origin: Debian\nLabel: Debian\nSuite: oldstable\nCodename: bookworm\n"
        "Date: Sat, 10 Jun 2023 08:00:00 UTC\nArchitectures: ppc64el\nComponents: main\nSHA256:\n"
    )
    monkeypatch.setenv("OSVTRIAGE_DEBIAN_MIRROR", f"file:{tmp_path}/mirror")
    with pytest.raises(ImageError, match="its signature was not accepted"):
        Archive("bookworm", "ppc64el", tmp_path / "apt", silent).update()


def test_cpio_reads_the_archive(tmp_path: Path) -> None:
    entries = [
        directory("dev"),
        directory("tmp", 0o1777),
        regular("bin", b"x" * 5, 0o755),
        symlink("sh", "bin"),
        character_device("dev/null", 1, 3, 0o666),
    ]
    data = archive(entries) + archive([regular("payload", b"y")])
    done = subprocess.run(
        ["cpio", "-itv", "--numeric-uid-gid"], input=data, capture_output=True, check=True
    )
    seen = [line.split() for line in done.stdout.decode().splitlines()]
    assert [line[0] for line in seen] == [
        "drwxr-xr-x", "drwxrwxrwt", "-rwxr-xr-x", "lrwxrwxrwx", "crw-rw-rw-",
    ]  # fmt: skip
    assert seen[3][-3:] == ["sh", "->", "bin"]
    assert seen[4][4:6] == ["1,", "3"]
    assert all(line[2:4] == ["0", "0"] for line in seen)


def test_a_payload_is_compiled_once_for_its_contents(source: Path) -> None:
    messages: list[str] = []
    (source.parent / "number.h").write_text("#define NUMBER 9\n")
    program = compile_payload(source, PPC64LE, messages.append)
    assert compile_payload(source, PPC64LE, messages.append) == program
    assert len(messages) == 1
    (source.parent / "number.h").write_text("#define NUMBER 8\n")
    assert compile_payload(source, PPC64LE, messages.append) != program


def test_a_payload_that_does_not_compile(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text("int main(void) { return x; }\n")
    with pytest.raises(ImageError, match=r"bad\.c does not compile for ppc64le:[^$]*undeclared"):
        compile_payload(tmp_path / "bad.c", PPC64LE)


def test_a_program_at_work_is_heard_of_until_it_ends(tmp_path: Path) -> None:
    ticked = tmp_path / "ticked"
    script = f"while [ ! -e '{ticked}' ]; do :; done; echo done; exit 3"
    done = run(["sh", "-c", script], limit=60, ticking=ticked.touch, tick_seconds=0.01)
    assert (done.status, done.output) == (3, "done\n")


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(LimitExceeded, match="`sleep 1000` did not end within 0 s"):
        run(["sleep", "1000"], limit=0, tick_seconds=0.01)


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from osvtriage.images.atomic import new_file\n"
        "with new_file(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); print('ready', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "kernel")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        assert sweep(tmp_path) == []
        writer.send_signal(signal.SIGKILL)
    assert len(sweep(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        with pytest.raises(ImageError, match="no space to write"), new_file(small / "f") as file:
            file.write(bytes(2 << 20))
        assert list(small.iterdir()) == []
        monkeypatch.setenv("OSVTRIAGE_CACHE", str(small))
        with pytest.raises(ImageError, match="no space to write") as caught:
            ImageStore().build(TRIXIE)
        assert "OSVTRIAGE_CACHE" in str(caught.value.hint)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_command_line_loads_no_heavy_module() -> None:
    script = (
        "import sys, osvtriage.cli.images; print('pydantic' in sys.modules, 'rich' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"
