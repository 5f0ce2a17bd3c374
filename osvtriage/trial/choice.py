"""Which image a command runs."""

from __future__ import annotations

from pathlib import Path

from osvtriage.images.record import Image
from osvtriage.images.store import ImageStore
from osvtriage.model.errors import UsageError
from osvtriage.recipe.recipe import Recipe
from osvtriage.systems import SYSTEMS
from osvtriage.trial.request import Observer


def choose_image(
    recipe: Recipe, name: str | None, kernel: Path | None, observer: Observer
) -> Image:
    """The image *name*, or else the recipe's own, made if need be; with the user's *kernel*.

    Raises:
        UsageError: there is none, or it is left open which.
    """
    return take_image(name or recipe.image or _only_image(recipe), kernel, observer)


def take_image(name: str, kernel: Path | None, observer: Observer) -> Image:
    """The image *name*, made if need be; with the user's *kernel*."""
    store = ImageStore()
    image = store.ensure(name, lambda message: observer.phase("image", message))
    return store.with_kernel(image, kernel) if kernel else image


def _only_image(recipe: Recipe) -> str:
    """The image to run where neither the recipe nor the user names one: the only one that fits."""
    fitting = [image.name for image in ImageStore().list() if image.system == recipe.system]
    if len(fitting) == 1:
        return fitting[0]
    system = SYSTEMS[recipe.system].title
    if not fitting:
        raise UsageError(
            f"recipe {recipe.name} needs an image of {system}, and there is none",
            f"add yours: `osvtriage images add NAME --system {recipe.system} --kernel FILE …`",
        )
    raise UsageError(
        f"recipe {recipe.name} runs on any image of {system}: choose one with --image",
        f"there are: {', '.join(fitting)}",
    )
