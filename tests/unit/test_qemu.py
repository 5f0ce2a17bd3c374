"""QEMU's command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from osvtriage.arch import PPC64LE, X86_64
from osvtriage.guest.qemu import Boot, machine_arguments
from osvtriage.images.record import Disk

QEMU = Path("/usr/bin/qemu")
LINUX = Boot(
    arch=PPC64LE,
    kernel=Path("/k/vmlinux"),
    initrd=Path("/i/initramfs.cpio"),
    append="panic=-1 quiet",
    memory=1024,
    smp=2,
    accelerator="tcg",
    cpu="power9",
)
OSV = replace(LINUX, arch=X86_64, kernel=Path("/o/kernel"), initrd=None, append="/hello", smp=1)


def drives(boot: Boot) -> list[str]:
    """What follows what every guest has."""
    arguments = machine_arguments(QEMU, boot)
    return arguments[arguments.index("-no-reboot") + 1 :]


def test_a_linux_guest() -> None:
    assert machine_arguments(QEMU, LINUX) == [
        "/usr/bin/qemu",
        *(item for machine in PPC64LE.machine for item in ("-M", machine)),
        *("-accel", "tcg", "-cpu", "power9", "-m", "1024", "-smp", "2"),
        *("-nodefaults", "-vga", "none", "-display", "none", "-nic", "none", "-no-reboot"),
        *("-kernel", "/k/vmlinux", "-initrd", "/i/initramfs.cpio", "-append", "panic=-1 quiet"),
    ]


def test_an_elf_kernel_with_a_disk() -> None:
    assert drives(replace(OSV, disks=(Disk(Path("/o/disk0"), "qcow2", ""),))) == [
        *("-kernel", "/o/kernel", "-append", "/hello"),
        *("-drive", "file=/o/disk0,if=none,id=disk0,format=qcow2,snapshot=on"),
        *("-device", "virtio-blk-pci,drive=disk0"),
    ]


def test_a_compressed_kernel_is_loaded_like_an_elf_file() -> None:
    boot = replace(LINUX, arch=X86_64, kernel_format="bzimage")
    assert machine_arguments(QEMU, boot)[-6:] == machine_arguments(QEMU, LINUX)[-6:]


def test_a_kernel_that_is_a_disk_is_the_first() -> None:
    boot = replace(OSV, kernel_format="raw", disks=(Disk(Path("/o/more"), "qcow2", ""),))
    assert drives(boot) == [
        *("-drive", "file=/o/kernel,if=none,id=disk0,format=raw,snapshot=on"),
        *("-device", "virtio-blk-pci,drive=disk0"),
        *("-drive", "file=/o/more,if=none,id=disk1,format=qcow2,snapshot=on"),
        *("-device", "virtio-blk-pci,drive=disk1"),
    ]


def test_a_comma_in_a_path_is_doubled() -> None:
    boot = replace(OSV, kernel=Path("/a,b/k"), kernel_format="raw")
    assert drives(boot)[1] == "file=/a,,b/k,if=none,id=disk0,format=raw,snapshot=on"
