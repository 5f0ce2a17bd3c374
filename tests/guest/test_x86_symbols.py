"""Symbols, types and tables of Debian's amd64 kernels, against the guests that run them."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import LIMIT

from osvtriage.arch import X86_64
from osvtriage.guest.programs import find_gdb
from osvtriage.images import cpio
from osvtriage.images.debian import Archive
from osvtriage.images.kernel import check_kernel
from osvtriage.images.places import cache_directory
from osvtriage.images.progress import silent
from osvtriage.model.errors import GuestError, ImageError
from osvtriage.model.plan import GdbPlan
from osvtriage.symbols import linux
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.layout import Layout, Sample
from osvtriage.trial.identity import compare

# Debian's suites, and how many vCPUs the guest gets: with one, Linux removes lock prefixes as well.
SUITES = {"bullseye": 1, "bookworm": 1, "trixie": 2, "sid": 2}
PACKAGE = "linux-image-amd64"

# The program: mov $39, %eax; syscall (getpid); jmp to the begin.
USER = 0x401000
PROGRAM = bytes.fromhex("b827000000 0f05 ebf7")
# Where the guest is stopped, in that order, and who runs there: the first task is "swapper" until
# the scheduler is there, pid 1 is "swapper/0" until it becomes the program, which is "init".
STOPS = (
    ("start_kernel", 0, "swapper", 0),
    ("kernel_init", 0, "swapper/0", 1),
    ("the program", 3, "init", 1),
    # Before `swapgs`: in the kernel, with the program's gs_base.
    ("entry_SYSCALL_64", 0, "init", 1),
    ("do_syscall_64", 0, "init", 1),
)
CODE = ("schedule", "kernel_init", "do_syscall_64", "panic")


def vmlinuz(suite: str, directory: Path) -> Path:
    """The newest kernel of *suite*, kept between sessions."""
    archive = Archive(suite, X86_64.debian, directory / "apt", silent)
    try:
        archive.update()
    except ImageError as error:
        if "does not have this suite" in str(error):
            pytest.skip(str(error))
        raise
    path = cache_directory() / "tests" / archive.newest(PACKAGE).sha256 / "vmlinuz"
    if not path.exists():
        archive.fetch_kernel(PACKAGE, path, directory)
    return path


def initramfs() -> bytes:
    """One program, as small as ELF has it: /init."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, USER, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = 0x1000 + len(PROGRAM)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, USER - 0x1000, USER - 0x1000, size, size, 0x1000)
    program = (ident + header + segment).ljust(0x1000, b"\0") + PROGRAM
    return cpio.archive([cpio.regular("init", program, 0o755)])


@dataclass
class Seen:
    """A guest that was stopped, and what is known of its kernel."""

    suite: str
    elf: ElfImage
    layout: Layout
    samples: list[Sample]
    answer: dict[str, Any]
    text: bytes


def look(kernel: Path, suite: str, elf: ElfImage, layout: Layout, directory: Path) -> Seen:
    text = elf.section(".text")
    samples = [*layout.samples]
    for name in CODE:
        # As a trial does: past what the kernel rewrites.
        address = elf.symbol(name).address
        while any(at in layout.rewritten for at in range(address, address + 4)):
            address += 1
        samples.append(Sample(name, address, 4))
    stub, answer = directory / "gdb.sock", directory / "answer.json"
    task = {
        "package": str(Path(__file__).parents[2]),
        "plan": asdict(GdbPlan(X86_64.name, layout.thread, ())),
        "stub": str(stub),
        "stops": [(n, USER if n == "the program" else elf.symbol(n).address) for n, *_ in STOPS],
        "samples": [(sample.address, sample.size) for sample in samples],
        "dumps": [(text.address, text.size, str(directory / "text"))],
        "answer": str(answer),
    }
    (directory / "stops.json").write_text(json.dumps(task))
    (directory / "initramfs").write_bytes(initramfs())
    qemu = subprocess.Popen(
        [
            # As a trial does: with threads, two vCPUs trip over code that is rewritten.
            *(X86_64.qemu, "-accel", "tcg,thread=single", "-cpu", "max", "-m", "512"),
            "-nodefaults",
            *("-smp", str(SUITES[suite]), "-display", "none", "-no-reboot", "-S"),
            *("-kernel", str(kernel), "-initrd", str(directory / "initramfs")),
            *("-append", "console=ttyS0 nokaslr pti=off panic=-1 no_timer_check"),
            *("-serial", f"file:{directory / 'console'}"),
            *("-chardev", f"socket,id=gdb,path={stub},server=on,wait=off", "-gdb", "chardev:gdb"),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        script = Path(__file__).with_name("x86_stops.py")
        done = subprocess.run(
            [str(find_gdb(X86_64)), "-nx", "-batch", "-x", str(script)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "OSVTRIAGE_STOPS": str(directory / "stops.json")},
            timeout=LIMIT,
            check=False,
        )
    finally:
        qemu.kill()
        qemu.wait()
    console = directory / "console"
    said = console.read_text(errors="replace")[-2000:] if console.exists() else ""
    assert answer.exists(), f"{done.stdout}\n{done.stderr}\n{said}"
    seen = json.loads(answer.read_text())
    return Seen(suite, elf, layout, samples, seen, (directory / "text").read_bytes())


@pytest.fixture(scope="module", params=sorted(SUITES))
def seen(request: pytest.FixtureRequest) -> Iterator[Seen]:
    # A short path, for the socket.
    with tempfile.TemporaryDirectory(prefix="ot-", dir="/tmp") as directory:
        kernel = check_kernel(vmlinuz(request.param, Path(directory)), X86_64)
        with ElfImage(kernel.symbols, X86_64) as elf:
            yield look(kernel.path, request.param, elf, linux.layout(elf), Path(directory))


def test_the_current_task_is_known_in_every_mode(seen: Seen) -> None:
    """Also where the kernel was entered and the program's gs_base is still there."""
    told = [(stop["at"], stop["level"], stop["comm"], stop["pid"]) for stop in seen.answer["stops"]]
    assert told == list(STOPS)
    assert all(stop["pc"] == stop["address"] for stop in seen.answer["stops"])
    first, kernel, *program = seen.answer["stops"]
    assert first["task"] == seen.elf.symbol("init_task").address
    assert {stop["task"] for stop in program} == {kernel["task"]}
    # The control: gs_base alone would have found nothing there.
    assert [stop["gs_base"] == 0 for stop in program] == [True, True, False]


def test_what_tells_the_kernel_is_in_the_guest(seen: Seen) -> None:
    for sample, there in zip(seen.samples, seen.answer["samples"], strict=True):
        compare(sample, seen.elf, bytes.fromhex(there))
        with pytest.raises(GuestError, match=r"linux_banner is|code at"):
            compare(sample, seen.elf, bytes(sample.size))


def test_all_code_is_the_files_but_for_what_the_kernel_says_that_it_rewrites(seen: Seen) -> None:
    text = seen.elf.section(".text")
    file = seen.elf.read(text.address, text.size)
    differ = [text.address + at for at, byte in enumerate(file) if byte != seen.text[at]]
    unknown = [at for at in differ if at not in seen.layout.rewritten]
    where = sorted({symbol.name for at in unknown if (symbol := seen.elf.containing(at))})
    assert not unknown, f"{len(unknown)} bytes in {where[:20]}"
    # The control: there is much that differs, and by far most of the code is compared.
    assert len(differ) > 100_000
    some = range(text.address, text.address + text.size, 61)
    assert sum(at in seen.layout.rewritten for at in some) < len(some) / 8
