"""``osvtriage recipes new``: a recipe file, begun from what a session exported."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from osvtriage.images import atomic
from osvtriage.model.errors import UsageError
from osvtriage.recipe import lines
from osvtriage.trial import library
from osvtriage.trial.draft import draft

# As `name` of a recipe; a file's name is made of it.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
# Of a recipe, or a manifest, as the loader has it.
_MAX_BYTES = 1 << 20
_SCHEMA = "osvtriage.recipe/1"
_HINT = "`ot export FILE.toml` in a session of `osvtriage gdb` writes one"


def require_name(name: str) -> None:
    """Refuse what is no name for a recipe, and what would hide behind a shipped one's.

    Raises:
        UsageError: *name* is one of these.
    """
    if _NAME.fullmatch(name) is None or name.endswith(".toml"):
        raise UsageError(
            f"{name!r} cannot be the name of a recipe",
            "letters, digits and _ . + -, 64 at most, without the file's ending",
        )
    if name in library.names():
        raise UsageError(
            f"there is a shipped recipe {name!r} already", "give yours a name of its own"
        )


def from_export(name: str, export: Path) -> str:
    """The recipe that a session exported, under its *name*; whatever was edited in it stays.

    Raises:
        UsageError: *export* is no such file.
    """
    try:
        with export.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        text = raw.decode("utf-8")
        parsed = tomllib.loads(text)
        where = lines.key_lines(text)
    except OSError as error:
        raise UsageError(f"cannot read {export}: {error.strerror}", _HINT) from error
    except (ValueError, IndexError, RecursionError) as error:
        raise UsageError(f"{export} is no export of a session: it is not TOML", _HINT) from error
    if len(raw) > _MAX_BYTES or not _is_export(parsed):
        raise UsageError(f"{export} is no export of a session", _HINT)
    kept = text.splitlines()
    kept[where["name",] - 1] = f"name = {json.dumps(name)}"
    return "\n".join(kept) + "\n"


def _is_export(parsed: dict[str, Any]) -> bool:
    # A name is short enough to be on the line of its key, unless somebody wrote it in '''.
    name = parsed.get("name")
    return (
        parsed.get("schema") == _SCHEMA
        and isinstance(name, str)
        and "\n" not in name
        and isinstance(parsed.get("probe"), list)
    )


def like(name: str, other: str) -> str:
    """A recipe without probes yet, on the image and the workload of another.

    Raises:
        UsageError: there is no *other* recipe.
        DataFileError: it is not valid.
    """
    return draft(library.load(other), (), name=name, beside=library.find(other).parent)


def write(path: Path, text: str) -> list[str]:
    """Write the recipe file, and say what `recipes lint` will say of it.

    Raises:
        UsageError: there is such a file already.
        ImageError: it cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise UsageError(
            f"{path} exists, and may have been edited", "remove it, or name another with --out"
        )
    with atomic.new_file(path) as file:
        file.write(text.encode())
    return library.lint(str(path))
