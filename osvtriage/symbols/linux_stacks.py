"""How big a Linux kernel's stacks are, and where in its types what leads to them."""

from __future__ import annotations

from collections.abc import Mapping

from osvtriage.model.errors import SymbolError
from osvtriage.model.plan import Field, GdbPlan
from osvtriage.model.stacks import StacksPlan
from osvtriage.symbols.btf import Btf
from osvtriage.symbols.elf import ElfImage

# What the linker script puts around the first task's stack, THREAD_SIZE apart: INIT_TASK_DATA in
# include/asm-generic/vmlinux.lds.h; renamed in 6.10.
_AROUND = (("__start_init_stack", "__end_init_stack"), ("__start_init_task", "__end_init_task"))
_MEMBERS = ("tasks", "thread_node", "signal", "stack")


def stack_bytes(elf: ElfImage) -> int:
    """THREAD_SIZE, the size of every task's stack.

    Raises:
        SymbolError: the kernel has not the symbols that tell it, or they tell what cannot be.
    """
    for start, end in _AROUND:
        if elf.has_symbol(start) and elf.has_symbol(end):
            size = elf.symbol(end).address - elf.symbol(start).address
            # A power of two: asm/page_64_types.h, THREAD_SIZE_ORDER.
            if size < 4096 or size & (size - 1):
                raise SymbolError(f"{elf.path}: {start} and {end} are {size:#x} bytes apart")
            return size
    raise SymbolError(f"{elf.path} has neither {' nor '.join(start for start, _ in _AROUND)}")


def plan(elf: ElfImage, gdb_plan: GdbPlan, fields: Mapping[str, Field]) -> StacksPlan:
    """Where the tasks and their stacks are, by the kernel's own types.

    Raises:
        SymbolError: the kernel has no types (.BTF), or they lack a member.
    """
    types = Btf.of(elf)
    offsets = _task_offsets(types)
    return StacksPlan(
        gdb=gdb_plan,
        first=elf.symbol("init_task").address,
        stack_bytes=stack_bytes(elf),
        offsets=offsets,
        fields={name: fields[name] for name in ("pid", "tgid", "comm")},
    )


def task_offsets(elf: ElfImage) -> dict[str, int] | None:
    """Where the kernel's types have what links the tasks, and their stacks; ``None``: it has no
    types (.BTF). See :func:`osvtriage.systems.linux_tasks.tasks`.
    """
    try:
        return _task_offsets(Btf.of(elf))
    except SymbolError:
        return None


def _task_offsets(types: Btf) -> dict[str, int]:
    found = {name: types.member("task_struct", name)[0] for name in _MEMBERS}
    return found | {"thread_head": types.member("signal_struct", "thread_head")[0]}
