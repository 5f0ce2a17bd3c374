"""The symbols that a kernel has for its own use, kallsyms, read from a file without others.

scripts/kallsyms.c writes them into .rodata, as tables that no header leads to and that have moved
about: 6.4 put the addresses behind the names, 7.x made them relative to their own place. So they
are found by what holds between them, and no version is asked for:

* ``num_syms``, and behind it the ``names``, each one byte or two of length and so many bytes that
  each stand for a token;
* the ``markers``: where in ``names`` every 256th begins. They tell both, and are all checked;
* the ``token_table``, 256 strings, and behind it the ``token_index``: where each begins;
* the ``offsets`` that give the addresses. That they were understood is seen by linux_banner, which
  must hold the kernel's banner.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from array import array
from dataclasses import dataclass

from osvtriage.model.errors import SymbolError

_TOKENS = 256
_PER_MARKER = 256
# A name's length is one byte up to 127, else two (ULEB128). It has at least its type, and at most
# KSYM_NAME_LEN characters (include/linux/kallsyms.h), which rarely one token stands for alone.
_LEAST_BYTES, _MOST_BYTES = 2, 2 + 512
# Kernels have ten thousands of symbols. Fewer than this many markers in a row are a coincidence.
_LEAST_MARKERS = 4
# Symbols' names have all digits, so each digit is its own token, and the ten stand in a row.
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))

_BANNER, _BANNER_START = "linux_banner", b"Linux version "


@dataclass(frozen=True, slots=True)
class Entry:
    """A symbol; ``kind`` is the letter that nm(1) gives it."""

    name: str
    kind: str
    address: int


@dataclass(frozen=True, slots=True)
class Rodata:
    """The bytes of the section that has the tables, and where in memory it and the kernel are."""

    data: bytes
    address: int
    kernel: range

    def entries(self) -> list[Entry]:
        """The symbols, in the order of their addresses.

        Raises:
            SymbolError: the tables are not there, or are of a form that is not known.
        """
        for markers_at, markers in self._runs():
            if (table := self._names(markers_at, markers)) is not None:
                break
        else:
            raise _absent("there is no table of names with markers behind it")
        num_syms_at, names = table
        tokens, behind = self._tokens(markers_at + 4 * len(markers))
        texts = ["".join(map(tokens.__getitem__, name)) for name in names]
        for addresses in self._addresses(len(names), num_syms_at, behind):
            found = [
                Entry(text[1:], text[:1], address)
                for text, address in zip(texts, addresses, strict=True)
            ]
            banner = next((entry for entry in found if entry.name == _BANNER), None)
            if banner is None:
                raise SymbolError(
                    "the kernel's kallsyms has no linux_banner: it lists functions only",
                    "build it with CONFIG_KALLSYMS_ALL=y, which distributions do",
                )
            at = banner.address - self.address
            if at >= 0 and self.data.startswith(_BANNER_START, at):
                return found
        raise _absent("in none of the known forms do its addresses lead to the kernel's banner")

    def _runs(self) -> list[tuple[int, array[int]]]:
        """What can be the markers, the longest first: 0, and on by as much as 256 names can take.

        One that is longer by chance has no names before it.
        """
        words = array("I", self.data[: len(self.data) // 4 * 4])
        least, most = _PER_MARKER * _LEAST_BYTES, _PER_MARKER * _MOST_BYTES
        runs, at = [], -1
        with contextlib.suppress(ValueError):
            while True:
                at = words.index(0, at + 1)
                end = at + 1
                while end < len(words) and least <= words[end] - words[end - 1] <= most:
                    end += 1
                if end - at >= _LEAST_MARKERS:
                    runs.append((4 * at, words[at:end]))
        return sorted(runs, key=lambda run: len(run[1]), reverse=True)

    def _names(self, markers_at: int, markers: array[int]) -> tuple[int, list[bytes]] | None:
        """Where num_syms is, and the names, compressed.

        The last marker leads back to where the last names can begin, and the number of markers says
        how many there can be. Behind num_syms there are four bytes of padding, or none (from 7.x).
        """
        newest = markers_at - markers[-1]
        limits = range(_PER_MARKER * (len(markers) - 1) + 1, _PER_MARKER * len(markers) + 1)
        for names_at in range(newest & ~3, max(newest - _PER_MARKER * _MOST_BYTES, 7), -4):
            for num_syms_at in (names_at - 4, names_at - 8):
                (count,) = struct.unpack_from("<I", self.data, num_syms_at)
                if count in limits:
                    names = self._walk(names_at, count, markers_at, markers)
                    if names is not None:
                        return num_syms_at, names
        return None

    def _walk(self, names_at: int, count: int, end: int, markers: array[int]) -> list[bytes] | None:
        """*count* names, where every 256th is where its marker says and the last ends at *end*."""
        data, at, names = self.data, names_at, []
        for number in range(count):
            if not number % _PER_MARKER and at - names_at != markers[number // _PER_MARKER]:
                return None
            length = data[at]
            at += 1
            if length & 0x80:
                length = length & 0x7F | data[at] << 7
                at += 1
            names.append(data[at : at + length])
            at += length
            if at > end:
                return None
        return names if end - at < 8 else None

    def _tokens(self, start: int) -> tuple[list[str], int]:
        """The tokens, and where the index behind them ends."""
        digits = self.data.find(_DIGITS, start)
        while digits >= 0:
            # From the digits to the end, and from the index behind it to the beginning.
            end = digits
            for _ in range(ord("0"), _TOKENS):
                end = self.data.find(b"\0", end) + 1
            # The labels were aligned to 8 bytes, and are to 4 in 7.x.
            for index_at in (_aligned(end, 8), _aligned(end, 4)):
                if tokens := self._indexed(digits, end, index_at):
                    return tokens, index_at + 2 * _TOKENS
            digits = self.data.find(_DIGITS, digits + 1)
        raise _absent("there is no table of tokens behind its names")

    def _indexed(self, digits: int, end: int, index_at: int) -> list[str]:
        """The tokens, if *index_at* has an index of a table with those *digits* and that *end*."""
        if index_at + 2 * _TOKENS > len(self.data):
            return []
        index = struct.unpack_from(f"<{_TOKENS}H", self.data, index_at)
        parts = self.data[digits - index[ord("0")] : end].split(b"\0")[:-1]
        begins = itertools.accumulate((len(part) + 1 for part in parts), initial=0)
        if list(index) != list(begins)[:-1]:
            return []
        return [part.decode("ascii", "replace") for part in parts]

    def _addresses(self, count: int, num_syms_at: int, behind_tokens: int) -> list[list[int]]:
        """What the offsets would mean, in each of the forms that are not impossible.

        Up to 6.3 they and ``relative_base`` lie before num_syms; later behind the tokens, in 7.x
        without a base.
        """
        found = []
        for offsets_at, base_at in (
            ((num_syms_at - 8 - 4 * count) & ~7, num_syms_at - 8),
            (behind_tokens, _aligned(behind_tokens + 4 * count, 8)),
        ):
            if offsets_at >= 0 and base_at + 8 <= len(self.data):
                (base,) = struct.unpack_from("<Q", self.data, base_at)
                if base in self.kernel:
                    found.append(_from_base(base, self._offsets(offsets_at, count)))
        if behind_tokens + 4 * count <= len(self.data):
            places = itertools.count(self.address + behind_tokens, 4)
            offsets = self._offsets(behind_tokens, count)
            found.append([place + offset for place, offset in zip(places, offsets, strict=False)])
        return found

    def _offsets(self, at: int, count: int) -> array[int]:
        return array("i", self.data[at : at + 4 * count])


def _from_base(base: int, offsets: array[int]) -> list[int]:
    """kallsyms_sym_address(), kernel/kallsyms.c.

    Until 6.15 x86 told per-CPU symbols, whose values are no addresses, by the sign
    (CONFIG_KALLSYMS_ABSOLUTE_PERCPU): no kernel is half negative otherwise.
    """
    if any(offset < 0 for offset in offsets):
        return [offset if offset >= 0 else base - 1 - offset for offset in offsets]
    return [base + offset for offset in offsets]


def _aligned(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment


def _absent(why: str) -> SymbolError:
    return SymbolError(
        f"the kernel has no kallsyms that osvtriage can read: {why}",
        "give a kernel that is built with CONFIG_KALLSYMS=y and CONFIG_KALLSYMS_ALL=y",
    )
