"""From a recipe's contexts to places in one kernel, and the tables that backtraces are made by."""

from __future__ import annotations

from dataclasses import replace

from osvtriage.model.context import ContextPlan, ContextsPlan
from osvtriage.model.orc import OrcPlan
from osvtriage.recipe.recipe import Context, Recipe, Variant
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.orc import body, orc_plan

# ContextsPlan's, in its order.
_FUNCTIONS = ("dump_stack", "console_trylock", "console_unlock")


def contexts(recipe: Recipe, elf: ElfImage) -> ContextsPlan:
    """The places of *recipe* in the kernel *elf*.

    Raises:
        SymbolError: it lacks a function.
    """
    places = tuple(_place(context, elf) for context in recipe.context)
    return ContextsPlan(places, *(elf.symbol(name).address for name in _FUNCTIONS))


def _place(context: Context, elf: ElfImage) -> ContextPlan:
    module = context.module
    return ContextPlan(
        name=context.name,
        comm=context.comm,
        function=None if module else elf.symbol(context.function).address,
        entered=elf.symbol(context.entered).address if context.entered else None,
        from_user=context.came_in == "user mode",
        module=module,
        module_function=context.function if module else None,
        dump="kernel" in context.oracle,
    )


def tables(elf: ElfImage, variant: Variant | None) -> OrcPlan:
    """The tables of the kernel *elf*, with one entry wrong where *variant* says so.

    Raises:
        SymbolError: it has none, or none of a known form.
    """
    plan = orc_plan(elf)
    if variant is None or variant.shifted is None:
        return plan
    return replace(plan, shifted=body(plan, elf.symbol(variant.shifted)))
