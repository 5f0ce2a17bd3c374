"""What is still to fill in of a recipe that was begun: its comments `# fill in: …`."""

from __future__ import annotations

import re

MARK = "# fill in: "
# Behind a value, or on a line of its own.
_COMMENT = re.compile(rf"(?:^|\s){MARK}(.+)$")


def still_to_fill_in(text: str) -> list[tuple[int, str]]:
    """The line, from 1, and the words of each such comment in *text*."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if match := _COMMENT.search(line):
            found.append((number, match[1]))
    return found
