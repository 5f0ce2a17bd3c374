"""From a recipe's probes to addresses in one kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from osvtriage.model.errors import SymbolError, UsageError
from osvtriage.model.plan import GdbPlan, ProbePlan
from osvtriage.recipe.recipe import Call, Probe, Recipe, Variant
from osvtriage.symbols import disassembly
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.layout import Layout, Sample
from osvtriage.symbols.layouts import LAYOUTS
from osvtriage.systems import SYSTEMS
from osvtriage.trial.places import contexts, tables
from osvtriage.trial.user_process import Files, UserProcess, user_process

# What of the code at a probe is compared: enough to tell builds apart, and seldom rewritten.
_CODE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Resolved:
    """What gdb gets, and what must be in the guest's memory before a probe is armed.

    ``samples`` are the bytes that must be the file's: those that tell the build, and the code at
    the probes, moved on past what the kernel itself rewrites at boot. ``arm_at`` is the function
    where the guest is stopped to be armed, if it does not wait for that by itself;
    ``sleep_address`` where a thread that waits passes; see :class:`osvtriage.systems.System`.
    ``notes`` say, by probe, what is not as the recipe has it.
    """

    plan: GdbPlan
    samples: tuple[Sample, ...]
    arm_at: str | None
    arm_address: int | None
    sleep_address: int | None
    notes: Mapping[str, str]
    missing: tuple[str, ...]

    def callee(self, probe: str) -> int | None:
        """The function that is called where *probe* stops, if it stops at calls."""
        return next(item.callee for item in self.plan.probes if item.name == probe)


def resolve(
    recipe: Recipe,
    elf: ElfImage,
    pinpoint: str | None = None,
    files: Files | None = None,
    variant: Variant | None = None,
    *,
    own_userland: bool = False,
) -> Resolved:
    """Every probe's addresses, every field's path.

    Args:
        files: those of the user process that probes with a `place` are in.
        variant: how the process is steered.
        own_userland: the guest's userland is not osvtriage's, and does not wait for it.

    Raises:
        SymbolError: a symbol, a call or an offset is not in this kernel.
        UsageError: the recipe names a register, a field or a stack that does not exist.
    """
    system = SYSTEMS[recipe.system]
    arm_at = system.init_at if own_userland and system.arm_at is None else system.arm_at
    layout = LAYOUTS[recipe.system](elf)
    calls = _calls(recipe.probe, elf)
    notes: dict[str, str] = {}
    process = None
    if files is not None:
        mode = variant.interleave if variant else None
        process = user_process(
            files,
            elf.arch,
            elf,
            layout.fields["mm.saved_auxv"],
            recipe.interleave if mode else None,
            recovery=mode != "recovery-disabled",
        )
    kernel = _Kernel(elf, layout, calls, process)
    found = [_probe(probe, kernel, notes) for probe in recipe.probe]
    probes = tuple(probe for probe in found if probe is not None)
    steady = _steady(elf, layout, {at for probe in probes for at in (*probe.entries, *probe.exits)})
    unwinder = layout.orc
    if recipe.context:
        unwinder = tables(elf, variant)
    if pinpoint is not None:
        _known("--pinpoint", "register", [pinpoint], elf.arch.words)
    return Resolved(
        plan=GdbPlan(
            arch=elf.arch.name,
            thread=layout.thread,
            probes=probes,
            unwind=layout.unwind,
            threads=layout.threads,
            pinpoint=pinpoint,
            process=process.plan if process else None,
            interleave=process.interleave if process else None,
            orc=unwinder,
            contexts=contexts(recipe, elf) if recipe.context else None,
        ),
        samples=(*layout.samples, *steady),
        arm_at=arm_at,
        arm_address=elf.symbol(arm_at).entry if arm_at else None,
        sleep_address=elf.symbol(system.sleeps_in).entry if system.sleeps_in else None,
        notes=notes,
        missing=layout.missing,
    )


def _steady(elf: ElfImage, layout: Layout, addresses: Iterable[int]) -> list[Sample]:
    """The code at *addresses*, each moved on to the next instruction that stays as in the file.

    Where instructions differ in length, as many bytes as stay, four at most.
    """
    step = elf.arch.instruction_bytes or 1
    steady = set()
    for address in addresses:
        while address in layout.rewritten:
            address += step
        end = address + step
        while end < address + _CODE_BYTES and end not in layout.rewritten:
            end += step
        steady.add((address, end - address))
    covered = [(sample.address, sample.address + sample.size) for sample in layout.samples]
    return [
        Sample("the code at a probe", address, size)
        for address, size in sorted(steady)
        if not any(start <= address < end for start, end in covered)
    ]


def _calls(probes: Iterable[Probe], elf: ElfImage) -> dict[str, list[int]]:
    """The call sites of every function that a probe names, found in one scan of the kernel."""
    names = {probe.call.to for probe in probes if probe.call}
    names |= {probe.until_after_call for probe in probes if probe.until_after_call}
    # A caller can use the global entry or, within the kernel's own TOC, the local one.
    targets = {
        name: {at for symbol in elf.functions(name) for at in (symbol.address, symbol.entry)}
        for name in names
    }
    sites = elf.calls(frozenset().union(*targets.values()))
    return {
        name: sorted(at for target in ats for at in sites[target]) for name, ats in targets.items()
    }


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What the probes of a recipe are resolved against."""

    elf: ElfImage
    layout: Layout
    calls: dict[str, list[int]]
    process: UserProcess | None


def _probe(probe: Probe, kernel: _Kernel, notes: dict[str, str]) -> ProbePlan | None:
    elf, layout, calls = kernel.elf, kernel.layout, kernel.calls
    registers = elf.arch.words_of(probe.registers)
    _known(f"probe {probe.name!r}", "register", registers, elf.arch.words)
    _known(f"probe {probe.name!r}", "field", probe.fields, layout.fields)
    if probe.place is not None:
        return _in_process(probe, kernel, notes)
    place = (
        _at_calls(probe, elf, calls) if probe.call is not None else _at_function(probe, elf, calls)
    )
    if place is None and probe.call and probe.call.or_function and elf.has_symbol(probe.call.to):
        # The exact name: a part that the compiler split off is not entered by a call.
        symbol = elf.symbol(probe.call.to)
        place = _Place((symbol.entry,), (), at_return=True)
        notes[probe.name] = (
            f"{_no_call(probe.call)} in this build: watched from the function's entry to its return"
        )
    if place is None:
        if probe.optional:
            return None
        raise _not_found(probe, elf)
    symbol_name = probe.call.to if probe.call else probe.function or ""
    return ProbePlan(
        name=probe.name,
        symbol=symbol_name,
        entries=place.entries,
        exits=place.exits,
        at_function_entry=probe.function is not None or place.at_return,
        registers=registers,
        fields={name: layout.fields[name] for name in probe.fields},
        limit=probe.limit,
        required=probe.required,
        arm_after=probe.arm.after if probe.arm else None,
        arm_stops=probe.arm.stops if probe.arm else 0,
        arm_first=probe.arm.first if probe.arm else 0,
        callee=elf.functions(symbol_name)[0].entry if place.exits and probe.call else None,
        exits_at_return=place.at_return,
        fatal=probe.fatal,
        threads=probe.threads,
        # Where a build does not tell it, `missing` says so, and nothing is measured.
        stack=layout.stacks.get(probe.stack or ""),
    )


def _in_process(probe: Probe, kernel: _Kernel, notes: dict[str, str]) -> ProbePlan:
    assert probe.place is not None
    if kernel.process is None:
        raise SymbolError(
            f"probe {probe.name!r} is at {probe.place} of a user process, and none is known",
            "give the recipe a payload, or --program",
        )
    entries, exits = kernel.process.places(probe.place)
    if not entries:
        notes[probe.name] = (
            f"looked at only where fork returns in the child: {kernel.process.lists.missing}"
        )
    return ProbePlan(
        name=probe.name,
        symbol=probe.place,
        entries=(),
        exits=(),
        at_function_entry=False,
        registers=kernel.elf.arch.words_of(probe.registers),
        fields={name: kernel.layout.fields[name] for name in probe.fields},
        limit=probe.limit,
        required=min(probe.required, 1) if kernel.process.own else probe.required,
        entry_places=entries,
        exit_places=exits,
        in_child=not entries,
        lists=probe.lists,
    )


@dataclass(frozen=True, slots=True)
class _Place:
    entries: tuple[int, ...]
    exits: tuple[int, ...]
    at_return: bool = False


def _at_calls(probe: Probe, elf: ElfImage, calls: dict[str, list[int]]) -> _Place | None:
    assert probe.call is not None
    entries = tuple(
        site
        for site in calls[probe.call.to]
        if (not probe.call.inside or any(elf.belongs_to(site, f) for f in probe.call.inside))
        and not any(elf.belongs_to(site, f) for f in probe.call.not_in)
    )
    exits = tuple(_after(elf, site, elf.arch.instruction_bytes) for site in entries)
    return _Place(entries, exits) if entries else None


def _at_function(probe: Probe, elf: ElfImage, calls: dict[str, list[int]]) -> _Place | None:
    symbol = probe.function or ""
    entries = tuple(found.entry for found in elf.functions(symbol))
    if not entries:
        return None
    exits: tuple[int, ...] = ()
    if probe.until_after_call is not None:
        sites = [at for at in calls[probe.until_after_call] if elf.belongs_to(at, symbol)]
        exits = tuple(_after(elf, site, elf.arch.instruction_bytes) for site in sites)
        if not exits:
            raise SymbolError(
                f"probe {probe.name!r}: {symbol} in {elf.path} does not call "
                f"{probe.until_after_call}; its code:\n{_listing(elf, symbol)}"
            )
    return _Place(entries, exits)


def _not_found(probe: Probe, elf: ElfImage) -> SymbolError:
    symbol = probe.call.to if probe.call else probe.function or ""
    searched = f"no function {symbol}" if probe.call is None else _no_call(probe.call)
    named = elf.functions(symbol)
    code = f"; the code of {symbol}:\n{_listing(elf, symbol)}" if named else ""
    return SymbolError(
        f"probe {probe.name!r}: {elf.path} has {searched}{code}",
        "is this the kernel the recipe is for, and is it unstripped?",
    )


def _no_call(call: Call) -> str:
    searched = f"no call of {call.to}"
    if call.inside:
        searched += f" inside {', '.join(call.inside)}"
    if call.not_in:
        searched += f" outside {', '.join(call.not_in)}"
    return searched


def _after(elf: ElfImage, site: int, size: int | None) -> int:
    """The address behind the call at *site*."""
    return site + (size or len(disassembly.disassemble(elf.arch, elf.read(site, 16), site)[0].code))


def _known(who: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else None
            raise UsageError(f"{who} asks for the unknown {what} {name!r}", hint)


def _listing(elf: ElfImage, name: str) -> str:
    return "\n".join(
        disassembly.listing(disassembly.function(elf, symbol), last=24)
        for symbol in elf.functions(name)
    )
