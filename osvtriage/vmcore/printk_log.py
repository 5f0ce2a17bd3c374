"""The kernel's log out of its memory: the ring buffer of kernel/printk/printk_ringbuffer.c (5.10).

A ring of descriptors, each with the state of a record, a printk_info beside it, and the record's
text in a second ring. All of it may be damaged: counts are bounded, and a record that does not hold
together is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from osvtriage.model.errors import DumpError
from osvtriage.vmcore.memory import Memory

# What has to be known of the structures, by the names that VMCOREINFO gives them.
OFFSETS = (
    "printk_ringbuffer.desc_ring",
    "printk_ringbuffer.text_data_ring",
    "prb_desc_ring.count_bits",
    "prb_desc_ring.descs",
    "prb_desc_ring.infos",
    "prb_desc_ring.head_id",
    "prb_desc_ring.tail_id",
    "prb_desc.state_var",
    "prb_desc.text_blk_lpos",
    "prb_data_blk_lpos.begin",
    "prb_data_blk_lpos.next",
    "printk_info.ts_nsec",
    "printk_info.text_len",
    "printk_info.caller_id",
    "prb_data_ring.size_bits",
    "prb_data_ring.data",
)
SIZES = ("prb_desc", "printk_info")

# kernel/printk/printk_ringbuffer.h, DESC_STATE(): the upper two bits of the state.
_STATE_SHIFT, _ID_MASK = 62, (1 << 62) - 1
_COMMITTED, _FINALIZED = 1, 2
# A block of text begins with its descriptor's number.
_BLOCK_HEADER = 8
# LOG_BUF_LEN_MAX is 2 GiB; CONFIG_LOG_BUF_SHIFT goes to 25. That many descriptors are a damaged
# word, as that many bytes are.
_MOST_COUNT_BITS, _MOST_SIZE_BITS = 20, 31
_CPU_CALLER = 0x80000000


@dataclass(frozen=True, slots=True)
class Log:
    """The log as a console would have it. ``lost`` records could not be read."""

    text: str
    records: int
    lost: int


def read_log(memory: Memory, prb: int, offsets: Mapping[str, int], sizes: Mapping[str, int]) -> Log:
    """The log of the kernel whose variable ``prb``, a pointer, lies at that address.

    Raises:
        DumpError: the structures are not known, or what is there is no ring.
    """
    if missing := [name for name in OFFSETS if name not in offsets]:
        raise DumpError(
            f"the kernel does not say where {missing[0]} is: its log has another form (before 5.10)"
        )
    if missing := [name for name in SIZES if name not in sizes]:
        raise DumpError(f"the kernel does not say how large a {missing[0]} is")
    at = memory.word(prb)
    if not at:
        raise DumpError(f"the kernel's log cannot be found: nothing is at {prb:x} in the dump")
    ring = _Ring(memory, at, offsets, sizes)
    return ring.read()


class _Ring:
    def __init__(
        self, memory: Memory, at: int, offsets: Mapping[str, int], sizes: Mapping[str, int]
    ) -> None:
        self._memory, self._offsets = memory, offsets
        descriptors = at + offsets["printk_ringbuffer.desc_ring"]
        data = at + offsets["printk_ringbuffer.text_data_ring"]

        def word(base: int, name: str, size: int = 8) -> int:
            found = memory.word(base + offsets[name], size)
            if found is None:
                raise DumpError(f"the kernel's log cannot be read: {name} is not in the dump")
            return found

        count_bits = word(descriptors, "prb_desc_ring.count_bits", 4)
        self._size_bits = word(data, "prb_data_ring.size_bits", 4)
        if count_bits > _MOST_COUNT_BITS or self._size_bits > _MOST_SIZE_BITS:
            raise DumpError(
                f"the kernel's log is damaged: it has 2^{count_bits} descriptors "
                f"and 2^{self._size_bits} bytes"
            )
        self._count = 1 << count_bits
        self._descriptors = word(descriptors, "prb_desc_ring.descs")
        self._infos = word(descriptors, "prb_desc_ring.infos")
        self._head = word(descriptors, "prb_desc_ring.head_id") & _ID_MASK
        self._tail = word(descriptors, "prb_desc_ring.tail_id") & _ID_MASK
        self._text = word(data, "prb_data_ring.data")
        self._descriptor_bytes, self._info_bytes = sizes["prb_desc"], sizes["printk_info"]

    def read(self) -> Log:
        lines: list[str] = []
        lost = records = 0
        number = self._tail
        for _ in range(self._count):
            state = self._state(number)
            if state in (_COMMITTED, _FINALIZED):
                record = self._record(number)
                if record is None:
                    lost += 1
                else:
                    records += 1
                    lines += record
            elif state is None:
                lost += 1
            if number == self._head:
                break
            number = (number + 1) & _ID_MASK
        return Log("\n".join(lines) + "\n" if lines else "", records, lost)

    def _state(self, number: int) -> int | None:
        """The state of the record *number*; ``None`` where another's or nothing is in its place."""
        at = self._descriptors + number % self._count * self._descriptor_bytes
        word = self._memory.word(at + self._offsets["prb_desc.state_var"])
        if word is None or word & _ID_MASK != number:
            return None
        return word >> _STATE_SHIFT

    def _record(self, number: int) -> list[str] | None:
        index = number % self._count
        block = self._descriptors + index * self._descriptor_bytes
        block += self._offsets["prb_desc.text_blk_lpos"]
        info = self._infos + index * self._info_bytes
        begin = self._memory.word(block + self._offsets["prb_data_blk_lpos.begin"])
        end = self._memory.word(block + self._offsets["prb_data_blk_lpos.next"])
        stamp = self._memory.word(info + self._offsets["printk_info.ts_nsec"])
        size = self._memory.word(info + self._offsets["printk_info.text_len"], 2)
        caller = self._memory.word(info + self._offsets["printk_info.caller_id"], 4)
        if begin is None or end is None or stamp is None or size is None or caller is None:
            return None
        text = self._block(number, begin, end, size)
        if text is None:
            return None
        prefix = f"[{stamp // 10**9:5}.{stamp // 1000 % 10**6:06}]"
        if caller:
            who = f"C{caller - _CPU_CALLER}" if caller & _CPU_CALLER else f"T{caller}"
            prefix += f"[{who:>6}]"
        return [f"{prefix} {line}" for line in text.split("\n")]

    def _block(self, number: int, begin: int, end: int, size: int) -> str | None:
        if begin & 1:
            # A record without text: INVALID_LPOS, EMPTY_LINE_LPOS.
            return ""
        mask = (1 << self._size_bits) - 1
        # A block that does not fit behind the others lies whole at the ring's beginning.
        wraps = begin >> self._size_bits != end >> self._size_bits and end & mask
        start = 0 if wraps else begin & mask
        room = ((end & mask) or mask + 1) - start - _BLOCK_HEADER
        if room < 0 or self._memory.word(self._text + start) != number:
            return None
        data = self._memory.read(self._text + start + _BLOCK_HEADER, min(size, room))
        return None if data is None else data.decode("utf-8", "replace")
