"""From the ``[[check]]`` tables of a recipe to checks that can be called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from difflib import get_close_matches

from osvtriage import checks
from osvtriage.arch import ARCHES, Arch
from osvtriage.model.event import Event
from osvtriage.model.finding import CheckResult
from osvtriage.recipe.recipe import Recipe
from osvtriage.systems import SYSTEMS


class BadCheck(Exception):
    """A check or a probe cannot work on the recipe's processor, or with each other.

    ``path`` leads to the key in the TOML file.
    """

    def __init__(self, message: str, path: tuple[str | int, ...]) -> None:
        super().__init__(message)
        self.path = path


def build(recipe: Recipe) -> list[checks.Check]:
    """The checks of *recipe*, in its order.

    Raises:
        BadCheck: a kind or a register is unknown; a parameter is unknown, missing, or names no
            probe; a probe does not take what a check goes by.
    """
    arch = ARCHES[recipe.arch]
    known = [*arch.words, *arch.groups]
    for number, probe in enumerate(recipe.probe):
        for place, register in enumerate(probe.registers):
            if register not in known:
                near = get_close_matches(register, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                message = f"{recipe.arch} has no register {register!r}{hint}"
                raise BadCheck(message, ("probe", number, "registers", place))
        stacks = SYSTEMS[recipe.system].stacks
        if probe.stack is not None and probe.stack not in stacks:
            message = f"{recipe.system} has no stack {probe.stack!r}{_near(probe.stack, stacks)}"
            raise BadCheck(message, ("probe", number, "stack"))
    return [_build(recipe, index) for index in range(len(recipe.check))]


def run(
    recipe: Recipe,
    arch: Arch,
    events: Sequence[Event],
    unchanged: Mapping[str, int] | None = None,
) -> list[CheckResult]:
    """What the checks of *recipe* say of *events*.

    Args:
        unchanged: by probe, the passages without events at whose sides an engine found equal all
            that the probe's checks compare.
    """
    found = []
    for check, table in zip(build(recipe), recipe.check, strict=True):
        result = check(arch, events)
        count = (unchanged or {}).get(str(table.parameters.get("probe", "")), 0)
        if count and check.unchanged is not None:
            classes = Counter(result.classes)
            classes[check.unchanged] += count
            examined = result.examined + count
            result = replace(result, examined=examined, classes=classes)
        found.append(result)
    return found


def _build(recipe: Recipe, index: int) -> checks.Check:
    table = recipe.check[index]
    kind = checks.KINDS.get(table.kind)
    if kind is None:
        message = f"unknown kind of check {table.kind!r}{_near(table.kind, checks.KINDS)}"
        raise BadCheck(message, ("check", index, "kind"))
    known = {field.name: field for field in fields(kind)}
    probes = [probe.name for probe in recipe.probe]
    for name, value in table.parameters.items():
        path = ("check", index, name)
        if name not in known:
            message = f'unknown key "{name}" in [[check]] of kind {table.kind}{_near(name, known)}'
            raise BadCheck(message, path)
        if not isinstance(value, str):
            raise BadCheck(f"{name} must be a string", path)
        if name in ("probe", "after", "stack") and value not in probes:
            raise BadCheck(f"{name} names no probe: {value!r}{_near(value, probes)}", path)
    for name, field in known.items():
        if name not in table.parameters and field.default is MISSING:
            raise BadCheck(f"[[check]] of kind {table.kind} needs {name!r}", ("check", index))
    check = kind(**table.parameters)
    _can_see(recipe, index, check)
    return check


def _can_see(recipe: Recipe, index: int, check: checks.Check) -> None:
    """See that the probes of a check take what it goes by: what it cannot see, it finds clean."""
    arch = ARCHES[recipe.arch]
    for name, needs in check.needs().items():
        if needs.msr_bit is not None and needs.msr_bit not in arch.msr_bits:
            message = f"{recipe.arch} has no MSR bit {needs.msr_bit!r}"
            message += _near(needs.msr_bit, arch.msr_bits)
            raise BadCheck(message, ("check", index, "live"))
        probe = next(probe for probe in recipe.probe if probe.name == name)
        if needs.exit and not probe.has_exit:
            message = f"probe {name!r} has no exit to compare with: it needs `until_after_call`"
            raise BadCheck(message, ("check", index))
        if needs.lists and not probe.lists:
            raise BadCheck(f"probe {name!r} must take the `lists` for this check", ("check", index))
        if needs.stack and probe.stack is None:
            raise BadCheck(
                f"probe {name!r} must measure a `stack` for this check", ("check", index)
            )
        for what, needed, taken in (
            ("registers", arch.words_of(needs.registers), arch.words_of(probe.registers)),
            ("fields", needs.fields, probe.fields),
        ):
            if missing := [item for item in needed if item not in taken]:
                message = f"probe {name!r} must take the {what} {', '.join(missing)} for this check"
                raise BadCheck(message, ("check", index))


def _near(word: str, known: Iterable[str]) -> str:
    names = list(known)
    near = get_close_matches(word, names, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names) or 'none'}"
