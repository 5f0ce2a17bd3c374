"""glibc's two lists of thread stacks, drawn: as text, and as a graph for Graphviz.

Whatever is in a snapshot is drawn as numbers of our own formatting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphviz

from osvtriage.checks.lists import Kind, Walk, damages, own_links, walk
from osvtriage.images.atomic import new_file
from osvtriage.images.processes import install_command
from osvtriage.model.decode import decode
from osvtriage.model.errors import MissingRequirement, OsvtriageError
from osvtriage.model.lists import DIRECTIONS, Direction, ListsSnapshot, both_ways
from osvtriage.trial.record import RunRecord

# Of a chain without damage this many elements are shown at either end: a line of a terminal holds
# four, and dot takes a second for some hundred.
_SHOWN = 3
# The number of damages that are drawn. One wrong store makes half a dozen; where memory is garbage
# there can be thousands, and the first ones tell as much.
_DRAWN = 50


@dataclass(frozen=True, slots=True)
class _Link:
    """A link that is drawn, over ``left_out`` elements that are not."""

    node: str
    to: str
    left_out: int
    damage: Kind | None


class _Picture:
    """What is drawn of one snapshot."""

    def __init__(self, snapshot: ListsSnapshot) -> None:
        self.nodes = snapshot.by_address()
        self.names = snapshot.heads()
        self.moving = snapshot.moving()
        self.damages = damages(snapshot)
        self.walks = [walk(snapshot, name, direction) for name, direction in both_ways()]
        self._wrong: dict[tuple[str, Direction], Kind] = {}
        self._kept = set(self.names)
        if self.moving is not None:
            self._kept.add(self.moving[0])
        for one in self.damages[:_DRAWN]:
            self._kept |= {one.node, one.seen}
            # The most telling comes first. A cycle is closed by a link that may itself be right.
            if one.kind not in (Kind.SHARED, Kind.CYCLE):
                self._wrong.setdefault((one.node, one.direction), one.kind)
        for way in self.walks:
            chain = [node for node, _ in own_links(way, self.names.keys())]
            self._kept |= {*chain[: 1 + _SHOWN], *chain[-_SHOWN:]}

    def links(self, one: Walk) -> Iterator[_Link]:
        """The links of a walk within its list; those without damage are drawn together."""
        start, left_out = one.path[0], 0
        for node, to in own_links(one, self.names.keys()):
            damage = self._wrong.get((node, one.direction))
            if to in self._kept or damage is not None:
                yield _Link(start, to, left_out, damage)
                start, left_out = to, 0
            else:
                left_out += 1

    def label(self, address: str) -> str:
        """What a node is, and where."""
        number = f"{int(address, 16):x}"
        node = self.nodes.get(address)
        if address in self.names:
            return self.names[address]
        if node is None:
            return f"{number} (not read)"
        if node.wild:
            return f"{number} ({'not writable' if node.next is not None else 'not readable'})"
        if node.tid is None:
            return number
        return f"{number} (free)" if node.tid <= 0 else f"{number} (tid {node.tid})"

    def announced(self) -> str | None:
        """What in_flight_stack says."""
        if self.moving is None:
            return None
        element, adding = self.moving
        return f"{self.label(element)} {'is being added' if adding else 'is being removed'}"


def stages(evidence: Mapping[str, Any]) -> dict[str, ListsSnapshot]:
    """The looks at the lists in a finding's evidence, by what they are looks at, in their order."""
    found = evidence.get("stages") or {}
    if "lists" in evidence:
        found = {"the lists": evidence["lists"]}
    try:
        return {str(name): decode(ListsSnapshot, raw) for name, raw in dict(found).items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        # A record that somebody else wrote.
        return {}


def write_picture(record: RunRecord, directory: Path) -> Path | None:
    """Draw the lists of the first finding that has some, as ``lists.svg`` in the run record.

    ``None`` where there is none, or no Graphviz to draw it: the text in the report shows the same.
    """
    for finding in record.findings:
        if shown := stages(finding.evidence):
            try:
                picture = svg(dot(shown))
            except OsvtriageError:
                return None
            path = directory / "lists.svg"
            with new_file(path) as file:
                file.write(picture)
            return path
    return None


def text(snapshot: ListsSnapshot) -> str:
    """Both lists as chains, a line each way; ``=JOINED=>`` is a link that is wrong."""
    picture = _Picture(snapshot)
    lines = []
    for one in picture.walks:
        if one.direction == "prev" and not picture.damages:
            continue
        chain = picture.label(one.path[0])
        for link in picture.links(one):
            chain += f" … {link.left_out} more …" if link.left_out else ""
            arrow = "→" if link.damage is None else f"={link.damage}=>"
            chain += f" {arrow} {picture.label(link.to)}"
        lines.append(f"{one.direction}  {chain}")
    if (announced := picture.announced()) is not None:
        lines.append(f"in flight: {announced}")
    return "\n".join(lines)


def dot(stages: Mapping[str, ListsSnapshot]) -> str:
    """Source for Graphviz: one box a stage, by its title; what is wrong is red.

    A link by ``next`` is drawn whole, one by ``prev`` dashed.
    """
    graph = graphviz.Digraph("stack_lists")
    graph.attr(rankdir="LR", fontname="sans-serif")
    graph.attr("node", shape="box", fontname="monospace", fontsize="10")
    graph.attr("edge", fontname="sans-serif", fontsize="9", color="gray40")
    # Where ranks go from left to right, dot draws the first box at the bottom.
    for number, (title, snapshot) in enumerate(reversed(list(stages.items()))):
        with graph.subgraph(name=f"cluster_{number}") as stage:
            stage.attr(label=graphviz.escape(title), color="gray80")
            _stage(stage, f"stage{number}_", _Picture(snapshot))
    return str(graph.source)


def _stage(graph: graphviz.Digraph, prefix: str, picture: _Picture) -> None:
    drawn: set[str] = set()

    def node(address: str) -> str:
        name = f"{prefix}{int(address, 16):x}"
        if name not in drawn:
            drawn.add(name)
            there = picture.nodes.get(address)
            graph.node(
                name,
                label=picture.label(address).replace(" ", "\n", 1),
                style="bold" if address in picture.names else "rounded",
                color="red" if there is None or there.wild else "black",
            )
        return name

    edges: set[tuple[str, str, Direction]] = set()

    def edge(link: _Link, direction: Direction) -> None:
        if (link.node, link.to, direction) in edges:
            return
        edges.add((link.node, link.to, direction))
        note = f"{link.left_out} more" if link.left_out else ""
        look = {"style": "solid" if direction == "next" else "dashed"}
        if link.damage is not None:
            note = f"{direction}: {link.damage}"
            look |= {"color": "red", "fontcolor": "red", "penwidth": "2"}
        # Else the two ways pull the elements of a chain apart.
        look["constraint"] = "true" if direction == "next" else "false"
        graph.edge(node(link.node), node(link.to), label=note, **look)

    for one in picture.walks:
        for link in picture.links(one):
            edge(link, one.direction)
    if picture.moving is not None:
        element, adding = picture.moving
        graph.node(node(element), xlabel="being added" if adding else "being removed")
        moved = picture.nodes.get(element)
        for direction in DIRECTIONS:
            to = moved.link(direction) if moved is not None else None
            if to is not None:
                edge(_Link(element, to, 0, None), direction)


def svg(source: str) -> bytes:
    """The picture of *source*, by Graphviz's own program.

    Raises:
        MissingRequirement: ``dot`` is not on this machine.
    """
    try:
        return bytes(graphviz.Source(source).pipe(format="svg"))
    except graphviz.ExecutableNotFound as error:
        raise MissingRequirement(
            "dot was not found on the PATH; it draws the lists as SVG.",
            hint=f"Install it with: {install_command(('graphviz',))}",
        ) from error
    except graphviz.CalledProcessError as error:
        raise OsvtriageError(f"dot could not draw the lists: {error}") from error
