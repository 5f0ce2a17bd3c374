"""A recipe's controls: every variant against the verdict that it must give."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from osvtriage.model.errors import UsageError
from osvtriage.model.verdict import Verdict
from osvtriage.recipe.recipe import Recipe, Variant
from osvtriage.trial.record import RunRecord
from osvtriage.trial.request import Observer
from osvtriage.trial.run import Options, run


@dataclass(frozen=True, slots=True)
class Control:
    """One variant that was run."""

    variant: Variant
    record: RunRecord
    directory: Path

    @property
    def holds(self) -> bool:
        """Whether the variant gave the verdict that it must give."""
        return self.record.verdict is self.variant.verdict


def verify(
    recipe: Recipe,
    source: str,
    options: Options,
    observer: Observer,
    only: Collection[str] = (),
) -> Iterator[Control]:
    """Run the variants of *recipe* that must give a verdict, or those in *only*.

    Each is handed out when it has ended.
    """
    if unknown := set(only) - {variant.name for variant in recipe.variant}:
        names = ", ".join(variant.name for variant in recipe.variant)
        raise UsageError(
            f"recipe {recipe.name} has no variant {min(unknown)!r}", f"it has: {names}"
        )
    for variant in recipe.variant:
        if variant.name in only or (not only and variant.expect is not None):
            out = options.out / variant.name if options.out else None
            chosen = replace(options, variant=variant.name, out=out)
            if variant.interleave and options.engine == "plugin":
                # What steers a guest is gdb's, whichever engine watches the others.
                chosen = replace(chosen, engine="auto")
            yield Control(variant, *run(recipe, source, chosen, observer))


def exit_code(controls: Sequence[Control]) -> int:
    """0 if all controls hold, 1 if one gave the opposite verdict, else what went wrong most."""
    codes = [
        control.record.verdict.exit_code_expecting(control.variant.verdict)
        for control in controls
        if control.variant.verdict is not None
    ]
    broken = [code for code in codes if code]
    if Verdict.REPRODUCED.exit_code in broken:
        return Verdict.REPRODUCED.exit_code
    return max(broken, default=0)
