"""OSv's list of all threads, sound and damaged."""

from __future__ import annotations

import osv_memory
import pytest
from guest_memory import Memory
from hypothesis import given
from hypothesis import strategies as st
from osv_memory import MAP, PLAN, node, tcb, write_map, write_thread

from osvtriage.model.event import Frame, GuestThread
from osvtriage.systems import osv


@pytest.fixture
def memory() -> Memory:
    made = Memory()
    for number in (1, 2, 3):
        write_thread(made, number)
    write_map(made, 3, 1, 2)
    return made


def running(number: int, pc: int) -> dict[str, str]:
    """The registers of a vCPU that runs the thread *number*."""
    words = {"fs_base": tcb(number), "pc": pc, "rsp": pc + 1, "rbp": pc + 2}
    return {name: f"{value:016x}" for name, value in words.items()}


def threads(memory: Memory, cpus: dict[int, dict[str, str]] | None = None) -> list[GuestThread]:
    def backtrace(pc: int, sp: int, fp: int) -> list[Frame]:
        return [Frame(f"{value:016x}") for value in (pc, sp, fp)]

    return osv.threads(memory.read, PLAN, cpus or {}, backtrace)


def numbers(found: list[GuestThread]) -> list[int | None]:
    return [thread.id for thread in found]


def starts(thread: GuestThread) -> list[int]:
    return [int(frame.address, 16) for frame in thread.backtrace]


def test_all_threads_are_listed_by_their_numbers(memory: Memory) -> None:
    write_thread(memory, 2, b"balancer1\0rest", cpu=1)
    first, second, third = threads(memory)
    assert numbers([first, second, third]) == [1, 2, 3]
    assert second.address == f"{osv_memory.address(2):016x}"
    assert (second.name, second.cpu, second.status) == ("balancer1", 1, "waiting")
    # From what was saved when it was switched out.
    assert starts(second) == [0x1002, 0x2002, 2]


def test_a_thread_that_runs_is_at_the_registers_of_its_cpu(memory: Memory) -> None:
    # What it has saved, its CPU among that, is old.
    write_thread(memory, 3, cpu=0, status=5)
    first, _, third = threads(memory, {0: running(9, 0x7000), 1: running(3, 0x8000)})
    assert (third.cpu, third.status, starts(third)) == (1, "running", [0x8000, 0x8001, 0x8002])
    assert (first.cpu, starts(first)) == (0, [0x1001, 0x2001, 1])


def test_a_status_without_a_name_is_its_number(memory: Memory) -> None:
    write_thread(memory, 1, status=77)
    assert threads(memory)[0].status == "77"


def test_hostile_names_are_text(memory: Memory) -> None:
    write_thread(memory, 1, b"\x1b[2J\xff\n" + b"x" * 10)
    assert threads(memory)[0].name == "\x1b[2J\ufffd\n" + "x" * 10


def test_what_cannot_be_read_of_a_thread_is_unknown(memory: Memory) -> None:
    memory.word(osv_memory.address(1) + 48, 0xDEAD0000)
    first = threads(memory)[0]
    assert (first.id, first.cpu, first.status) == (1, None, "unknown")


def test_a_map_that_is_not_there_lists_none() -> None:
    assert threads(Memory()) == []
    empty = Memory()
    write_map(empty)
    assert threads(empty) == []


def test_a_cycle_lists_no_thread_twice(memory: Memory) -> None:
    memory.word(node(1), node(3))
    assert numbers(threads(memory)) == [1, 3]


def test_a_node_that_cannot_be_read_ends_the_list(memory: Memory) -> None:
    memory.forget(node(1), 24)
    assert numbers(threads(memory)) == [3]


def test_a_key_that_is_not_its_threads_number_ends_the_list(memory: Memory) -> None:
    memory.word(node(1) + 8, 5)
    assert numbers(threads(memory)) == [3]


def test_a_thread_that_cannot_be_read_ends_the_list(memory: Memory) -> None:
    memory.word(node(1) + 16, 0xDEAD0000)
    assert numbers(threads(memory)) == [3]


def test_an_absurd_number_of_elements_is_bounded(memory: Memory) -> None:
    memory.word(MAP + 24, 1 << 63)
    assert numbers(threads(memory)) == [1, 2, 3]
    memory.word(node(2), node(3))
    assert numbers(threads(memory)) == [1, 2, 3]
    many = range(1, osv.MOST_THREADS + 10)
    for number in many:
        write_thread(memory, number)
    write_map(memory, *many)
    assert len(threads(memory)) == osv.MOST_THREADS


@given(st.binary(max_size=400), st.integers(0, 400))
def test_no_memory_whatever_makes_the_walk_fail(noise: bytes, place: int) -> None:
    memory = Memory()
    write_thread(memory, 1)
    write_map(memory, 1)
    memory.write(node(1) - 200 + place, noise)
    memory.write(osv_memory.address(1) - 200 + place, noise)
    assert len(threads(memory, {0: running(1, 0x7000)})) <= 1


@given(st.integers(0, 3 * 4096 - 1), st.integers(0, 3))
def test_a_stacks_mark_is_its_lowest_word_that_is_not_zero(at: int, unmapped: int) -> None:
    begin, end = 0x200000, 0x200000 + 3 * 4096
    memory = Memory()
    memory.write(begin, bytes(end - begin))
    memory.write(begin + at, b"\1")
    # From the bottom, for that is where nothing came to.
    memory.forget(begin, unmapped * 4096)
    lowest = begin + at // 8 * 8 if at >= unmapped * 4096 else end
    assert osv.low_water(memory.read, begin, end) == lowest
