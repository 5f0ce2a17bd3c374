"""C++ names as people write them."""

from __future__ import annotations

import re
from functools import lru_cache

# What follows the parameters of a member function.
_QUALIFIERS = re.compile(r"( const| volatile| &&?)+$")


@lru_cache(maxsize=4096)
def demangled(symbol: str) -> str:
    """The qualified name behind a mangled *symbol*, without its parameters; others as they are.

    ``_ZN6memory20page_range_allocator5allocILb1EEEvmb`` is ``memory::page_range_allocator::
    alloc<true>``. What a compiler appended (``.part.0``) stays.
    """
    if not symbol.startswith("_Z"):
        return symbol
    # Imported on use: it looks for libstdc++, whose demangler it is, which takes 20 ms.
    import cxxfilt

    mangled, dot, suffix = symbol.partition(".")
    try:
        whole = cxxfilt.demangle(mangled)
    except cxxfilt.Error:
        return symbol
    name = _without_parameters(whole)
    # Only functions have parameters, and with them a result.
    return (name if name == whole else _without_result(name)) + dot + suffix


def _without_parameters(name: str) -> str:
    """*name* up to the parenthesis that opens its last top-level list, if it ends with one."""
    body = _QUALIFIERS.sub("", name)
    if not body.endswith(")"):
        return name
    depth = 0
    for at in range(len(body) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(body[at], 0)
        if not depth:
            return body[:at] or name
    return name


def _without_result(name: str) -> str:
    """*name* without the type of the result, which only templates' names have."""
    if "operator" in name:
        return name
    depth = start = 0
    for at, letter in enumerate(name):
        depth += (letter in "<({") - (letter in ">)}")
        if letter == " " and not depth:
            start = at + 1
    return name[start:]
