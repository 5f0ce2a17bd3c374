"""The names of the images there are. Reads two directories and no file: shell completion asks."""

from __future__ import annotations

from osvtriage.images.places import data_directory
from osvtriage.recipe.shipped import images_directory


def image_names() -> list[str]:
    """The names of all images."""
    return [*shipped_names(), *added_names()]


def shipped_names() -> list[str]:
    """The names of the images that have manifests."""
    return sorted(path.stem for path in images_directory().glob("*.toml"))


def added_names() -> list[str]:
    """The names of the kernels that the user added."""
    # What starts with a dot is a lock, or a copy that is not whole yet.
    directories = (data_directory() / "images").glob("[!.]*")
    return sorted(path.name for path in directories if path.is_dir())
