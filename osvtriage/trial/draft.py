"""A recipe begun from the breakpoints of a session: what is known is filled in, the rest not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from osvtriage.recipe.fill_in import MARK
from osvtriage.recipe.recipe import AS_IS, Recipe, Variant
from osvtriage.symbols import disassembly
from osvtriage.symbols.elf import ElfImage

_CALLS = ("bl", "call")
# Of the longest instruction that there is, on x86-64.
_LONGEST_INSTRUCTION = 15


@dataclass(frozen=True, slots=True)
class Place:
    """Where a breakpoint is, as a recipe says it: a function's entry, or a call in a function."""

    function: str
    callee: str | None = None

    @property
    def lines(self) -> list[str]:
        """The lines of its [[probe]] that say where it is."""
        if self.callee is None:
            return [f"function = {_quoted(self.function)}"]
        inside = f"inside = [{_quoted(self.function)}]"
        return [f"call = {{ to = {_quoted(self.callee)}, {inside} }}", 'registers = ["fpu"]']


def place(elf: ElfImage, address: int, spec: str) -> Place | None:
    """What is at *address*; ``None`` where a recipe has no words for it.

    Args:
        spec: what the user typed: gdb moves a breakpoint at a function's name behind its prologue.
    """
    symbol = elf.containing(address)
    if symbol is None:
        return None
    if address in (symbol.address, symbol.entry) or spec == symbol.name:
        return Place(symbol.name)
    size = elf.arch.instruction_bytes or _LONGEST_INSTRUCTION
    code = disassembly.disassemble(elf.arch, elf.read(address, size), address)
    if code and code[0].mnemonic in _CALLS:
        target = re.fullmatch(r"\S+ 0x([0-9a-f]+)", code[0].text)
        callee = elf.containing(int(target[1], 16)) if target else None
        if callee is not None:
            return Place(symbol.name, callee.name)
    return None


def draft(
    recipe: Recipe,
    places: Sequence[Place],
    variant: Variant | None = None,
    name: str = "my-bug",
    beside: Path = Path(),
) -> str:
    """The text of a recipe file with a probe for each of the *places*, on the workload of *recipe*.

    The *variant* that the session was of comes along, with its patches, where it changes what any
    recipe can. What only the user knows is a comment `# fill in: …`: see :mod:`fill_in`.

    Args:
        beside: the directory of *recipe*, from which the path of its payload is looked up.
    """
    parts = (_head(recipe, name), _workload(recipe, beside), _watched(places))
    return "\n".join(chain(*parts, _controls(recipe, variant))) + "\n"


def _head(recipe: Recipe, name: str) -> Iterator[str]:
    yield "# Delete each comment `fill in` once it is done. `osvtriage recipes lint` lists those"
    yield "# that are left."
    yield 'schema = "osvtriage.recipe/1"'
    yield f"name = {_quoted(name)}"
    yield f'title = "" {MARK}what goes wrong, in a line'
    yield f'about = "" {MARK}how it goes wrong, and why nobody sees it'
    yield f"system = {_quoted(recipe.system)}"
    yield f"arch = {_quoted(recipe.arch)}"
    if recipe.image is not None:
        yield f"image = {_quoted(recipe.image)}"


def _workload(recipe: Recipe, beside: Path) -> Iterator[str]:
    workload = recipe.workload
    yield from ("", "[workload]")
    if workload.payload is not None:
        own = workload.payload.endswith(".c")
        payload = str((beside / workload.payload).absolute()) if own else workload.payload
        yield f"payload = {_quoted(payload)}"
    for key in ("linkage", "append"):
        if value := getattr(workload, key):
            yield f"{key} = {_quoted(value)}"
    if workload.arguments:
        yield f"arguments = {_array(workload.arguments)}"
    yield f"limit = {workload.limit:g}"
    if workload.duration is not None:
        yield f"duration = {workload.duration:g}"


def _watched(places: Sequence[Place]) -> Iterator[str]:
    """The probes and their checks."""
    names = _names(places)
    for name, where in zip(names, places, strict=True):
        yield from ("", "[[probe]]", f"name = {_quoted(name)}", *where.lines, "required = 1")
    if not places:
        yield from ("", f"{MARK}a [[probe]]: where to look, and what to take there")
    compared = [name for name, where in zip(names, places, strict=True) if where.callee]
    for name in compared:
        yield from ("", "[[check]]", 'kind = "fpu-preserved"', f"probe = {_quoted(name)}")
    if not compared:
        yield from ("", f"{MARK}a [[check]]: which of what the probes see is damage")
        yield "# (fpu-preserved needs a probe with an exit: `call`, or `until_after_call`)"


def _controls(recipe: Recipe, variant: Variant | None) -> Iterator[str]:
    """The variants: at least two that must give a verdict, one each way."""
    yield from ("", "[[variant]]", 'name = "as-is"', 'title = "the image as it is"')
    known = 0
    if recipe.image is not None:
        known += 1
        yield f"{MARK}expect, the verdict that it must give: clean or reproduced"
    if variant is not None and _is_plain(variant):
        known += 1
        yield from _session_variant(recipe, variant)
    for name in ("control-1", "control-2")[known:]:
        yield from ("", "[[variant]]", f"name = {_quoted(name)} {MARK}what it is called")
        yield f'title = "" {MARK}what it changes'
        yield f"{MARK}what makes the difference: patch, arguments or append"
        yield f"{MARK}expect; one control must be reproduced, and one clean"


def _is_plain(variant: Variant) -> bool:
    """Whether it changes something, and needs no table that a draft has not."""
    steered = (variant.interleave, variant.frame_bytes, variant.page_fault_ist, variant.shifted)
    return variant.name != AS_IS and not variant.kaslr and not any(steered)


def _session_variant(recipe: Recipe, variant: Variant) -> Iterator[str]:
    for patch in recipe.patch:
        if patch.name in variant.patch:
            change = patch.replace
            yield from ("", "[[patch]]", f"name = {_quoted(patch.name)}")
            for key in ("functions", "find", "never_had"):
                if value := getattr(patch, key):
                    yield f"{key} = {_array(value)}"
            words = f"word = {_quoted(change.word)}, instruction = {_quoted(change.instruction)}"
            yield f"replace = {{ index = {change.index}, {words} }}"
    yield from ("", "# The session was of this one.", "[[variant]]")
    yield from (f"name = {_quoted(variant.name)}", f"title = {_quoted(variant.title)}")
    for key in ("patch", "arguments"):
        if value := getattr(variant, key):
            yield f"{key} = {_array(value)}"
    for key in ("append", "needs_symbol"):
        if value := getattr(variant, key):
            yield f"{key} = {_quoted(value)}"
    yield f"{MARK}expect, the verdict that it must give: clean or reproduced"


def _names(places: Sequence[Place]) -> list[str]:
    """A name for each probe that no other has."""
    names: list[str] = []
    for where in places:
        stem = re.sub(r"[^a-z0-9_-]+", "-", (where.callee or where.function).lower()).strip("-_")
        stem = stem[:40] or "probe"
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names


def _quoted(text: str) -> str:
    # A TOML basic string is written like one of JSON.
    return json.dumps(text, ensure_ascii=False)


def _array(words: Iterable[str]) -> str:
    return f"[{', '.join(map(_quoted, words))}]"
