"""An OSv guest's list of threads, as libstdc++ lays out its map of them."""

from __future__ import annotations

from guest_memory import Memory

from osvtriage.model.plan import ThreadListPlan

MAP = 0x40800000
NODES, THREADS, DETACHED, CPUS = 0x6000_0000, 0x6100_0000, 0x6200_0000, 0x6300_0000
PLAN = ThreadListPlan(
    MAP,
    {
        "id": 0,
        "name": 8,
        "tcb": 24,
        "stack.begin": 32,
        "stack.size": 40,
        "detached_state": 48,
        "state.pc": 56,
        "state.sp": 64,
        "state.fp": 72,
        "detached_state.cpu": 8,
        "detached_state.status": 16,
        "cpu.id": 4,
    },
    {"0": "invalid", "5": "running", "6": "waiting"},
)


def address(number: int) -> int:
    """Where the thread of that number is."""
    return THREADS + 0x1000 * number


def node(number: int) -> int:
    """Where the map's node of the thread of that number is."""
    return NODES + 0x20 * number


def tcb(number: int) -> int:
    """The thread's ``fs_base``."""
    return 0x5000_0000_0000 + 0x1000 * number


def write_thread(
    memory: Memory, number: int, name: bytes = b"", cpu: int = 0, status: int = 6
) -> None:
    """A thread whose saved state has its number in all of pc, sp and fp."""
    at, detached = address(number), DETACHED + 0x40 * number
    memory.word(at, number)
    memory.write(at + 8, (name or f"t{number}".encode())[:16].ljust(16, b"\0"))
    memory.word(at + 24, tcb(number), 0, 0, detached, 0x1000 + number, 0x2000 + number, number)
    memory.word(detached, 0, CPUS + 0x10 * cpu, status)
    memory.write(CPUS + 0x10 * cpu + 4, cpu.to_bytes(4, "little"))


def write_map(memory: Memory, *numbers: int) -> None:
    """The map of the threads *numbers*, in that order."""
    first = node(numbers[0]) if numbers else 0
    memory.word(MAP, 0x6400_0000, 13, first, len(numbers))
    for at, number in enumerate(numbers):
        following = node(numbers[at + 1]) if at + 1 < len(numbers) else 0
        memory.word(node(number), following, number, address(number))
