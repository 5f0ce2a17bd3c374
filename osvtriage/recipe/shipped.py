"""Where the recipes and image manifests that come with osvtriage are.

An installed wheel has them in ``osvtriage/shipped`` (see ``force-include`` in pyproject.toml); a
checkout has them at its top.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def recipes_directory() -> Path:
    """The directory of the shipped ``*.toml`` recipes."""
    return _shipped("recipes")


def images_directory() -> Path:
    """The directory of the shipped ``*.toml`` image manifests."""
    return _shipped("images")


def payloads_directory() -> Path:
    """The directory of the C sources of the guests' workloads."""
    return images_directory() / "payloads"


def _shipped(kind: str) -> Path:
    installed = _PACKAGE / "shipped" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind
