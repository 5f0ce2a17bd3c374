"""A recipe begun from the breakpoints of a session: what is known is filled in, the rest not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from osvtriage.recipe.recipe import Recipe
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


def draft(recipe: Recipe, places: Sequence[Place]) -> str:
    """The text of a recipe file with a probe for each of the *places*, on the workload of *recipe*.

    It lints once its controls are filled in, and a check where no probe has two sides.
    """
    return "\n".join(_lines(recipe, places)) + "\n"


def _lines(recipe: Recipe, places: Sequence[Place]) -> Iterator[str]:
    yield "# Begun by `ot export`. `osvtriage recipes lint` says what is still missing."
    yield 'schema = "osvtriage.recipe/1"'
    yield 'name = "my-bug"'
    yield 'title = "What goes wrong, in a line"'
    yield f"system = {_quoted(recipe.system)}"
    yield f"arch = {_quoted(recipe.arch)}"
    if recipe.image is not None:
        yield f"image = {_quoted(recipe.image)}"
    yield from ("", "[workload]")
    workload = recipe.workload
    for key in ("payload", "linkage", "append"):
        if value := getattr(workload, key):
            yield f"{key} = {_quoted(value)}"
    if workload.arguments:
        yield f"arguments = [{', '.join(map(_quoted, workload.arguments))}]"
    yield f"limit = {workload.limit:g}"
    if workload.duration is not None:
        yield f"duration = {workload.duration:g}"
    names = _names(places)
    for name, where in zip(names, places, strict=True):
        yield from ("", "[[probe]]", f"name = {_quoted(name)}", *where.lines, "required = 1")
    compared = [name for name, where in zip(names, places, strict=True) if where.callee]
    for name in compared:
        yield from ("", "[[check]]", 'kind = "fpu-preserved"', f"probe = {_quoted(name)}")
    if not compared:
        yield from ("", "# A check says what of the above is damage; fpu-preserved needs a probe")
        yield from ("# with an exit: `call`, or `until_after_call`.", "# [[check]]")
    yield from ("", "[[variant]]", 'name = "as-is"', 'title = "the image as it is"')
    yield '# expect = "clean"        # the control without the bug, or the one with it'
    yield from ("", "# [[variant]]", '# name = "with-the-bug"', '# title = "…"')
    yield from ('# expect = "reproduced"', "# arguments or patch = …   # what brings the bug")


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
