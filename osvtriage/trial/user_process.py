"""The user process that a recipe's probes are in: from the files that it loads to a plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from osvtriage.arch import Arch
from osvtriage.model.errors import SymbolError, UsageError
from osvtriage.model.plan import Field, InterleavePlan, ModulePlan, Place, ProcessPlan
from osvtriage.recipe.recipe import Interleave
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.glibc import Module, StackLists, debug_file, stack_lists
from osvtriage.systems import linux

# Intel SDM, volume 2, JMP rel8.
_JMP_HERE = bytes([0xEB, 0xFE])


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a process on this machine: the program, and its libraries by their names.

    The names are the last parts of their paths in the guest, as link_map has them. ``debug`` is a
    directory of debug files by build-id, as gdb's ``debug-file-directory``. ``own``: the program is
    the user's, of which no recipe knows how often it passes a probe.
    """

    comm: str
    program: Path
    libraries: tuple[tuple[str, Path], ...] = ()
    debug: Path | None = None
    own: bool = False


@dataclass(frozen=True, slots=True)
class UserProcess:
    """What is known of the process before it runs. ``missing`` says what its files do not tell."""

    plan: ProcessPlan
    lists: StackLists
    interleave: InterleavePlan | None = None
    own: bool = False

    def places(self, name: str) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
        """The entries and the exits of a place, by its name in recipes.

        There is no entry where no debug file tells it: what reclaim left is seen all the same.

        Raises:
            SymbolError: the files tell of neither.
        """
        assert name == "glibc.reclaim"
        if not self.lists.returns:
            raise SymbolError(self.lists.missing or "fork is not in the process's files")
        return self.lists.reclaim, self.lists.returns


def user_process(
    files: Files,
    arch: Arch,
    kernel: ElfImage,
    auxiliary: Field,
    steer: Interleave | None = None,
    recovery: bool = True,
) -> UserProcess:
    """Read the files of a process.

    Args:
        kernel: its functions tell where every process passes that makes a thread or forks.
        auxiliary: the auxiliary vector of the current task.
        steer: what the program has for interleaving; *recovery* whether children may recover.

    Raises:
        SymbolError: a file is none for the processor, or none of them has glibc's lists.
    """
    with ExitStack() as opened:
        modules = list(open_modules(files, arch, opened))
        lists = stack_lists(modules)
        interleave = _interleave(modules, lists, steer, recovery) if steer else None
        wanted = {place.module for place in _places(lists, interleave)}
        # The kernel's entry of fork, vfork, clone and clone3: kernel/fork.c, before 5.10 _do_fork.
        found_at = tuple(
            symbol.entry for name in linux.CLONE_FUNCTIONS for symbol in kernel.functions(name)
        )
        plan = ProcessPlan(
            comm=files.comm,
            found_at=found_at,
            auxiliary=auxiliary,
            modules=tuple(_identity(module, module.name in wanted) for module in modules),
            lists=lists.plan,
        )
    return UserProcess(plan, lists, interleave, files.own)


def _interleave(
    modules: Sequence[Module], lists: StackLists, steer: Interleave, recovery: bool
) -> InterleavePlan:
    program = modules[0]
    return InterleavePlan(
        thread=Place("", program.elf.symbol(steer.thread).address),
        go=Place("", program.elf.symbol(steer.go).address),
        spin=_named_spin(modules, steer.spin_at) if steer.spin_at else _spin(modules),
        reclaim=lists.reclaim,
        returns=lists.returns,
        turns=lists.turns,
        recovery=recovery,
    )


def _spin(modules: Sequence[Module]) -> Place:
    """A `jmp .` somewhere in the process's code, if only inside other instructions."""
    for module in modules:
        for section in module.elf.sections:
            if section.executable:
                at = module.elf.read(section.address, section.size).find(_JMP_HERE)
                if at >= 0:
                    return Place(module.name, section.address + at)
    raise SymbolError(
        "no two bytes `jmp .` (eb fe) in the process's code, to hold a thread there",
        "name one with --spin-at",
    )


def _named_spin(modules: Sequence[Module], named: str) -> Place:
    """The `jmp .` at the place that the user chose.

    Raises:
        UsageError: there is none.
    """
    name, _, digits = named.rpartition(":")
    address = int(digits, 16)
    module = next((module for module in modules if module.name == name), None)
    if module is None:
        names = ", ".join(module.name for module in modules if module.name)
        raise UsageError(f"the process loads no {name!r}", f"beside the program: {names}")
    for section in module.elf.sections:
        if section.executable and section.address <= address < section.address + section.size:
            code = module.elf.read(address, len(_JMP_HERE))
            if code == _JMP_HERE:
                return Place(name, address)
            raise UsageError(
                f"at {digits} of {module.elf.path} is {code.hex(' ')}, not `jmp .` (eb fe)",
                "choose another --spin-at, or leave it out: one is looked for",
            )
    raise UsageError(
        f"{digits} is no address of code in {module.elf.path}",
        "--spin-at takes an address as objdump -d shows it, not one of a running process",
    )


def open_modules(files: Files, arch: Arch, opened: ExitStack) -> Iterator[Module]:
    """The program and its libraries, the program first, with their debug files."""
    for name, path in (("", files.program), *files.libraries):
        elf = opened.enter_context(ElfImage(path, arch, stripped=True))
        debug = debug_file(elf, files.debug) if files.debug is not None else None
        yield Module(name, elf, opened.enter_context(ElfImage(debug, arch)) if debug else None)


def _places(lists: StackLists, interleave: InterleavePlan | None) -> Iterator[Place]:
    heads = lists.plan.heads
    if interleave is not None:
        yield from (interleave.thread, interleave.go, interleave.spin)
    yield from (heads.used, heads.cache, heads.lock)
    yield from (place for place in (heads.user, heads.in_flight) if place is not None)
    yield from (*lists.reclaim, *lists.returns)


def _identity(module: Module, needed: bool) -> ModulePlan:
    note = module.elf.build_id()
    if note is None:
        raise SymbolError(
            f"{module.elf.path} has no build-id: it cannot be told from another build of it",
            "link it with -Wl,--build-id, as distributions do",
        )
    address, build_id = note
    return ModulePlan(module.name, str(module.elf.path), needed, build_id.hex(), address)
