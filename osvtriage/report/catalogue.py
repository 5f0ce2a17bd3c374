"""Recipes as people and scripts read them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from osvtriage.recipe.recipe import Context, Matrix, Probe, Recipe


def recipes_table(recipes: Sequence[Recipe]) -> str:
    """A line for each recipe."""
    width = max((len(recipe.name) for recipe in recipes), default=0)
    return "\n".join(
        f"{recipe.name:<{width}}  {recipe.system}/{recipe.arch}  {recipe.title}"
        for recipe in recipes
    )


def recipes_json(recipes: Sequence[Recipe]) -> str:
    """All recipes as one JSON object."""
    rows = [recipe.model_dump(mode="json", by_alias=True) for recipe in recipes]
    return json.dumps({"schema": "osvtriage.recipes/1", "recipes": rows}, indent=2)


def recipe_json(recipe: Recipe) -> str:
    """One recipe as JSON, with its defaults filled in."""
    return json.dumps(recipe.model_dump(mode="json", by_alias=True), indent=2)


def recipe_text(recipe: Recipe) -> str:
    """One recipe for people."""
    lines = [f"{recipe.name}: {recipe.title}", "", recipe.about.strip(), ""]
    lines += [f"system   {recipe.system} on {recipe.arch}, image {recipe.image or 'any of yours'}"]
    payload = recipe.workload.payload or "none of ours"
    lines += [f"workload {payload}, at most {recipe.workload.limit:g} s", ""]
    if recipe.context:
        lines += ["contexts", *(f"  {one.name:<22} {_reached(one)}" for one in recipe.context)]
    else:
        lines += ["probes", *(f"  {probe.name:<16} {_where(probe)}" for probe in recipe.probe)]
    lines += _matrix(recipe.matrix)
    if recipe.check or recipe.sweep:
        lines += ["", "checks"]
    if (sweep := recipe.sweep) is not None:
        lines.append(f"  {sweep.stimulus:<20} {', '.join(sweep.accesses)}: as predicted, or not")
    for check in recipe.check:
        parameters = ", ".join(f"{name} {value}" for name, value in check.parameters.items())
        lines.append(f"  {check.kind:<20} {parameters}")
    lines += ["", "variants"]
    lines += [f"  {item.name:<22} {item.expect or '-':<11} {item.title}" for item in recipe.variant]
    if recipe.references:
        lines += ["", "references", *(f"  {reference}" for reference in recipe.references)]
    return "\n".join(lines)


def _matrix(matrix: Matrix) -> list[str]:
    if matrix == Matrix():
        return []
    words = [" ".join(words) or "none" for words in matrix.arguments]
    vcpus = ", ".join(str(number) for number in matrix.smp)
    return ["", f"found fastest with {vcpus} vCPUs; arguments: {' or '.join(words)}"]


def _reached(context: Context) -> str:
    module = f" of the module {context.module}, where it calls the kernel" if context.module else ""
    entered = f", through {context.entered} from {context.came_in}" if context.entered else ""
    return (
        f"{context.function}{module}{entered}; compared with the {' and the '.join(context.oracle)}"
    )


def _where(probe: Probe) -> str:
    if probe.call is not None:
        text = f"around each call of {probe.call.to}"
        if probe.call.inside:
            text += f" in {', '.join(probe.call.inside)}"
        if probe.call.not_in:
            text += f" outside {', '.join(probe.call.not_in)}"
    elif probe.place is not None:
        text = f"at {probe.place} of a user process"
    else:
        text = f"at {probe.function}"
        if probe.until_after_call:
            text += f", until its call of {probe.until_after_call} returns"
    if probe.arm is not None:
        first = f"for the first {probe.arm.first} passages and " if probe.arm.first else ""
        text += f"; armed {first}for {probe.arm.stops} of each thread after {probe.arm.after}"
    return text
