"""Variables and members of a C++ kernel, by the debug information that gdb has of it."""

from __future__ import annotations

from typing import Any

import gdb

from osvtriage.systems.trees import NodeLayout


def variable(name: str) -> tuple[int, Any]:
    """Address and type of a variable with its namespaces, such as ``mmu::vma_list``.

    Raises:
        gdb.GdbError: there is no debug information on it.
    """
    # Not by an expression: in assembly code gdb reads these as C.
    symbol = gdb.lookup_global_symbol(name) or gdb.lookup_static_symbol(name)
    if symbol is None:
        raise gdb.GdbError(
            f"there is no debug information on {name}; give the image the kernel's file that has "
            "it, with `osvtriage images add … --symbols loader.elf`"
        )
    return int(symbol.value().address), symbol.type.strip_typedefs()


def enumerator(name: str) -> int | None:
    """The value of an enumerator; ``None``: this build has none of that name."""
    symbol = gdb.lookup_global_symbol(name) or gdb.lookup_static_symbol(name)
    return None if symbol is None else int(symbol.value())


def of(name: str) -> Any:
    """The type *name*.

    Raises:
        gdb.GdbError: there is no debug information on it.
    """
    try:
        return gdb.lookup_type(name).strip_typedefs()
    except gdb.error:
        raise gdb.GdbError(f"there is no debug information on {name}") from None


def offset(kind: Any, *path: str) -> int:
    """How far into a structure of that type a member is, or a member of a member.

    Raises:
        gdb.GdbError: it has none of that name.
    """
    found = 0
    for name in path:
        step = _within(kind, name)
        if step is None:
            raise gdb.GdbError(f"{kind} has no member {name} in this build")
        found, kind = found + step[0], step[1]
    return found


def tree(kind: Any, names: tuple[str, str, str], before: int) -> tuple[int, NodeLayout]:
    """How far into a container its header node is, and where a node has its three pointers.

    The container's template tells neither; but the only members of those names in it are the
    header's.

    Args:
        before: how far into a node the first of the pointers is.
    """
    header = offset(kind, names[0]) - before
    return header, NodeLayout(*(offset(kind, name) - header for name in names))


def _within(kind: Any, name: str) -> tuple[int, Any] | None:
    """The first member *name* in a type or in what that is made of, with its type."""
    if kind.code != gdb.TYPE_CODE_STRUCT:
        return None
    fields = [field for field in kind.fields() if hasattr(field, "bitpos")]
    for field in fields:
        if field.name == name and not field.is_base_class:
            return field.bitpos // 8, field.type.strip_typedefs()
    for field in fields:
        inner = _within(field.type.strip_typedefs(), name)
        if inner is not None:
            return field.bitpos // 8 + inner[0], inner[1]
    return None
