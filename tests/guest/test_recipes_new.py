"""The road from a breakpoint set by hand to a recipe whose controls hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import osv_specimen
from harness import Command, Places
from terminal import Terminal

SETUP = "setup_large_syscall_stack"


def fill_in(recipe: Path, **answers: str) -> None:
    """Put each answer in the place of the first comment that begins so, or behind its value."""
    lines = recipe.read_text().splitlines()
    for asked, answer in answers.items():
        mark = f"# fill in: {asked.replace('_', ' ')}"
        at = next(number for number, line in enumerate(lines) if mark in line)
        lines[at] = answer
    recipe.write_text("\n".join(lines) + "\n")


def test_from_something_odd_in_a_session_to_controls_that_hold(
    places: Places, command: Callable[..., Command], tmp_path: Path
) -> None:
    kernel = osv_specimen.build(tmp_path)
    added = ["images", "add", "specimen", "--system", "osv", "--kernel", kernel]
    assert command(*added, "--append", "--threads=8").wait().status == 0
    image = ["--image", "specimen"]
    export, recipe = tmp_path / "export.toml", tmp_path / "odd-xmm0.toml"
    session = Terminal(
        places,
        "osv-syscall-fpu",
        "--variant",
        "specimen-xmm0",
        *image,
        "--stop-at",
        f"{SETUP}:entry",
    )
    session.until_prompt()
    session.run("break *$pc")
    exported = session.run(f"ot export {export}")
    assert f"osvtriage recipes new NAME --from {export}" in exported
    assert session.quit()[0] == 0

    begun = command("recipes", "new", "odd-xmm0", "--from", export, "--out", recipe).wait()
    assert begun.status == 0, begun.err
    # Nothing runs before somebody has said what the controls are.
    early = command("verify", recipe, *image).wait()
    assert early.status == 129
    assert "`expect` is missing" in early.err
    to_do = command("recipes", "lint", recipe).wait()
    assert to_do.status == 129
    assert to_do.err.count("to fill in: expect") == 2

    fill_in(
        recipe,
        what_goes_wrong='title = "xmm0 is lost in the first SYSCALL"',
        how_it_goes_wrong='about = "the allocator uses it"',
    )
    fill_in(
        recipe,
        expect='expect = "reproduced"',
        what_it_is_called='name = "fixed"',
        what_it_changes='title = "the specimen saves the FPU"',
        what_makes_the_difference='arguments = ["--fixed"]\nneeds_symbol = "specimen_switches"',
    )
    left = command("recipes", "lint", recipe).wait()
    assert [line.partition("to fill in: ")[2][:6] for line in left.err.splitlines()][:1] == [
        "expect"
    ]
    fill_in(recipe, expect='expect = "clean"')
    assert command("recipes", "lint", recipe).wait().out == f"{recipe}: sound\n"

    done = command("verify", recipe, *image).wait()
    assert done.status == 0, done.out + done.err
    # The other way round they do not hold.
    swapped = recipe.read_text().replace('"clean"', '"X"').replace('"reproduced"', '"clean"')
    recipe.write_text(swapped.replace('"X"', '"reproduced"'))
    assert command("verify", recipe, *image).wait().status == 1
    places.assert_clean()
