"""A probe in a user process, as the plugin has it: what tells its code, and glibc's lists.

Where the process is was found by gdb; from there on nothing stops it. The lists are taken node by
node, and read by the same code as gdb's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from osvtriage.arch import Arch
from osvtriage.model.errors import SymbolError
from osvtriage.model.lists import ListsSnapshot
from osvtriage.model.plan import Place, ProbePlan, ProcessPlan, StackListsPlan
from osvtriage.plugin.memory import Memory
from osvtriage.plugin.table import NOWHERE, Chain, Kind, Site, When
from osvtriage.symbols.elf import ElfImage
from osvtriage.systems.glibc import read_lists

# The nodes of one list, followed one way, for which there is room: 130 KB each. A program that has
# more thread stacks is not judged.
_MOST_NODES = 4096
# Of the code round a probe, at each side of it.
_CODE_BYTES = 16
_PAGE = 4096
# list_t {next, prev}: sysdeps/nptl/list_t.h; pid_t.
_NEXT, _PREV, _LIST_BYTES, _TID_BYTES = 0, 8, 16, 4


@dataclass(frozen=True, slots=True)
class Found:
    """The process: its name, the sites of each place in it, and where it has its lists."""

    comm: str
    sites: Mapping[Place, Site]
    lists: StackListsPlan | None


def found(
    plan: ProcessPlan, probes: Sequence[ProbePlan], bases: Mapping[str, int], arch: Arch
) -> Found:
    """The process of *plan*, which has its modules at *bases*, for all *probes* in it."""
    files = {module.name: Path(module.path) for module in plan.modules}
    with ExitStack() as opened:
        modules = {
            name: opened.enter_context(ElfImage(files[name], arch, stripped=True))
            for name in {place.module for probe in probes for place in _places(probe)}
        }
        sites = {
            place: _site(place, modules[place.module], bases)
            for probe in probes
            for place in _places(probe)
        }
    return Found(plan.comm, sites, plan.lists.at(bases) if plan.lists else None)


def _places(probe: ProbePlan) -> tuple[Place, ...]:
    return (*probe.entry_places, *probe.exit_places)


def _site(place: Place, elf: ElfImage, bases: Mapping[str, int]) -> Site:
    """The place with the code round it, within its page and its section."""
    section = next(
        (one for one in elf.sections if 0 <= place.offset - one.address < one.size), None
    )
    if section is None:
        raise SymbolError(f"{elf.path} has no code at {place.offset:#x}")
    in_page = place.offset % _PAGE
    before = min(_CODE_BYTES, in_page, place.offset - section.address)
    after = min(_CODE_BYTES, _PAGE - in_page, section.address + section.size - place.offset)
    code = elf.read(place.offset - before, before + after)
    return Site(place.at(bases), code, before, shared=True)


# (kind, base, size, when, offsets, more) -> the place among the captures.
_Add = Callable[[Kind, int, int, When, tuple[int, ...], Chain | None], int]


class Lists:
    """The captures of glibc's lists of thread stacks."""

    def __init__(self, plan: StackListsPlan, when: When, add: _Add) -> None:
        self._plan = plan
        tid = plan.tid_offset - plan.list_offset
        start = min(0, tid)
        size = max(_LIST_BYTES, tid + _TID_BYTES) - start

        def chain(link: int, most: int, *offsets: int, clear: int = 0) -> int:
            how = Chain(link, start, size, clear)
            return add(Kind.CHAIN, NOWHERE, 8 + most * how.node_bytes, when, offsets, how)

        self._chain = Chain(_NEXT, start, size)
        self._lock = add(Kind.PATH, NOWHERE, 4, when, (plan.lock,), None)
        self._whole = [
            chain(link, _MOST_NODES, head)
            for head in (plan.used, plan.cache)
            for link in (_NEXT, _PREV)
        ]
        self._in_flight, self._moving = None, list[int]()
        if plan.in_flight is not None:
            self._in_flight = add(Kind.PATH, NOWHERE, 8, when, (plan.in_flight,), None)
            # What moves can be on neither list: it and its neighbours.
            self._moving = [chain(link, 2, plan.in_flight, 0, clear=1) for link in (_NEXT, _PREV)]

    def snapshot(self, taken: Sequence[bytes | None]) -> ListsSnapshot | None:
        """The lists; ``None`` where there was no room for them, or they cannot be read."""
        areas = []
        for place in self._whole:
            raw = taken[place]
            if raw is None or int.from_bytes(raw[:8], sys.byteorder):
                return None
        for place in (*self._whole, *self._moving):
            areas += self._nodes(taken[place] or b"")
        for address, at in ((self._plan.lock, self._lock), (self._plan.in_flight, self._in_flight)):
            raw = taken[at] if at is not None else None
            if address is not None and raw is not None:
                areas.append((address, raw))
        return read_lists(Memory(areas).read, self._plan)

    def _nodes(self, raw: bytes) -> list[tuple[int, bytes]]:
        how = self._chain
        return [
            (
                int.from_bytes(raw[at : at + 8], sys.byteorder) + how.start,
                raw[at + 8 : at + 8 + how.size],
            )
            for at in range(8, len(raw), how.node_bytes)
        ]
