"""The stopped guest: its memory, its registers, its current thread."""

from __future__ import annotations

import re

import gdb

from osvtriage.arch import Arch
from osvtriage.model.event import Frame, GuestThread, ThreadKey
from osvtriage.model.plan import Field, GdbPlan, UnwindPlan
from osvtriage.systems import osv
from osvtriage.systems.identity import identity
from osvtriage.unwind import backchain, framepointer

_BY_POINTERS = (
    "by frame pointers alone, for the kernel's ORC tables cannot be used: frames are missing"
)


def read(address: int, size: int) -> bytes | None:
    """*size* bytes of guest memory at virtual *address*; ``None`` where nothing is mapped."""
    try:
        return gdb.selected_inferior().read_memory(address, size).tobytes()  # type: ignore[no-any-return]
    except (gdb.MemoryError, OverflowError):
        return None


def write(address: int, content: bytes) -> None:
    """Put *content* into guest memory at virtual *address*."""
    gdb.selected_inferior().write_memory(address, content)


def instructions() -> int | None:
    """How many instructions the guest has executed, where QEMU records or replays its execution."""
    # "Replaying execution 'FILE': instruction count = N" (QEMU, replay/replay-debugging.c).
    said = gdb.execute("monitor info replay", to_string=True)
    found = re.search(r"instruction count = (\d+)", said.rpartition("':")[2])
    return int(found[1]) if found else None


def all_registers() -> str:
    """What QEMU itself prints of every vCPU's registers."""
    return str(gdb.execute("monitor info registers -a", to_string=True))


class Guest:
    """The guest at one stop. What is asked of QEMU's monitor is asked once."""

    def __init__(self, plan: GdbPlan, arch: Arch) -> None:
        self.plan = plan
        self.arch = arch
        self.cpu = int(gdb.selected_thread().ptid[1]) - 1
        self._cpus: dict[int, dict[str, str]] | None = None

    @property
    def cpus(self) -> dict[int, dict[str, str]]:
        """What QEMU's monitor says of every vCPU's registers."""
        if self._cpus is None:
            assert self.arch.monitor_registers is not None
            self._cpus = self.arch.monitor_registers(all_registers())
        return self._cpus

    def register(self, name: str) -> str | None:
        """The register's digits, at full width; ``None`` where it cannot be read.

        Where QEMU was asked as well, and says something else than its gdb stub, neither is told.
        """
        word = self.arch.words[name]
        if word.monitor:
            return self.cpus.get(self.cpu, {}).get(name)
        try:
            value = gdb.selected_frame().read_register(word.gdb_name)
            if word.elements is None:
                digits = f"{int(value) & ((1 << word.bits) - 1):0{word.bits // 4}x}"
            else:
                parts = value[word.elements]
                low, high = parts.type.range()
                words = [int(parts[index]) & 0xFFFFFFFF for index in range(low, high + 1)]
                digits = "".join(f"{part:08x}" for part in reversed(words))
        except (gdb.error, ValueError):
            return None
        if self._cpus is not None:
            other = self._cpus.get(self.cpu, {}).get(name, digits)
            if int(other, 16) != int(digits, 16):
                return None
        return digits

    def registers(self, names: tuple[str, ...]) -> dict[str, str | None]:
        """Several registers, by their names."""
        if any(self.arch.words[name].monitor for name in names):
            # First, so that what both have is compared.
            _ = self.cpus
        return {name: self.register(name) for name in names}

    def integer(self, name: str) -> int:
        """A register as a number.

        Raises:
            gdb.error: it cannot be read.
        """
        value = self.register(name)
        if value is None:
            raise gdb.error(f"register {name} cannot be read")
        return int(value, 16)

    @property
    def in_user_mode(self) -> bool:
        """Whether the vCPU that stopped runs a user process."""
        register, bits = self.arch.user_mode
        return self.integer(register) & bits == bits

    def address_space(self) -> str:
        """What tells this process's memory from that of any other that lives now.

        On x86-64 the address of its page tables; the lowest bits of CR3 are flags, and with page
        table isolation bit 12 tells the user's tables from the kernel's.
        """
        assert self.arch.page_tables is not None
        return f"{self.integer(self.arch.page_tables) & ~0x1FFF:016x}"

    def return_address(self) -> int | None:
        """Where the function that was just entered will return to."""
        if self.arch.link_register is not None:
            return self.integer(self.arch.link_register)
        return self.word(self.integer(self.arch.stack_pointer))

    def word(self, address: int) -> int | None:
        """The doubleword at *address*."""
        raw = read(address, 8)
        return None if raw is None else int.from_bytes(raw, self.arch.byte_order)

    def current(self) -> int | None:
        """The address that stands for the current thread."""
        block, offset = self.block(), self.plan.thread.offset
        if block is None or offset is None:
            return block
        return self.word(_wrapped(block + offset))

    def block(self) -> int | None:
        """What leads to the current thread: on x86-64 Linux the CPU's own variables."""
        plan = self.plan.thread
        bases = [self.integer(plan.base)]
        if plan.other_base is not None and plan.own is not None:
            bases.append(self.integer(plan.other_base))
            bases = [base for base in bases if self._is_own(base, plan.own)]
        return bases[0] if bases else None

    def _is_own(self, base: int, own: int) -> bool:
        """Whether *base* is that of the kernel's block, which holds it at *own*.

        Programs can put into the register what they like, and write to their own memory, which is
        the lower half.
        """
        at = _wrapped(base + own)
        return at >> 63 == 1 and self.word(at) == base

    def field(self, base: int | None, field: Field) -> str | None:
        """The digits of a field of the thread at *base*."""
        for offset in field.path[:-1]:
            base = None if base is None else self.word(base + offset)
        raw = None if base is None else read(base + field.path[-1], field.size)
        if raw is None:
            return None
        return f"{int.from_bytes(raw, self.arch.byte_order):0{2 * field.size}x}"

    def identity(self, current: int | None) -> tuple[ThreadKey, str | None]:
        """The key of the thread at *current*, and its name."""
        known = {
            name: self.field(current, field) for name, field in self.plan.thread.fields.items()
        }
        return identity(current, known)

    def backtrace(self, at_entry: bool) -> list[Frame]:
        """The frames from here outward; ``at_entry``: at a function's first instruction."""
        arch = self.arch
        pc, sp = self.integer(arch.pc), self.integer(arch.stack_pointer)
        if self.plan.orc is not None:
            # Imported on use: it reads guests in turn.
            from osvtriage.gdb.inside.orc import OrcGuest

            return OrcGuest(self, self.plan.orc).frames()
        if arch.frame_pointer is not None:
            fp = self.integer(arch.frame_pointer)
            start = framepointer.Registers(pc, sp, fp, at_entry)
            frames = framepointer.walk(arch, read, start, self.plan.unwind or UnwindPlan())
            if self.plan.unwind is None:
                # A Linux whose tables are missing, or of an unknown form.
                frames.append(Frame(frames[-1].address, kind="unsure", note=_BY_POINTERS))
            return frames
        link = arch.link_register
        return backchain.walk(arch, read, pc, sp, self.integer(link) if link and at_entry else None)

    def threads(self, wanted: int | None = None) -> list[GuestThread]:
        """All threads of the guest, or the one with the number *wanted*; none where it is not known
        how to list them."""
        listed, unwind = self.plan.threads, self.plan.unwind
        if listed is None or unwind is None:
            return []

        def backtrace(pc: int, sp: int, fp: int) -> list[Frame]:
            return framepointer.walk(self.arch, read, framepointer.Registers(pc, sp, fp), unwind)

        return osv.threads(read, listed, self.cpus, backtrace, wanted)


def _wrapped(address: int) -> int:
    """*address* as the processor has it: an offset can be an address of the upper half."""
    return address & 0xFFFF_FFFF_FFFF_FFFF
