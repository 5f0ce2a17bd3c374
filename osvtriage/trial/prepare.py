"""Everything that a trial needs before a process is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from osvtriage.arch import Arch
from osvtriage.guest import accelerator, programs
from osvtriage.guest.qemu import Boot
from osvtriage.images import patch, payload, store
from osvtriage.images.patch import AppliedPatch
from osvtriage.images.record import file_sha256
from osvtriage.model.errors import UsageError
from osvtriage.model.plan import GdbPlan
from osvtriage.symbols.elf import ElfImage
from osvtriage.systems import linux
from osvtriage.trial.request import Observer, Request
from osvtriage.trial.resolve import arch_of, resolve


@dataclass(frozen=True, slots=True)
class Prepared:
    """A trial ready to boot. ``elf`` is the kernel as booted; close it when the trial is over."""

    arch: Arch
    boot: Boot
    qemu: Path
    gdb: Path
    accelerator: accelerator.Accelerator
    elf: ElfImage
    plan: GdbPlan
    patches: tuple[AppliedPatch, ...]
    kernel_sha256: str
    initrd_sha256: str
    banner_address: int
    banner: bytes
    rendezvous: int


def prepare(request: Request, observer: Observer) -> Prepared:
    """Patch the kernel, make the initramfs, find the programs, resolve the probes.

    Raises:
        OsvtriageError: whatever is missing or does not fit, each with its sentence.
    """
    arch, image, recipe = arch_of(request.recipe), request.image, request.recipe
    if (image.system, image.arch) != (recipe.system, recipe.arch):
        raise UsageError(
            f"recipe {recipe.name} is for {recipe.system} on {recipe.arch}; "
            f"image {image.name} holds {image.system} on {image.arch}"
        )
    qemu = programs.find_qemu(arch, request.qemu)
    gdb = programs.find_gdb(arch)
    chosen = accelerator.choose(arch, request.accelerator, qemu)
    workload = recipe.workload
    observer.phase("image", f"{image.name}, kernel {image.kernel_version}")
    program = _payload(arch, workload.payload, observer)
    initrd = store.initrd(image, program)
    wanted = [item for item in recipe.patch if item.name in request.variant.patch]
    kernel, patches = image.kernel, ()
    sha256 = image.kernel_sha256
    if wanted:
        kernel, patches = patch.apply(image.kernel, image.kernel_sha256, arch, wanted)
        if kernel != image.kernel:
            sha256 = file_sha256(kernel)
    elf = ElfImage(kernel, arch)
    try:
        plan = resolve(recipe, elf)
        banner = elf.string(linux.BANNER)
        return Prepared(
            arch=arch,
            boot=Boot(
                arch=arch,
                kernel=kernel,
                initrd=initrd,
                append=_append(request, arch),
                memory=image.memory,
                smp=request.smp,
                accelerator=chosen.name,
            ),
            qemu=qemu,
            gdb=gdb,
            accelerator=chosen,
            elf=elf,
            plan=plan,
            patches=patches,
            kernel_sha256=sha256,
            initrd_sha256=file_sha256(initrd),
            banner_address=elf.symbol(linux.BANNER).address,
            banner=banner,
            rendezvous=elf.symbol(linux.LAST_BOOT_FUNCTION).entry,
        )
    except BaseException:
        elf.close()
        raise


def _append(request: Request, arch: Arch) -> str:
    """The kernel's command line; what follows `--` reaches init, and so the payload."""
    arguments = [*request.recipe.workload.arguments, *request.variant.arguments]
    parts = [f"console={arch.console}", request.image.append, "panic=-1"]
    if request.recipe.workload.payload:
        parts += ["--", "--seed", str(request.seed), *arguments]
    return " ".join(part for part in parts if part)


def _payload(arch: Arch, name: str | None, observer: Observer) -> Path | None:
    if name is None:
        return None

    def progress(message: str) -> None:
        observer.phase("image", message)

    return payload.compile_payload(payload.payload_source(name), arch, progress)
