"""The ORC unwinder over the guest that gdb has stopped."""

from __future__ import annotations

from osvtriage.gdb.inside.guest import Guest, read
from osvtriage.model.orc import OrcPlan
from osvtriage.unwind.linux_modules import Read
from osvtriage.unwind.orc_cpu import OrcCpu


class OrcGuest(OrcCpu):
    """One stop of a guest whose kernel has the tables of *plan*; it is read by *read*."""

    def __init__(self, guest: Guest, plan: OrcPlan, read: Read = read) -> None:
        super().__init__(read, guest.arch, _StoppedCpu(guest), plan)


class _StoppedCpu:
    """The CPU that is stopped; what its stub does not have is asked of QEMU's monitor."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    @property
    def in_user_mode(self) -> bool:
        """Whether it runs a user process."""
        return self._guest.in_user_mode

    def registers(self) -> dict[str, int]:
        """``rip`` and the general registers."""
        guest = self._guest
        registers = {name: guest.integer(name) for name in guest.arch.groups["general"]}
        return registers | {"rip": guest.integer(guest.arch.pc)}

    def block(self) -> int | None:
        """The base of its per-CPU variables."""
        return self._guest.block()

    def current(self) -> int | None:
        """The address of the current task."""
        return self._guest.current()

    def task_state(self) -> int | None:
        """The address of the TSS, as the task register has it."""
        return self._monitored("tr_base")

    def fault_address(self) -> int | None:
        """CR2."""
        return self._monitored("cr2")

    def _monitored(self, name: str) -> int | None:
        digits = self._guest.cpus.get(self._guest.cpu, {}).get(name)
        return None if digits is None else int(digits, 16)
