"""``osvtriage-mi``: what an editor names in gdb's place; it takes gdb's options beside a recipe.

Editors ask it for gdb's version, and call it with ``--interpreter=mi2`` in front of the arguments
that the user gave.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

# gdb/main.c: an option has one dash or two, and its value behind "=" or in the next word.
_INTERPRETER = re.compile(r"--?i(nterpreter)?(=.*)?")


def session_arguments(words: Sequence[str]) -> list[str]:
    """The arguments of osvtriage for an editor's *words*: which interpreter it wants is known."""
    return ["gdb", "--mi", "--wait", *_without_interpreter(iter(words))]


def _without_interpreter(words: Iterator[str]) -> Iterator[str]:
    for word in words:
        match = _INTERPRETER.fullmatch(word)
        if match is None:
            yield word
        elif match[2] is None:
            next(words, None)


def entry() -> NoReturn:
    """The console script."""
    from osvtriage.cli import main

    if sys.argv[1:] in (["--version"], ["-v"]):
        _be_asked_for_the_version()
    sys.argv[1:] = session_arguments(sys.argv[1:])
    main.entry()


def _be_asked_for_the_version() -> NoReturn:
    """Say what gdb says, for editors choose their commands by its version."""
    from osvtriage.guest.programs import find_gdb
    from osvtriage.model.errors import OsvtriageError

    try:
        gdb = str(find_gdb())
        os.execv(gdb, [gdb, "--version"])
    except OsvtriageError as error:
        print(f"osvtriage: {error}\n  {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
