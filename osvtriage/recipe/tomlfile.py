"""Reading a TOML file into a pydantic model, with errors that name the file, the line and the key.

A file is data: nothing in it is executed, included or fetched.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from osvtriage.model.errors import DataFileError
from osvtriage.recipe import lines

Model = TypeVar("Model", bound=BaseModel)

# A recipe has a few kilobytes. The limit keeps `load` quick when it is given a kernel by mistake.
_MAX_BYTES = 1 << 20

# A key of more than 100 parts. tomllib takes time with their square: 27 s for a line of 60 KB.
_ENDLESS_KEY = re.compile(r"""(?:(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){100}""")

# More than this many problems are mostly consequences of the first ones.
_MAX_PROBLEMS = 10


class Misplaced(ValueError):
    """Raised by a model's validator for a problem of its table that lies at *path* in it."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


def load(path: Path, model: type[Model]) -> Model:
    """The file at *path*, validated.

    Raises:
        DataFileError: it cannot be read, is not TOML, or does not fit *model*. The message has a
            line ``FILE:LINE: problem`` for each problem.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataFileError(f"cannot read {path}: {reason}") from error
    if len(raw) > _MAX_BYTES:
        raise DataFileError(f"{path} has more than {_MAX_BYTES} bytes: it is no recipe or manifest")
    return loads(raw, model, str(path))


def loads(raw: bytes, model: type[Model], name: str) -> Model:
    """As :func:`load`, for the contents *raw* of a file that messages call *name*."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataFileError(f"{name}:{line}: byte {raw[error.start]:#04x} is not UTF-8") from error
    data = _parse(text, name)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        where = _key_lines(text)
        problems = sorted(_problems(error.errors(), data, where, model))
        shown = [f"{name}:{line}: {message}" for line, message in problems[:_MAX_PROBLEMS]]
        if more := len(problems) - len(shown):
            shown.append(f"{name}: and {more} more")
        raise DataFileError("\n".join(shown)) from None
    except RecursionError:
        raise DataFileError(f"{name}: tables and arrays are nested too deeply") from None


def _parse(text: str, name: str) -> dict[str, Any]:
    if endless := _ENDLESS_KEY.search(text):
        line = text.count("\n", 0, endless.start()) + 1
        raise DataFileError(f"{name}:{line}: a key of more than 100 parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise DataFileError(f"{name}: tables and arrays are nested too deeply") from None
    except ValueError as error:
        # TOMLDecodeError ends in "(at line 3, column 5)" or "(at end of document)"; the other
        # ValueErrors (a number of 5,000 digits) name no place.
        message = str(error)
        if at := re.search(r" \(at line (\d+), column \d+\)$", message):
            line, message = int(at[1]), message[: at.start()]
        elif message.endswith(" (at end of document)"):
            line = text.count("\n") + (not text.endswith("\n"))
        else:
            raise DataFileError(f"{name}: not valid TOML: {_printable(message)}") from None
        raise DataFileError(
            f"{name}:{max(line, 1)}: not valid TOML: {_printable(message)}"
        ) from None


def _key_lines(text: str) -> dict[lines.Path, int]:
    # Python's parser recurses less deeply than the scanner may have to; a message without a line
    # is better than none.
    try:
        return lines.key_lines(text)
    except (ValueError, IndexError, RecursionError):
        return {}


def _problems(
    details: Sequence[ErrorDetails],
    data: dict[str, Any],
    where: Mapping[lines.Path, int],
    model: type[BaseModel],
) -> Iterator[tuple[int, str]]:
    """The line and the text of each problem; the keys that one table lacks are one problem."""
    missing: dict[lines.Path, list[str]] = {}
    for detail in details:
        loc = detail["loc"]
        if detail["type"] == "missing":
            missing.setdefault(_locate(loc, data)[0], []).append(_quoted(str(loc[-1])))
        elif detail["type"] != "too_short" or not any(
            other is not detail and other["loc"][: len(loc)] == loc for other in details
        ):
            # pydantic calls an array too short, too, when it has left out elements for errors.
            yield _problem(detail, data, where, model)
    for path, keys in missing.items():
        what = f"the keys {', '.join(keys)} are" if len(keys) > 1 else f"the key {keys[0]} is"
        yield _line(path, where), f"{what} missing {_place(path)}"


def _line(path: lines.Path, where: Mapping[lines.Path, int]) -> int:
    """The line of the innermost table or key of *path* that has one."""
    return next((where[path[:n]] for n in range(len(path), 0, -1) if path[:n] in where), 1)


def _problem(
    detail: ErrorDetails,
    data: dict[str, Any],
    where: Mapping[lines.Path, int],
    model: type[BaseModel],
) -> tuple[int, str]:
    """The line and the text of one of pydantic's errors."""
    cause = detail.get("ctx", {}).get("error")
    inner = cause.path if isinstance(cause, Misplaced) else ()
    path, table = _locate((*detail["loc"], *inner), data)
    line = _line(path, where)
    if detail["type"] == "extra_forbidden":
        parent, key = path[:-1], str(path[-1])
        message = f"unknown key {_quoted(key)} {_place(parent)}"
        return line, message + _suggestion(key, sorted(_valid_keys(model, parent, data)))
    message = _printable(detail["msg"].removeprefix("Value error, "))
    if table:
        return line, f"{message} ({_place(path)})" if path else message
    key = next(element for element in reversed(path) if isinstance(element, str))
    parent = path[: max(n for n, element in enumerate(path) if element == key)]
    given = "" if inner else _given(detail["input"])
    return line, f"{_quoted(key)} {_place(parent)}: {message[:1].lower()}{message[1:]}{given}"


def _locate(loc: Sequence[str | int], data: Any) -> tuple[lines.Path, bool]:
    """*loc* without what pydantic adds to it (union tags), and whether a table is there."""
    path: list[str | int] = []
    node = data
    for element in loc:
        if isinstance(node, dict) and element in node:
            node = node[str(element)]
        elif isinstance(node, list) and isinstance(element, int) and element < len(node):
            node = node[element]
        else:
            continue
        path.append(element)
    return tuple(path), isinstance(node, dict)


def _place(path: lines.Path) -> str:
    keys = [element for element in path if isinstance(element, str)]
    if not keys:
        return "at the top level"
    name = _printable(".".join(keys))
    return f"in [[{name}]]" if isinstance(path[-1], int) else f"in [{name}]"


def _suggestion(key: str, valid: Sequence[str]) -> str:
    if near := difflib.get_close_matches(key, valid, 1):
        return f"; did you mean {_quoted(near[0])}?"
    return f"; the keys are {', '.join(valid)}" if valid else ""


def _given(value: object) -> str:
    if isinstance(value, str):
        return f", not {_quoted(value)}" if len(value) <= 60 else ""
    return f", not {value}" if isinstance(value, int | float) else ""


def _valid_keys(model: type[BaseModel], path: lines.Path, data: Any) -> set[str]:
    """The keys that the table at *path* may have."""
    candidates: list[Any] = [model]
    node = data
    for element in path:
        candidates = [c for a in candidates for c in _step(a, element, node)]
        node = node[element]
    models = [m for a in candidates for m in _alternatives(a) if _is_model(m) and _fits(m, node)]
    return {key for model in models for key, _ in _fields(model)}


def _step(annotation: Any, element: str | int, node: Any) -> Iterator[Any]:
    """The annotations of what *element* names in a value of *annotation*."""
    for one in _alternatives(annotation):
        arguments = get_args(one)
        if _is_model(one):
            if isinstance(element, str) and _fits(one, node):
                yield from (kind for key, kind in _fields(one) if key == element)
        elif isinstance(element, str) and len(arguments) == 2:
            yield arguments[1]
        elif isinstance(element, int):
            yield from arguments


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The members of a union; the annotation itself where it is none."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin is Union or type(annotation).__name__ == "UnionType":
        for member in get_args(annotation):
            yield from _alternatives(member)
    else:
        yield annotation


def _fits(model: type[BaseModel], node: Any) -> bool:
    """Whether the table *node* can be meant as *model*: what tells the members of a union apart."""
    return not isinstance(node, dict) or all(
        node.get(key) in get_args(kind)
        for key, kind in _fields(model)
        if get_origin(kind) is Literal and isinstance(node.get(key), str)
    )


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        yield field.alias or name, field.annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _quoted(text: str) -> str:
    return f'"{_printable(text)}"'


def _printable(text: str) -> str:
    """*text* with what could move a terminal's cursor written out."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
