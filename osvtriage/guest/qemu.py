"""QEMU's command line for one guest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from osvtriage.arch import Arch
from osvtriage.images.record import Disk, DiskFormat, KernelFormat


@dataclass(frozen=True, slots=True)
class Execution:
    """A log of all that reaches a guest from outside, by instruction count: to be written while it
    runs (``record``), or to run by (``replay``). QEMU's docs/system/replay.rst."""

    mode: Literal["record", "replay"]
    log: Path


@dataclass(frozen=True, slots=True)
class Boot:
    """What a guest boots from and on.

    A kernel that is a disk is the guest's first disk, and boots by its own boot sector: ``initrd``
    and ``append`` do not reach it. ``snapshots`` is a raw file over which QEMU can keep snapshots
    of the whole guest, which does not see it. ``execution`` is the log of a run that is recorded or
    replayed.
    """

    arch: Arch
    kernel: Path
    initrd: Path | None
    append: str
    memory: int
    smp: int
    accelerator: str
    cpu: str
    kernel_format: KernelFormat = "elf"
    disks: tuple[Disk, ...] = ()
    snapshots: Path | None = None
    execution: Execution | None = None


@dataclass(frozen=True, slots=True)
class Sockets:
    """The unix sockets of one run, in its directory."""

    directory: Path

    @property
    def gdb(self) -> Path:
        """The gdb stub. It serves one gdb."""
        return self.directory / "gdb.sock"

    @property
    def qmp(self) -> Path:
        """QMP for osvtriage. A QMP socket serves one client."""
        return self.directory / "qmp.sock"

    @property
    def qmp_outside(self) -> Path:
        """QMP for whoever wants to look from outside."""
        return self.directory / "qmp-outside.sock"

    @property
    def console(self) -> Path:
        """The guest's serial console."""
        return self.directory / "console.sock"


def machine_arguments(qemu: Path, boot: Boot) -> list[str]:
    """The part of the command line that makes the guest what it is, without its connections.

    No network, no host folder, no display; a reset ends QEMU, so that a panic cannot boot again.
    """
    arguments = [str(qemu)]
    for machine in boot.arch.machine:
        arguments += ["-M", machine]
    arguments += ["-accel", boot.accelerator, "-cpu", boot.cpu]
    arguments += ["-m", str(boot.memory), "-smp", str(boot.smp)]
    if boot.execution is not None:
        log = _escaped(boot.execution.log)
        # A fixed pace. Where QEMU adapts it to the host's (shift=auto), replays of a busy host's
        # recordings differ in TB and DECR (7.2, measured: 2 of 6; at this pace none of 26).
        arguments += ["-icount", f"shift=1,rr={boot.execution.mode},rrfile={log}"]
    arguments += ["-nodefaults", "-vga", "none", "-display", "none", "-nic", "none", "-no-reboot"]
    disks = [(disk.path, disk.format) for disk in boot.disks]
    if boot.kernel_format in ("raw", "qcow2"):
        disks.insert(0, (boot.kernel, boot.kernel_format))
    else:
        arguments += ["-kernel", str(boot.kernel)]
        if boot.initrd is not None:
            arguments += ["-initrd", str(boot.initrd)]
        arguments += ["-append", boot.append]
    for number, (path, format_) in enumerate(disks):
        arguments += _disk(f"disk{number}", path, format_, boot.execution is not None)
    if boot.snapshots is not None:
        # No device has it, so the guest does not see it; savevm takes any image that is written to.
        arguments += _disk("snapshots", boot.snapshots, "raw")[:2]
    return arguments


def _disk(name: str, path: Path, format_: DiskFormat, logged: bool = False) -> list[str]:
    """A disk of the guest.

    What the guest writes goes into an overlay (snapshot=on): a file that QEMU makes in TMPDIR or
    /var/tmp and unlinks at once, so that it is gone however QEMU ends. *path* is opened for reading
    only. The format is said, for QEMU would else go by the disk's own bytes, which may be
    somebody's attempt to have it open another file of the host as the disk's backing file. Where
    the execution is *logged*, the disk's answers come when the log has them.
    """
    drive = f"file={_escaped(path)},if=none,id={name},format={format_},snapshot=on"
    arguments = ["-drive", drive]
    if logged:
        arguments += ["-drive", f"driver=blkreplay,if=none,image={name},id={name}-logged"]
        name = f"{name}-logged"
    return [*arguments, "-device", f"virtio-blk-pci,drive={name}"]


def command_line(
    qemu: Path,
    boot: Boot,
    sockets: Sockets,
    console_log: Path,
    more_append: str = "",
    second_log: Path | None = None,
) -> list[str]:
    """The whole command line: stopped at reset (-S) until gdb lets the guest go.

    Args:
        more_append: kernel arguments that only a guest with somebody at its console should get.
        second_log: what the guest prints on its second serial port. Nothing is lost there, and it
            is in the file as soon as it is printed; the console loses what its reader is too slow
            for.
    """
    watched = replace(boot, append=f"{more_append} {boot.append}".strip())
    return [
        *machine_arguments(qemu, watched),
        "-S",
        *_chardev("gdb", sockets.gdb),
        "-gdb",
        "chardev:gdb",
        *_chardev("qmp", sockets.qmp),
        "-mon",
        "chardev=qmp,mode=control",
        *_chardev("qmp-outside", sockets.qmp_outside),
        "-mon",
        "chardev=qmp-outside,mode=control",
        # Appended to, so that the log can be emptied between the trials of one guest.
        *_chardev("console", sockets.console, f",logfile={_escaped(console_log)},logappend=on"),
        "-serial",
        "chardev:console",
        *(_log_port(second_log) if second_log is not None else ()),
    ]


def _log_port(path: Path) -> list[str]:
    return ["-chardev", f"file,id=log,path={_escaped(path)}", "-serial", "chardev:log"]


def _chardev(name: str, path: Path, more: Sequence[str] | str = "") -> list[str]:
    return ["-chardev", f"socket,id={name},path={_escaped(path)},server=on,wait=off{more}"]


def _escaped(path: Path) -> str:
    """*path* as an option's value: QEMU's option parser ends a value at a comma, unless doubled."""
    return str(path).replace(",", ",,")
