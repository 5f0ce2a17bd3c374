"""Which accelerator can run guests of a processor on this host.

Decided by running a guest of a few bytes, never by looking at ``/dev/kvm``: that can exist and open
while no kernel ever gets anywhere under it (QEMU then spends all its time in the host's kernel).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from osvtriage.arch import Arch
from osvtriage.guest.probe_guests import PROBE_GUESTS, ProbeGuest
from osvtriage.guest.programs import find_qemu
from osvtriage.images.atomic import new_file
from osvtriage.images.places import cache_directory
from osvtriage.model.errors import MissingRequirement, OsvtriageError, UsageError

AcceleratorName = Literal["tcg", "kvm"]
Request = Literal["auto", "tcg", "kvm"]

# From QEMU's start to its end the probe guests take 0.05 to 0.1 s under TCG on two idle cores, and
# 0.24 s at most with eight busy processes beside them. Under KVM nothing is slower, so 5 s, twenty
# times that, without an end is a guest that does not run. TCG gets longer: it has no reason not to
# run a guest but a machine that stands still.
_LIMIT_S: dict[AcceleratorName, float] = {"kvm": 5.0, "tcg": 30.0}

# How long a killed QEMU may take to be gone; one that is stuck in the host's kernel is not awaited.
_REAP_S = 5.0

_KVM_DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What QEMU gets as ``-accel`` and ``-cpu``, and one sentence that says why."""

    name: AcceleratorName
    reason: str
    cpu: str


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Whether a guest was seen to run, and after how many seconds that was known.

    ``hung`` tells a guest that never ended from a QEMU that refused; ``cached`` an answer that an
    earlier command found since the host was booted.
    """

    usable: bool
    seconds: float
    detail: str
    hung: bool = False
    cached: bool = False


def cpu_model(arch: Arch, name: AcceleratorName) -> str:
    """The ``-cpu`` of guests and probes alike: KVM can offer only what the host's processor has."""
    return "host" if name == "kvm" else arch.cpu


def choose(arch: Arch, requested: Request = "auto", qemu: Path | None = None) -> Accelerator:
    """The accelerator for guests of *arch*; ``auto`` is KVM where a guest was seen to run under it.

    Raises :class:`MissingRequirement` where the one that was asked for does not run a guest.
    """
    if requested not in get_args(Request):
        raise UsageError(f"There is no accelerator {requested!r}: tcg, kvm and auto are known.")
    if requested == "tcg":
        return Accelerator("tcg", "TCG was asked for", cpu_model(arch, "tcg"))
    obstacle = kvm_obstacle(arch)
    if obstacle is None:
        result = probe(arch, "kvm", qemu=qemu)
        if result.usable:
            return Accelerator("kvm", f"KVM {result.detail}", cpu_model(arch, "kvm"))
        obstacle = f"KVM is present but {result.detail}"
    if requested == "kvm":
        raise MissingRequirement(
            f"KVM was asked for, but cannot run {arch.name} guests here: {obstacle}.",
            hint="Use --accel tcg: it needs nothing of the host and gives the same findings.",
        )
    return Accelerator("tcg", obstacle, cpu_model(arch, "tcg"))


def kvm_obstacle(arch: Arch) -> str | None:
    """Why KVM need not even be tried for *arch* on this host, or ``None``."""
    host = platform.machine()
    if host not in arch.kvm_hosts:
        return f"KVM on a {host} host runs no {arch.name} guests"
    if arch.name not in PROBE_GUESTS:
        return f"there is no probe that could show KVM to run {arch.name} guests"
    if not _KVM_DEVICE.exists():
        return f"this host has no {_KVM_DEVICE}"
    return None


def probe(
    arch: Arch,
    name: AcceleratorName,
    *,
    qemu: Path | None = None,
    cpu: str | None = None,
    limit: float | None = None,
    fresh: bool = False,
) -> ProbeResult:
    """Run the probe guest of *arch* under accelerator *name*, or recall that it was run.

    *fresh* does not recall. *limit* is in seconds; *cpu* is QEMU's ``-cpu``.
    """
    program = find_qemu(arch) if qemu is None else qemu
    cpu = cpu_model(arch, name) if cpu is None else cpu
    limit = _LIMIT_S[name] if limit is None else limit
    key = _Key.of(program, arch, name, cpu)
    if not fresh and (known := _recall(key)) is not None:
        return known
    guest = PROBE_GUESTS.get(arch.name)
    if guest is None:
        return ProbeResult(name == "tcg", 0.0, f"has no probe for {arch.name}")
    with _image_file(guest) as image:
        command = [
            str(program),
            *("-no-user-config", "-nodefaults", "-display", "none", "-nic", "none"),
            *(word for machine in arch.machine for word in ("-M", machine)),
            *("-accel", name, "-cpu", cpu),
            *("-bios", str(image), "-no-reboot"),
            *guest.arguments,
        ]
        result = _run(command, guest, image.parent, limit)
    # A refusal (no permission, no module) is found again in 0.1 s, and the user may mend it.
    if result.usable or result.hung:
        _remember(key, result)
    return result


def _run(command: list[str], guest: ProbeGuest, directory: Path, limit: float) -> ProbeResult:
    started = time.monotonic()
    # timeout(1) outlives us: a QEMU that hangs is gone a second later even where this process gets
    # SIGKILL. SIGTERM would not do, as a QEMU that KVM holds in the host's kernel ignores it.
    process = subprocess.Popen(
        ["timeout", "-s", "KILL", f"{limit + 1:g}", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=directory,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return ProbeResult(False, limit, f"its guest did not end in {limit:g} s", hung=True)
    finally:
        _end(process)
    seconds = round(time.monotonic() - started, 3)
    if process.returncode == guest.exit_status and stdout.startswith(guest.output):
        return ProbeResult(True, seconds, f"ran a guest in {seconds:.2f} s")
    return ProbeResult(False, seconds, f"QEMU {_ending(process.returncode, stderr)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill QEMU, so that timeout(1) reaps it and ends; only then, if need be, the two together.

    Killed together, QEMU would be left to process 1, which in a container often reaps nothing.
    """
    if process.returncode is None:
        for child in _children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_REAP_S)
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_REAP_S)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _ending(returncode: int, stderr: bytes) -> str:
    if returncode < 0:
        ending = f"died of {signal.Signals(-returncode).name}"
    else:
        ending = f"ended with status {returncode} and no sign of its guest"
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines()]
    # The first complaint is the cause; what follows it is often an assertion that names no cause.
    said = next((line for line in lines if line and "warning:" not in line), None)
    return ending if said is None else f"{ending} ({said[:200].rstrip('.')})"


@contextlib.contextmanager
def _image_file(guest: ProbeGuest) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="osvtriage-probe-") as directory:
        path = Path(directory) / "firmware"
        path.write_bytes(guest.image)
        yield path


@dataclass(frozen=True, slots=True)
class _Key:
    """What an answer holds for: this QEMU, until the host is booted again."""

    boot_id: str
    qemu: str
    mtime_ns: int
    arch: str
    accelerator: str
    cpu: str

    @classmethod
    def of(cls, qemu: Path, arch: Arch, name: AcceleratorName, cpu: str) -> _Key:
        program = qemu.resolve()
        try:
            boot_id = _BOOT_ID.read_text().strip()
            mtime_ns = program.stat().st_mtime_ns
        except OSError:
            boot_id, mtime_ns = "", 0
        return cls(boot_id, str(program), mtime_ns, arch.name, name, cpu)

    @property
    def file(self) -> Path:
        """One file for each question, however often QEMU is replaced or the host booted."""
        which = hashlib.sha256(f"{self.qemu}\0{self.cpu}".encode()).hexdigest()[:12]
        return cache_directory() / "accelerators" / f"{self.arch}-{self.accelerator}-{which}.json"


def _recall(key: _Key) -> ProbeResult | None:
    """The answer on disk, or ``None`` where there is none for *key*, or none that can be read."""
    if not key.boot_id:
        return None
    try:
        record = json.loads(key.file.read_bytes())
        if record["key"] != asdict(key):
            return None
        result = record["result"]
        return ProbeResult(
            usable=result["usable"] is True,
            seconds=float(result["seconds"]),
            detail=str(result["detail"]),
            hung=result["hung"] is True,
            cached=True,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(key: _Key, result: ProbeResult) -> None:
    """Write the answer, whole or not at all. A cache that cannot be written costs only time."""
    if not key.boot_id:
        return
    record = {"key": asdict(key), "result": asdict(result)}
    with contextlib.suppress(OSError, OsvtriageError), new_file(key.file) as file:
        file.write(json.dumps(record, indent=1).encode() + b"\n")
