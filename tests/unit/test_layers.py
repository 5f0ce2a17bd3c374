"""The order of the packages, and what of them can be loaded by gdb's own Python."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

PACKAGE = Path(__file__).parents[2] / "osvtriage"

# gdb's Python has none of our dependencies; these are loaded there, or have to stay loadable.
PLAIN = ("model", "arch", "systems", "unwind", "checks", "consoles", "gdb/inside")
PLAIN_MODULES = tuple("osvtriage." + name.replace("/", ".") for name in PLAIN)

# Importing osvtriage.gdb.inside runs these first.
PARENTS = [PACKAGE / "__init__.py", PACKAGE / "gdb" / "__init__.py"]


def plain_files() -> Iterator[Path]:
    for name in PLAIN:
        yield from sorted((PACKAGE / name).rglob("*.py"))
    yield from PARENTS


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """The modules that *path* imports, also inside functions, with the lines."""
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: -(node.level - 1) or None]
                base = ".".join([*parents, *([base] if base else [])])
            if base in ("osvtriage", "osvtriage.gdb"):
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, base


def is_plain(module: str) -> bool:
    if module.partition(".")[0] == "osvtriage":
        return any(module == name or module.startswith(f"{name}.") for name in PLAIN_MODULES)
    return module.partition(".")[0] in sys.stdlib_module_names | {"gdb"}


def test_a_package_imports_only_from_packages_below_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PACKAGE.parent)
    status = lint_imports(config_filename="pyproject.toml", cache_dir=None)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_what_gdb_loads_needs_nothing_but_the_standard_library() -> None:
    foreign = [
        f"{path.relative_to(PACKAGE.parent)}:{line}: imports {module}"
        for path in plain_files()
        for line, module in imported(path)
        if not is_plain(module)
    ]
    assert not foreign, "\n".join(foreign)


def test_every_plain_package_is_there() -> None:
    without = [name for name in PLAIN if not list((PACKAGE / name).rglob("*.py"))]
    assert not without


def test_the_top_package_is_empty() -> None:
    assert (PACKAGE / "__init__.py").read_bytes() == b""


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import pydantic.fields", ["pydantic.fields"]),
        ("def f():\n    from rich import box", ["rich"]),
        ("from osvtriage import cli", ["osvtriage.cli"]),
        ("from osvtriage.gdb import session", ["osvtriage.gdb.session"]),
        ("from .base import Arch", ["osvtriage.arch.base"]),
        ("from ..symbols import elf", ["osvtriage.symbols"]),
    ],
)
def test_imports_are_found_however_they_are_written(
    source: str, modules: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "osvtriage"
    (package / "arch").mkdir(parents=True)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package)
    path = package / "arch" / "new.py"
    path.write_text(source)
    assert [module for _, module in imported(path)] == modules
