"""What a soak is to do, fixed before its first trial and kept beside its store."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from osvtriage.images.atomic import new_file
from osvtriage.model.decode import decode
from osvtriage.model.errors import UsageError
from osvtriage.recipe.recipe import Recipe
from osvtriage.soak.stopping import Rule, Runs, rule_for
from osvtriage.trial.request import Engine

SCHEMA = "osvtriage.soak-plan/1"
FILE = "plan.json"

# Ten ticks of a kernel with HZ=250: the workload starts at any phase of the timer, many times over.
_LONGEST_JITTER = 0.04

StartName = Literal["boot", "snapshot"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One set of conditions of the matrix. ``name`` is empty where there is no matrix."""

    name: str
    variant: str
    smp: int


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """A trial before it is run. ``jitter`` is in seconds."""

    number: int
    cell: Cell
    seed: int
    jitter: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole soak.

    ``recipe``, ``image`` and ``kernel`` are as the user named them, ``image_name`` is the image
    that it came to. ``recipe_sha256`` is the sum of the recipe's file, ``boot_sha256`` that of all
    that guests boot from: a soak that is gone on with is of the same. ``runs``, ``seconds``,
    ``until_reproduced`` and ``half_width`` are the rule that ends it. ``keep`` is how many bytes
    the run records may take that are no exemplars.
    """

    recipe: str
    recipe_name: str
    recipe_sha256: str
    image: str | None
    image_name: str
    boot_sha256: str
    kernel: str | None
    cells: tuple[Cell, ...]
    start: str
    seed: int
    runs: int | None
    seconds: float | None
    until_reproduced: bool
    half_width: float | None
    keep: int
    timeout: float | None
    duration: float | None
    accelerator: str
    engine: Engine
    qemu: str | None

    @property
    def variant(self) -> str:
        """The variant, or all of them."""
        return ", ".join(dict.fromkeys(cell.variant for cell in self.cells))

    @property
    def rule(self) -> Rule:
        """What ends the soak."""
        rule = rule_for(self.runs, self.seconds, self.until_reproduced, self.half_width)
        assert rule is not None
        return rule

    def cell_rule(self, cell: Cell) -> Rule | None:
        """What fixed the number of *cell*'s trials beforehand; ``None`` where nothing did."""
        rule = self.rule
        if not isinstance(rule, Runs):
            return None
        whole, rest = divmod(rule.trials, len(self.cells))
        return Runs(whole + (self.cells.index(cell) < rest))

    @property
    def command(self) -> str:
        """The command line that draws the same trials again."""
        words = ["osvtriage", "soak", self.recipe]
        words += [word for key, values in self.axes for word in ("--matrix", f"{key}={values}")]
        options: list[tuple[str, object]] = [
            ("--variant", None if "variant" in dict(self.axes) else self.cells[0].variant),
            ("--smp", None if "smp" in dict(self.axes) else self.cells[0].smp),
            ("--runs", self.runs),
            ("--for", None if self.seconds is None else f"{self.seconds:g}s"),
            ("--until-rate", self.half_width),
            ("--image", self.image),
            ("--kernel", self.kernel),
            ("--timeout", self.timeout),
            ("--duration", self.duration),
            ("--accel", None if self.accelerator == "auto" else self.accelerator),
            ("--engine", None if self.engine == "auto" else self.engine),
            ("--qemu", self.qemu),
            ("--start", self.start),
            ("--seed", self.seed),
        ]
        words += [
            str(word) for name, value in options if value is not None for word in (name, value)
        ]
        words += ["--until-reproduced"] if self.until_reproduced else []
        return shlex.join(words)

    @property
    def axes(self) -> tuple[tuple[str, str], ...]:
        """The matrix as it was given: key and values."""
        found: dict[str, list[str]] = {}
        for cell in self.cells:
            for word in cell.name.split():
                key, _, value = word.partition("=")
                if value not in found.setdefault(key, []):
                    found[key].append(value)
        return tuple((key, ",".join(values)) for key, values in found.items())

    def trial(self, number: int) -> PlannedTrial:
        """The trial *number*, 1 and on: the cells take turns, seed and jitter come from the plan's
        seed."""
        cell = self.cells[(number - 1) % len(self.cells)]
        drawn = random.Random(f"{self.seed}:{number}")
        seed = drawn.randrange(1, 1 << 63)
        jitter = drawn.uniform(0, _LONGEST_JITTER) if self.start == "snapshot" else 0.0
        return PlannedTrial(number, cell, seed, round(jitter, 6))

    def write(self, directory: Path) -> None:
        """Write the plan into *directory*."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n"
        with new_file(directory / FILE) as file:
            file.write(text.encode())

    @classmethod
    def read(cls, directory: Path) -> Plan:
        """The plan in *directory*.

        Raises:
            UsageError: there is none, or it is not one that this version reads.
        """
        path = directory / FILE
        try:
            data = json.loads(path.read_bytes())
            if data.pop("schema", None) != SCHEMA:
                raise UsageError(f"{path} is not of schema {SCHEMA!r}, which this osvtriage reads")
            return decode(cls, data)
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {error.strerror}",
                "name the directory of a soak; `osvtriage soaks list` shows them",
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is damaged: {error}") from error


def matrix(words: Sequence[str], recipe: Recipe, variant: str, smp: int) -> tuple[Cell, ...]:
    """The cells of ``--matrix smp=1,2 variant=a,b``; without words, the one without a name.

    Raises:
        UsageError: a key or a value does not exist.
    """
    chosen: dict[str, list[str]] = {}
    for word in words:
        key, _, values = word.partition("=")
        if key not in ("smp", "variant") or key in chosen or not values:
            raise UsageError(
                f"--matrix does not understand {word!r}",
                "such as --matrix smp=1,2 --matrix variant=as-is,fp-fix-reverted, each key once",
            )
        chosen[key] = list(dict.fromkeys(values.split(",")))
    cells = tuple(_cells(chosen, variant, smp))
    for cell in cells:
        if recipe.get_variant(cell.variant) is None:
            names = ", ".join(item.name for item in recipe.variant)
            raise UsageError(
                f"recipe {recipe.name} has no variant {cell.variant!r}", f"it has: {names}"
            )
    return cells


def _cells(chosen: dict[str, list[str]], variant: str, smp: int) -> Iterator[Cell]:
    for values in product(*chosen.values()):
        named = dict(zip(chosen, values, strict=True))
        count = named.get("smp", str(smp))
        if not count.isdecimal() or not 1 <= int(count) <= 64:
            raise UsageError(f"{count!r} is no number of vCPUs", "1 to 64 are")
        name = " ".join(f"{key}={value}" for key, value in named.items())
        yield Cell(name, named.get("variant", variant), int(count))
