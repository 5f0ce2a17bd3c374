"""Reports as files: which kind a name stands for, and their bytes."""

from __future__ import annotations

import json
from pathlib import Path

from osvtriage.images import atomic
from osvtriage.model.errors import ImageError, OsvtriageError, UsageError
from osvtriage.report.material import Material
from osvtriage.soak.record import SoakRecord

_ENDINGS = {
    ".html": "html",
    ".htm": "html",
    ".xml": "junit",
    ".sarif": "sarif",
    ".md": "markdown",
    ".json": "json",
}


def kind_of(file: Path) -> str:
    """The kind of report that a file's name asks for.

    Raises:
        UsageError: none.
    """
    # GitHub's code scanning wants this double one.
    if file.name.endswith(".sarif.json"):
        return "sarif"
    try:
        return _ENDINGS[file.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{file}: its ending does not say what to write",
            f"one of {', '.join(_ENDINGS)}, or --format",
        ) from None


def render(material: Material, kind: str) -> bytes:
    """The report, in UTF-8.

    Raises:
        MissingRequirement: a package is not installed that this kind needs.
    """
    # Each with its own library, imported when it is asked for.
    if kind == "html":
        from osvtriage.report.page import html

        return html(material).encode()
    if kind == "junit":
        from osvtriage.report.junit import junit

        return junit(material)
    if kind == "sarif":
        from osvtriage.report.sarif import sarif

        return (json.dumps(sarif(material), indent=1) + "\n").encode()
    if kind == "markdown":
        from osvtriage.report.markdown import markdown

        return markdown(material).encode()
    record = (
        material.runs[1].record
        if material.single
        else SoakRecord.of(material.summary, material.outcomes)
    )
    return (json.dumps(record.to_json(), indent=1) + "\n").encode()


def write(file: Path, content: bytes) -> None:
    """Write *content* to *file*; it appears whole.

    Raises:
        OsvtriageError: it cannot be written.
    """
    try:
        if file.exists() and not file.is_file():
            # A device or a pipe, such as /dev/stdout, that a new file must not take the place of.
            file.write_bytes(content)
            return
        with atomic.new_file(file) as out:
            out.write(content)
    except (OSError, ImageError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise OsvtriageError(f"cannot write {file}: {said}", "name another file with -o") from error
