"""A process with glibc's lists of thread stacks, whose every store can be stopped behind.

The model follows glibc's C, store by store: include/list.h, nptl/nptl-stack.c and
nptl/allocatestack.c. Its memory is words by their addresses, so that a fork is a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Self

from osvtriage.model.lists import ListsSnapshot
from osvtriage.model.plan import StackListsPlan
from osvtriage.systems.glibc import read_lists

USED, USER, CACHE = 0x7F3B_4C20_0010, 0x7F3B_4C20_0020, 0x7F3B_4C20_0030
IN_FLIGHT, LOCK = 0x7F3B_4C20_0048, 0x7F3B_4C20_0050
# The element of the first thread, which is on stack_user.
MAIN = 0x7F3B_4C1F_0A00
LIST, TID = 0x2C0, 0x2D0
PLAN = StackListsPlan(USED, CACHE, USER, IN_FLIGHT, LOCK, LIST, TID)
SIZE = 256 << 10

# A store that the machine is about to make: where, what.
Store = tuple[int, int]


class Hang(Exception):
    """A loop over a list that has come by the same element again."""


class Aborted(Exception):
    """assert (l->next->prev == elem)"""


@dataclass
class Process:
    """Memory, and the sizes of those stacks that are not as big as most."""

    words: dict[int, int]
    sizes: dict[int, int] = field(default_factory=dict)

    @classmethod
    def with_stacks(cls, used: Iterable[int], cache: Iterable[int]) -> Self:
        """Whole lists, of elements at these addresses; the number of a thread is its address's."""
        process = cls({IN_FLIGHT: 0, LOCK: 0})
        for head, elements in ((USED, used), (CACHE, cache), (USER, [MAIN])):
            ring = [head, *elements]
            for here, there in zip(ring, [*ring[1:], head], strict=True):
                process.words[here] = there
                process.words[there + 8] = here
            for element in ring[1:]:
                process.words[element + TID - LIST] = 0 if head == CACHE else 1 + element % 30000
        return process

    def fork(self) -> Process:
        """The child's memory."""
        return Process(dict(self.words), dict(self.sizes))

    def read(self, address: int, size: int) -> bytes | None:
        """As a debugger reads; addresses of words only."""
        raw = [self.words.get(address + at) for at in range(0, size, 8)]
        known = [word.to_bytes(8, "little") for word in raw if word is not None]
        return b"".join(known)[:size] if len(known) == len(raw) else None

    def snapshot(self) -> ListsSnapshot:
        """What the reader makes of it."""
        snapshot = read_lists(self.read, PLAN)
        assert snapshot is not None
        return snapshot

    def next(self, node: int) -> int:
        return self.words[node]

    def prev(self, node: int) -> int:
        return self.words[node + 8]

    def each(self, head: int) -> list[int]:
        """list_for_each, which nobody stops."""
        found: list[int] = []
        at = self.next(head)
        while at != head:
            if at in found:
                raise Hang
            found.append(at)
            at = self.next(at)
        return found

    def run(self, stores: Iterable[Store]) -> None:
        """Make all the stores."""
        for address, value in stores:
            self.words[address] = value

    def after_each(self, stores: Iterable[Store]) -> Iterator[Process]:
        """A fork in front of the first store, and one behind every store."""
        yield self.fork()
        for address, value in stores:
            self.words[address] = value
            yield self.fork()

    # include/list.h. A generator looks into memory when its turn comes, as the instructions do.

    def list_add(self, new: int, head: int) -> Iterator[Store]:
        yield new, self.next(head)
        yield new + 8, head
        yield self.next(head) + 8, new
        yield head, new

    def list_del(self, element: int) -> Iterator[Store]:
        yield self.next(element) + 8, self.prev(element)
        yield self.prev(element), self.next(element)

    def list_splice(self, add: int, head: int) -> Iterator[Store]:
        if add != self.next(add):
            yield self.next(add) + 8, head
            yield self.prev(add), self.next(head)
            yield self.next(head) + 8, self.prev(add)
            yield head, self.next(add)

    # nptl/nptl-stack.c.

    def stack_list_del(self, element: int) -> Iterator[Store]:
        yield IN_FLIGHT, element
        yield from self.list_del(element)
        yield IN_FLIGHT, 0

    def stack_list_add(self, element: int, head: int) -> Iterator[Store]:
        yield IN_FLIGHT, element | 1
        yield from self.list_add(element, head)
        yield IN_FLIGHT, 0

    def allocate_stack(self, element: int) -> Iterator[Store]:
        """The critical section of get_cached_stack, once it has chosen."""
        yield LOCK, 1
        yield from self.stack_list_del(element)
        yield from self.stack_list_add(element, USED)
        yield LOCK, 0

    def deallocate_stack(self, element: int) -> Iterator[Store]:
        """The critical section of a thread that is joined. The kernel has cleared its number."""
        yield LOCK, 1
        yield from self.stack_list_del(element)
        yield from self.stack_list_add(element, CACHE)
        yield LOCK, 0

    # nptl/allocatestack.c.

    def get_cached_stack(self, size: int) -> int | None:
        """Take the first cached stack of exactly that size, as for threads of a kind."""
        for element in self.each(CACHE):
            if self.words[element + TID - LIST] == 0 and self.sizes.get(element, SIZE) == size:
                self.run(self.allocate_stack(element))
                self.words[element + TID - LIST] = 4711
                return element
        return None

    def recover(self) -> None:
        """What __reclaim_stacks does first."""
        in_flight = self.words[IN_FLIGHT]
        element = in_flight & ~1
        if in_flight & 1:
            for head in (USED, CACHE):
                if self.prev(self.next(head)) != head:
                    if self.prev(self.next(head)) != element:
                        raise Aborted
                    self.run([(element, self.next(head)), (element + 8, head), (head, element)])
                    break
        elif in_flight:
            self.run(self.list_del(element))
        self.words[IN_FLIGHT] = 0

    def reclaim(self, own: int) -> None:
        """__reclaim_stacks in the child of the thread whose element is *own*."""
        self.recover()
        for one in self.each(USED):
            if one != own:
                self.words[one + TID - LIST] = 0
        self.run(self.list_splice(USED, CACHE))
        self.run(self.list_del(own))
        for head in (USED, USER):
            self.run([(head, head), (head + 8, head)])
        self.run(self.list_add(own, USER if own == MAIN else USED))
        self.words[LOCK] = 0


def garbage(
    seed: int, spread: int, unreadable: float, in_flight: int
) -> Callable[[int, int], bytes | None]:
    """Memory without structure, in which the heads can be read: the same at every look.

    A link leads to a head, to one of *spread* addresses (few make cycles, many long ways), or
    anywhere; *unreadable* is the share of addresses where nothing is.
    """

    def read(address: int, size: int) -> bytes | None:
        if address == IN_FLIGHT:
            return in_flight.to_bytes(8, "little")
        random = Random(f"{seed}:{address}")
        if address not in (USED, CACHE, LOCK) and random.random() < unreadable:
            return None
        near, anywhere = random.randrange(spread) << 4, random.getrandbits(64)
        words = random.choices([USED, CACHE, USER, near, anywhere], [1, 1, 1, 20, 1], k=2)
        return b"".join(word.to_bytes(8, "little") for word in words)[:size]

    return read
