"""From a recipe's probes to addresses in one kernel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from osvtriage.model.errors import SymbolError, UsageError
from osvtriage.model.plan import Field, GdbPlan, ProbePlan
from osvtriage.recipe.recipe import Probe, Recipe
from osvtriage.symbols import disassembly
from osvtriage.symbols import linux as linux_symbols
from osvtriage.symbols.elf import ElfImage
from osvtriage.systems import linux

_TASK = ("pid", "comm", "start_time")


@dataclass(frozen=True, slots=True)
class Resolved:
    """What gdb gets, and what must be in the guest's memory before a probe is armed.

    ``code`` has the addresses whose instructions must be the file's: those of the probes, moved on
    past what the kernel itself rewrites at boot.
    """

    plan: GdbPlan
    code: tuple[int, ...]
    sleep_address: int
    banner_address: int
    banner: bytes

    def callee(self, probe: str) -> int | None:
        """The function that is called where *probe* stops, if it stops at calls."""
        return next(item.callee for item in self.plan.probes if item.name == probe)


def resolve(recipe: Recipe, elf: ElfImage) -> Resolved:
    """Every probe's addresses, every field's path.

    Raises:
        SymbolError: a symbol, a call or an offset is not in this kernel.
        UsageError: the recipe names a register or a field that does not exist.
    """
    offsets = linux_symbols.offsets(elf)
    fields = linux.task_fields(offsets)
    calls = _calls(recipe.probe, elf)
    found = [_probe(probe, elf, fields, calls) for probe in recipe.probe]
    probes = tuple(probe for probe in found if probe is not None)
    return Resolved(
        plan=GdbPlan(
            arch=elf.arch.name,
            current_base=linux.PPC_CURRENT_BASE,
            current_offset=offsets["current"],
            task_fields={name: fields[name] for name in _TASK},
            probes=probes,
        ),
        code=_steady(elf, {at for probe in probes for at in (*probe.entries, *probe.exits)}),
        sleep_address=elf.symbol(linux.SLEEP_FUNCTION).entry,
        banner_address=elf.symbol(linux.BANNER).address,
        banner=elf.string(linux.BANNER),
    )


def _steady(elf: ElfImage, addresses: Iterable[int]) -> tuple[int, ...]:
    """The *addresses*, each moved on to the next instruction that stays as it is in the file."""
    rewritten = linux_symbols.rewritten_at_boot(elf)
    size = elf.arch.instruction_bytes or 1
    steady = set()
    for address in addresses:
        while address in rewritten:
            address += size
        steady.add(address)
    return tuple(sorted(steady))


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


def _probe(
    probe: Probe, elf: ElfImage, fields: dict[str, Field], calls: dict[str, list[int]]
) -> ProbePlan | None:
    _known(probe, "register", probe.registers, elf.arch.words)
    _known(probe, "field", probe.fields, fields)
    size = elf.arch.instruction_bytes
    if probe.call is not None:
        entries = tuple(
            site
            for site in calls[probe.call.to]
            if (not probe.call.inside or any(elf.belongs_to(site, f) for f in probe.call.inside))
            and not any(elf.belongs_to(site, f) for f in probe.call.not_in)
        )
        exits = tuple(_after(elf, site, size) for site in entries)
        symbol = probe.call.to
        searched = f"no call of {symbol}"
        if probe.call.inside:
            searched += f" inside {', '.join(probe.call.inside)}"
        if probe.call.not_in:
            searched += f" outside {', '.join(probe.call.not_in)}"
    else:
        symbol = probe.function or ""
        entries = tuple(found.entry for found in elf.functions(symbol))
        exits = ()
        searched = f"no function {symbol}"
        if probe.until_after_call is not None and entries:
            sites = [at for at in calls[probe.until_after_call] if elf.belongs_to(at, symbol)]
            exits = tuple(_after(elf, site, size) for site in sites)
            if not exits:
                raise SymbolError(
                    f"probe {probe.name!r}: {symbol} in {elf.path} does not call "
                    f"{probe.until_after_call}; its code:\n{_listing(elf, symbol)}"
                )
    if not entries:
        if probe.optional:
            return None
        named = elf.functions(symbol)
        code = f"; the code of {symbol}:\n{_listing(elf, symbol)}" if named else ""
        raise SymbolError(
            f"probe {probe.name!r}: {elf.path} has {searched}{code}",
            "is this the kernel the recipe is for, and is it unstripped?",
        )
    return ProbePlan(
        name=probe.name,
        symbol=symbol,
        entries=entries,
        exits=exits,
        at_function_entry=probe.function is not None,
        registers=probe.registers,
        fields={name: fields[name] for name in probe.fields},
        limit=probe.limit,
        required=probe.required,
        arm_after=probe.arm.after if probe.arm else None,
        arm_stops=probe.arm.stops if probe.arm else 0,
        arm_first=probe.arm.first if probe.arm else 0,
        callee=elf.functions(symbol)[0].entry if probe.call else None,
    )


def _after(elf: ElfImage, site: int, size: int | None) -> int:
    """The address behind the call at *site*."""
    return site + (size or len(disassembly.disassemble(elf.arch, elf.read(site, 16), site)[0].code))


def _known(probe: Probe, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else None
            raise UsageError(f"probe {probe.name!r} asks for the unknown {what} {name!r}", hint)


def _listing(elf: ElfImage, name: str) -> str:
    return "\n".join(
        disassembly.listing(disassembly.function(elf, symbol), last=24)
        for symbol in elf.functions(name)
    )
