"""``osvtriage-mi``, which editors call as if it were gdb."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.cli.gdb import gdb
from osvtriage.cli.mi import session_arguments


@pytest.mark.parametrize(
    "asked",
    [
        *(["--interpreter=mi2"], ["--interpreter", "mi"], ["-interpreter=mi3"], ["-i=mi"]),
        *(["-i", "mi"], []),
    ],
    ids=" ".join,
)
def test_the_interpreter_that_an_editor_asks_for_is_dropped(asked: list[str]) -> None:
    words = ["a-recipe", "--variant", "v", "--image", "i"]
    assert session_arguments([*asked, *words]) == ["gdb", "--mi", "--wait", *words]


def test_what_is_left_is_a_session_as_the_command_line_knows_it() -> None:
    command, *words = session_arguments(["--interpreter=mi2", "a-recipe", "--nx"])
    chosen = gdb.make_context(command, words).params
    assert (chosen["recipe"], chosen["mi"], chosen["wait"]) == ("a-recipe", True, True)


@given(st.lists(st.text(min_size=1).filter(lambda word: not word.startswith(("-i", "--i")))))
def test_every_other_word_stays_in_its_place(words: list[str]) -> None:
    assert session_arguments(words)[3:] == words
