"""On which line of a TOML text each key stands; the standard library's parser does not say."""

from __future__ import annotations

import bisect
import re
import tomllib

Path = tuple[str | int, ...]
"""Keys and array indexes from the root: ``("probe", 1, "name")``."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"[ \t]*")
# Between values inside an array, and between lines: white space, line ends and comments.
_FILLER = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}\n#]*")
# The alternatives stand in this order since `"""` starts with `""`. Up to two quotes may stand
# directly before the closing three (TOML 1.0, "String").
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)


def key_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of every key, table and array element of *text*, which must be valid TOML.

    A table or array that was opened several times (``[[probe]]``) has the line of the first; its
    elements each have their own.
    """
    scanner = _Scanner(text)
    scanner.scan()
    return scanner.lines


class _Scanner:
    """Reads what ``tomllib`` has accepted already, so that no error needs a report here."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._counts: dict[Path, int] = {}
        self.lines: dict[Path, int] = {}

    def scan(self) -> None:
        """Fill :attr:`lines`."""
        table: Path = ()
        while self._skip(_FILLER) or self._at < len(self._text):
            if self._at >= len(self._text):
                break
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._key_value(table)

    def _header(self) -> Path:
        line = self._line()
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        keys = self._dotted_key()
        self._at = self._text.index("]", self._at) + (2 if is_array else 1)
        path: Path = ()
        for key in keys[:-1]:
            path = self._newest((*path, key), line)
        path = (*path, keys[-1])
        if is_array:
            self._counts[path] = self._counts.get(path, 0) + 1
        path = self._newest(path, line)
        # An explicit header outranks a header of its child that stood before it.
        self.lines[path] = line
        return path

    def _newest(self, path: Path, line: int) -> Path:
        """*path*, or, where it is an array of tables, the element that was opened last."""
        self.lines.setdefault(path, line)
        if count := self._counts.get(path):
            path = (*path, count - 1)
            self.lines.setdefault(path, line)
        return path

    def _key_value(self, table: Path) -> None:
        line = self._line()
        path = table
        for key in self._dotted_key():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self._at = self._text.index("=", self._at) + 1
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        character = self._text[self._at : self._at + 1]
        if character in ('"', "'"):
            self._string()
        elif character == "[":
            self._elements(path)
        elif character == "{":
            self._pairs(path)
        else:
            self._skip(_SCALAR)

    def _elements(self, path: Path) -> None:
        self._at += 1
        index = 0
        while True:
            self._skip(_FILLER)
            if self._text[self._at] == "]":
                break
            if self._text[self._at] == ",":
                self._at += 1
                continue
            element = (*path, index)
            self.lines[element] = self._line()
            self._value(element)
            index += 1
        self._at += 1

    def _pairs(self, path: Path) -> None:
        self._at += 1
        while True:
            self._skip(_FILLER)
            if self._text[self._at] == "}":
                break
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._key_value(path)
        self._at += 1

    def _dotted_key(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            if self._text[self._at] in "\"'":
                raw = self._string()
                keys.append(str(tomllib.loads(f"key = {raw}")["key"]))
            else:
                keys.append(self._skip(_BARE_KEY))
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _string(self) -> str:
        return self._skip(_STRING)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"line {self._line()}: not the TOML that was expected")
        self._at = found.end()
        return found[0]

    def _line(self) -> int:
        return bisect.bisect_right(self._starts, self._at)
