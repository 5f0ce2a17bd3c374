"""The border between guests' bytes and terminals: everything hostile is escaped here, once."""

from __future__ import annotations

import re

# C0 and C1 controls, DEL, bidirectional overrides, and lone surrogates; line feed and tab are
# harmless.
_HOSTILE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    """*text* with every control character written out, as ``\\x1b``."""
    return _HOSTILE.sub(_escape, text)


def one_line(text: str) -> str:
    """As :func:`printable`, with line feeds and tabs written out too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
