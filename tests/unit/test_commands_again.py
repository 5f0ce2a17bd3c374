"""The command in a record repeats what was done: the command line itself takes it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from soaks import plan

from osvtriage.cli.interleave import interleave
from osvtriage.cli.run import run, run_options
from osvtriage.cli.soak import soak
from osvtriage.recipe.recipe import Recipe
from osvtriage.soak.plan import matrix
from osvtriage.trial import library
from osvtriage.trial.request import OwnProgram, Steering
from osvtriage.trial.run import Options, _command

RECIPES = {name: library.load(name) for name in library.names()}
# Each example makes click parse a command line: 10 ms.
few = settings(max_examples=50)

# Whole milliseconds: a command line has six digits of a time.
SECONDS = st.none() | st.integers(1, 900).map(float) | st.sampled_from([0.5, 0.125])
PATHS = st.sampled_from(["k", "/a b/vmlinux", "./it's", "ä"]).map(Path)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=8)


def taken(command: click.Command, line: str) -> dict[str, Any]:
    """What osvtriage's own parser makes of a record's command."""
    program, name, *words = shlex.split(line)
    assert (program, name) == ("osvtriage", command.name)
    return dict(command.make_context(name, words).params)


@st.composite
def own_programs(draw: st.DrawFn) -> OwnProgram:
    arguments = tuple(draw(st.lists(WORDS, max_size=3)))
    libraries, debug = (draw(st.none() | PATHS) for _ in range(2))
    return OwnProgram(draw(PATHS), libraries, debug, arguments, draw(st.none() | st.just("app")))


common = {
    "image": st.none() | st.just("mine"),
    "kernel": st.none() | PATHS,
    "smp": st.integers(1, 64),
    "timeout": SECONDS,
    "accelerator": st.sampled_from(["auto", "tcg", "kvm"]),
    "engine": st.sampled_from(["auto", "gdb", "plugin"]),
    "qemu": st.none() | PATHS,
}


@st.composite
def runs(draw: st.DrawFn) -> tuple[Recipe, Options]:
    """A run, as `run` asks for it, and as `verify` does, one variant after the other."""
    recipe = draw(st.sampled_from([*RECIPES.values()]))
    variant = draw(st.sampled_from([one for one in recipe.variant if not one.interleave]))
    more = st.fixed_dictionaries(
        common
        | {
            "seed": st.integers(0, 2**63 - 1),
            "duration": SECONDS,
            "pinpoint": st.none() | st.just("vs0"),
            "program": st.none() | own_programs(),
            "stacks": st.booleans(),
        }
    )
    return recipe, Options(variant=variant.name, **draw(more))


@few
@given(runs())
def test_a_run_and_a_control_of_verify_are_repeated(asked: tuple[Recipe, Options]) -> None:
    recipe, options = asked
    variant = recipe.get_variant(options.variant)
    assert variant is not None
    chosen = taken(run, _command("./my bug.toml", recipe, variant, options))
    assert chosen.pop("recipe") == "./my bug.toml"
    for name in ("expect", "as_json"):
        del chosen[name]
    # All that was asked for, and nothing else.
    assert run_options(**chosen) == options


@few
@given(
    st.fixed_dictionaries(common),
    st.builds(Steering, st.none() | st.just("f+0x4:2"), st.none() | st.integers(1, 99)),
    st.none() | st.sampled_from(["0x10", "libc.so.6:0x10"]),
    st.sampled_from(["recovery", "recovery-disabled"]),
)
def test_an_interleave_is_repeated(
    options: dict[str, Any], steering: Steering, spin_at: str | None, mode: str
) -> None:
    recipe = RECIPES["glibc-reclaim-stacks"]
    recipe = recipe.holding_at(spin_at) if spin_at else recipe
    (variant,) = (one for one in recipe.variant if one.interleave == mode)
    asked = Options(variant=variant.name, steering=steering, **options)
    chosen = taken(interleave, _command("glibc-reclaim-stacks", recipe, variant, asked))
    shipped = RECIPES["glibc-reclaim-stacks"].interleave
    assert shipped is not None
    assert chosen["mode"] == mode
    assert (chosen["boundary"], chosen["limit"]) == (steering.boundary, steering.limit)
    assert chosen["spin_at"] == (spin_at or shipped.spin_at)
    assert {name: chosen[name] for name in common} == options


@pytest.mark.parametrize("rule", [{"runs": 10}, {"seconds": 90.0}, {"half_width": 0.02}])
@pytest.mark.parametrize("conditions", [[], ["smp=1,2", "variant=as-is,zero-fpscr"]])
def test_a_soak_is_repeated(rule: dict[str, Any], conditions: list[str]) -> None:
    recipe = RECIPES["ppc64le-save-fpu"]
    cells = matrix(conditions, recipe, "zero-fpscr", 2)
    given = {"runs": None, "seconds": None, "until_reproduced": True} | rule
    made = plan(cells=cells, timeout=30.0, duration=2.5, kernel="/a b/vmlinux", **given)
    chosen = taken(soak, made.command)
    assert matrix(chosen["matrix"], recipe, chosen["variant"], chosen["smp"]) == cells
    assert chosen["recipe"] == made.recipe
    for name in ("runs", "seconds", "half_width", "until_reproduced", "timeout", "duration"):
        assert chosen[name] == getattr(made, name), name
    for name in ("seed", "start", "engine", "accelerator", "image"):
        assert chosen[name] == getattr(made, name), name
    assert chosen["kernel"] == Path("/a b/vmlinux")
