"""From JSON back to dataclasses, by their annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def decode(kind: type[T], raw: Any) -> T:
    """The dataclass *kind* that ``dataclasses.asdict`` and JSON made *raw* of.

    Its members may be dataclasses, tuples, mappings with strings as keys, optionals and scalars.
    """
    made: T = _made(kind, raw)
    return made


@cache
def _types(kind: type) -> dict[str, Any]:
    types = get_type_hints(kind)
    return {field.name: types[field.name] for field in fields(kind)}


def _made(kind: Any, raw: Any) -> Any:
    if raw is None:
        return None
    if isinstance(kind, UnionType):
        (kind,) = (item for item in get_args(kind) if item is not type(None))
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return kind(**{name: _made(type_, raw[name]) for name, type_ in _types(kind).items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return tuple(_made(arguments[0], item) for item in raw)
        return tuple(_made(item, value) for item, value in zip(arguments, raw, strict=True))
    if origin is Mapping:
        return {name: _made(arguments[1], value) for name, value in raw.items()}
    return raw
