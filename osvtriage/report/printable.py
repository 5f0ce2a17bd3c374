"""The border between guests' bytes and terminals: everything hostile is escaped here, once."""

from __future__ import annotations

import re
from typing import Any

# What Unicode calls noncharacters: XML forbids two of them, HTML all.
_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(
    chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17)
)
# C0 and C1 controls, DEL, bidirectional overrides, lone surrogates and noncharacters; line feed and
# tab are harmless.
_HOSTILE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
    f"{_NONCHARACTERS}]"
)


def printable(text: str) -> str:
    """*text* with every control character written out, as ``\\x1b``."""
    return _HOSTILE.sub(_escape, text)


def one_line(text: str) -> str:
    """As :func:`printable`, with line feeds and tabs written out too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def escaped(value: Any) -> Any:
    """A record's *value*, as JSON has it, with every string in it as :func:`one_line`."""
    if isinstance(value, dict):
        return {escaped(key): escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return one_line(value) if isinstance(value, str) else value


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
