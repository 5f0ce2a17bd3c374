"""The user process that probes are in: found by its name, when it passes through the kernel."""

from __future__ import annotations

from osvtriage.gdb.inside.guest import Guest, read
from osvtriage.model.plan import Place, ProcessListsPlan, ProcessPlan, StackListsPlan
from osvtriage.systems.process import auxiliary_vector, loaded


class NotThatFile(Exception):
    """The process has loaded another file than the one whose symbols are used, or none."""


class Process:
    """Where the modules of the process are; forked children share it until they exec."""

    def __init__(self, plan: ProcessPlan, bases: dict[str, int]) -> None:
        self.bases = bases
        self.comm = plan.comm

    def address(self, place: Place) -> int:
        """The address of *place* in this process."""
        return place.at(self.bases)

    def lists(self, plan: ProcessListsPlan) -> StackListsPlan:
        """Where this process has its lists of thread stacks."""
        return plan.at(self.bases)

    def is_in(self, guest: Guest) -> bool:
        """Whether the guest is stopped in user mode of a process of that name."""
        return guest.in_user_mode and guest.identity(guest.current())[1] == self.comm


def find(plan: ProcessPlan, guest: Guest) -> Process | None:
    """The process, if it is the one that the guest is stopped in, in the kernel.

    ``None`` also while its libraries are still being loaded.

    Raises:
        NotThatFile: a module has another build-id in memory than its file.
    """
    current = guest.current()
    if guest.identity(current)[1] != plan.comm:
        return None
    raw = guest.field(current, plan.auxiliary)
    if raw is None:
        return None
    try:
        there = loaded(read, auxiliary_vector(bytes.fromhex(raw)[::-1]))
    except ValueError:
        return None
    bases = {}
    for module in plan.modules:
        names = [item for item in there if item.name.rpartition("/")[2] == module.name]
        if not names and module.needed:
            return None
        if not names:
            continue
        base = names[0].base
        wanted = bytes.fromhex(module.build_id)
        seen = read(base + module.build_id_offset, len(wanted))
        if seen != wanted:
            what = names[0].name or "the program"
            raise NotThatFile(
                f"{what} in the guest has the build-id {seen.hex() if seen else 'unreadable'}, "
                f"the file whose symbols are used has {module.build_id}"
            )
        bases[module.name] = base
    return Process(plan, bases)
