"""The files and programs that a trial needs before a process is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from osvtriage.arch import ARCHES, Arch
from osvtriage.guest import accelerator, programs
from osvtriage.guest.qemu import Boot
from osvtriage.images import glibc, patch, payload, store
from osvtriage.images.initramfs import PAYLOAD
from osvtriage.images.patch import PatchedKernel
from osvtriage.images.program import Program, build_program, own_program
from osvtriage.images.progress import Progress
from osvtriage.images.record import Image, file_sha256
from osvtriage.model.errors import MissingRequirement, UsageError
from osvtriage.plugin import build
from osvtriage.symbols.elf import ElfImage
from osvtriage.systems import SYSTEMS
from osvtriage.trial.request import Observer, OwnProgram, Request
from osvtriage.trial.user_process import Files

# Documentation/admin-guide/kernel-parameters.txt. The images have it.
_NO_KASLR = "nokaslr"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A trial ready to boot."""

    arch: Arch
    boot: Boot
    kernel: PatchedKernel
    symbols: Path
    symbols_sha256: str
    initrd_sha256: str | None
    qemu: Path
    gdb: Path
    accelerator: accelerator.Accelerator
    # QEMU's plugin where that engine may be used, else why it is not.
    plugin: Path | None = None
    no_plugin: str | None = None
    files: Files | None = None
    # Whether the userland is osvtriage's, which says when it is ready and waits for a word.
    waits: bool = True


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
    _check_variant(request, arch)
    qemu, plugin, no_plugin = _engine(request, arch)
    gdb = programs.find_gdb(arch)
    # No recipe says yet that it is sound under KVM, so KVM runs only when it is asked for.
    chosen = accelerator.choose(arch, "kvm" if request.accelerator == "kvm" else "tcg", qemu)

    def progress(message: str) -> None:
        observer.phase("image", message)

    program, files = _program(request, arch, progress)
    initrd = None
    if image.busybox is not None:
        libraries = dict(program.libraries) if program else {}
        initrd = store.initrd(image, program.path if program else None, libraries)
    wanted = [item for item in recipe.patch if item.name in request.variant.patch]
    kernel = patch.patched(image.kernel, image.kernel_sha256, arch, wanted)
    symbols, symbols_sha256 = _symbols(image)
    if symbols == image.kernel:
        symbols, symbols_sha256 = kernel.path, kernel.sha256
    return Prepared(
        arch=arch,
        boot=Boot(
            arch=arch,
            kernel=kernel.path,
            initrd=initrd,
            append=_append(request, arch),
            memory=image.memory,
            smp=request.smp,
            accelerator=_accelerator(request, arch, chosen.name),
            cpu=chosen.cpu,
            kernel_format=image.kernel_format,
            disks=image.disks,
        ),
        kernel=kernel,
        symbols=symbols,
        symbols_sha256=symbols_sha256,
        initrd_sha256=file_sha256(initrd) if initrd else None,
        qemu=qemu,
        gdb=gdb,
        accelerator=chosen,
        plugin=plugin,
        no_plugin=no_plugin,
        files=files,
        waits=SYSTEMS[image.system].arm_at is None and image.busybox is not None,
    )


def _accelerator(request: Request, arch: Arch, name: str) -> str:
    """QEMU's ``-accel``."""
    pokes = arch.name in SYSTEMS[request.image.system].pokes_text
    return "tcg,thread=single" if name == "tcg" and pokes and request.smp > 1 else name


def _engine(request: Request, arch: Arch) -> tuple[Path, Path | None, str | None]:
    """QEMU, and the plugin for it or why there is none.

    Raises:
        MissingRequirement: the plugin engine was asked for, and there is no QEMU for it.
        UsageError: it was asked for together with what it cannot do.
    """
    why = None
    if request.engine == "gdb":
        why = "gdb was asked for"
    elif request.accelerator == "kvm":
        why = "under KVM no plugin sees anything"
    elif request.variant.interleave or request.recipe.sweep or request.recipe.context:
        why = "a guest is steered by gdb"
    elif request.record:
        why = "a recording is looked into with gdb"
    elif request.stop_at is not None:
        why = "a session is gdb's"
    elif request.pinpoint is not None and arch.words[request.pinpoint].stub is None:
        why = f"QEMU's plugins see no {request.pinpoint}"
    if why is not None:
        if request.engine == "plugin":
            raise UsageError(f"the plugin engine cannot do that: {why}", "--engine gdb can")
        return programs.find_qemu(arch, request.qemu), None, why
    found = programs.find_plugin_qemu(arch, request.qemu)
    if found.path is not None:
        return found.path, build.plugin(), None
    if request.engine == "plugin":
        raise MissingRequirement(
            f"the plugin engine was asked for, and cannot be used: {found.obstacle}",
            "`osvtriage doctor --fetch-qemu` gets a QEMU for it on Debian 12; --engine auto goes "
            "on with gdb",
        )
    return programs.find_qemu(arch, request.qemu), None, found.obstacle


def _program(
    request: Request, arch: Arch, progress: Progress
) -> tuple[Program | None, Files | None]:
    """The workload's program, and where its probes are in a user process, its files."""
    workload, suite = request.recipe.workload, request.image.glibc_suite
    if request.program is not None:
        return _own_program(request, request.program, arch)
    if workload.payload is None:
        return None, None
    source = payload.payload_source(workload.payload, request.recipe_directory)
    if workload.linkage is None:
        return Program(payload.compile_payload(source, arch, progress), "static-no-pie"), None
    if suite is None:
        raise UsageError(
            f"recipe {request.recipe.name} links its program with the glibc of a Debian suite, and "
            f"image {request.image.name} has none",
            "choose an image that has, such as debian-bookworm-x86_64",
        )
    sysroot = glibc.sysroot(suite, arch, progress)
    program = build_program(source, arch, sysroot, workload.linkage, progress)
    libraries = tuple((path.rpartition("/")[2], here) for path, here in program.libraries)
    return program, Files(PAYLOAD, program.path, libraries, sysroot.debug)


def _own_program(request: Request, own: OwnProgram, arch: Arch) -> tuple[Program, Files]:
    """The user's program: put into the guest, or there already under a name of its own."""
    if request.variant.interleave:
        raise UsageError(
            f"the variant {request.variant.name!r} steers the recipe's own program",
            "the variant as-is watches yours",
        )
    if not any(probe.place for probe in request.recipe.probe):
        raise UsageError(
            f"no probe of recipe {request.recipe.name} is in a user process",
            "glibc-reclaim-stacks has one",
        )
    if request.image.boots_itself and own.comm is None:
        raise UsageError(
            f"{request.image.name} starts its programs itself: which of them is {own.path}?",
            "name it with --comm, as `ps -o comm` shows it there",
        )
    program = own_program(own.path, own.libraries, arch)
    libraries = tuple((path.rpartition("/")[2], here) for path, here in program.libraries)
    return program, Files(own.comm or PAYLOAD, program.path, libraries, own.debug, own=True)


def _check_variant(request: Request, arch: Arch) -> None:
    """See that the variant can be run on the image.

    Raises:
        UsageError: it cannot.
    """
    image, variant = request.image, request.variant
    changes = (variant.arguments, variant.append, variant.patch, variant.kaslr)
    if image.boots_itself and any(changes):
        raise UsageError(
            f"the kernel of {image.name} is a disk, which holds its command line and its code "
            f"itself: the variant {variant.name!r} cannot change them",
            "add an image whose --kernel is an ELF file",
        )
    if image.kernel_format == "bzimage" and variant.patch:
        raise UsageError(
            f"the kernel of {image.name} is compressed (bzImage): the variant {variant.name!r} "
            "cannot patch it",
            "give the vmlinux of its build with --kernel",
        )
    needed = variant.needs_symbol
    if needed is not None:
        with ElfImage(_symbols(image)[0], arch) as elf:
            if not elf.has_symbol(needed):
                raise UsageError(
                    f"the variant {request.variant.name!r} is only for kernels with the symbol "
                    f"{needed!r}, which {request.image.name} has not",
                    "the variant as-is runs on every image",
                )


def _symbols(image: Image) -> tuple[Path, str]:
    """The file with the kernel's symbols, and its sum."""
    if image.symbols is None or image.symbols_sha256 is None:
        raise UsageError(
            f"{image.name} was added without the symbols of its kernel, which probes in it need",
            "add the disk again, with --symbols vmlinuz (the kernel that is on it)",
        )
    return image.symbols, image.symbols_sha256


def _append(request: Request, arch: Arch) -> str:
    """The kernel's command line, with the workload's arguments at its end.

    What follows ``--`` reaches Linux's init, and so the payload; OSv's application gets what
    follows its name.
    """
    arguments = [*request.recipe.workload.arguments, *request.variant.arguments]
    if request.program is not None:
        arguments = [*request.program.arguments]
    if SYSTEMS[request.image.system].arm_at is not None:
        return " ".join([request.image.append, *arguments]).strip()
    more = (request.recipe.workload.append, request.variant.append)
    own = request.image.append
    if request.variant.kaslr:
        own = " ".join(word for word in own.split() if word != _NO_KASLR)
    parts = [f"console={arch.console}", own, *more, "panic=-1"]
    if request.program is not None:
        parts += ["--", "payload:", *arguments]
    elif request.recipe.workload.payload:
        parts += ["--", "payload:", "--seed", str(request.seed), *arguments]
    return " ".join(part for part in parts if part)
