"""The files and programs that a trial needs before a process is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from osvtriage.arch import ARCHES, Arch
from osvtriage.guest import accelerator, programs
from osvtriage.guest.qemu import Boot
from osvtriage.images import patch, payload, store
from osvtriage.images.patch import PatchedKernel
from osvtriage.images.record import file_sha256
from osvtriage.model.errors import UsageError
from osvtriage.trial.request import Observer, Request


@dataclass(frozen=True, slots=True)
class Prepared:
    """A trial ready to boot."""

    arch: Arch
    boot: Boot
    kernel: PatchedKernel
    initrd_sha256: str
    qemu: Path
    gdb: Path
    accelerator: accelerator.Accelerator


def prepare(request: Request, observer: Observer) -> Prepared:
    """Find the programs, make the initramfs, patch the kernel.

    Raises:
        OsvtriageError: whatever is missing or does not fit, each with its sentence.
    """
    recipe, image = request.recipe, request.image
    arch = ARCHES[recipe.arch]
    if (image.system, image.arch) != (recipe.system, recipe.arch):
        raise UsageError(
            f"recipe {recipe.name} is for {recipe.system} on {recipe.arch}; "
            f"image {image.name} holds {image.system} on {image.arch}"
        )
    qemu = programs.find_qemu(arch, request.qemu)
    gdb = programs.find_gdb(arch)
    # No recipe says yet that it is sound under KVM, so KVM runs only when it is asked for.
    chosen = accelerator.choose(arch, "kvm" if request.accelerator == "kvm" else "tcg", qemu)

    def progress(message: str) -> None:
        observer.phase("image", message)

    program = None
    if recipe.workload.payload:
        source = payload.payload_source(recipe.workload.payload, request.recipe_directory)
        program = payload.compile_payload(source, arch, progress)
    initrd = store.initrd(image, program)
    wanted = [item for item in recipe.patch if item.name in request.variant.patch]
    kernel = patch.patched(image.kernel, image.kernel_sha256, arch, wanted)
    return Prepared(
        arch=arch,
        boot=Boot(
            arch=arch,
            kernel=kernel.path,
            initrd=initrd,
            append=_append(request, arch),
            memory=image.memory,
            smp=request.smp,
            accelerator=chosen.name,
            cpu=chosen.cpu,
        ),
        kernel=kernel,
        initrd_sha256=file_sha256(initrd),
        qemu=qemu,
        gdb=gdb,
        accelerator=chosen,
    )


def _append(request: Request, arch: Arch) -> str:
    """The kernel's command line; what follows ``--`` reaches init, and so the payload."""
    arguments = [*request.recipe.workload.arguments, *request.variant.arguments]
    parts = [f"console={arch.console}", request.image.append, "panic=-1"]
    if request.recipe.workload.payload:
        parts += ["--", "--seed", str(request.seed), *arguments]
    return " ".join(part for part in parts if part)
