"""A soak in Markdown, for the job page of a CI server."""

from __future__ import annotations

import re
from collections.abc import Iterator

from osvtriage.model.verdict import Verdict
from osvtriage.report.material import Material, headline, verdict
from osvtriage.report.printable import one_line
from osvtriage.report.rates import between, of_interval, percent, rate_with_interval

# A job page holds 1 MiB, and nobody reads on.
_MOST_SIGNATURES = 30
_LONGEST = 300
_MARKS = {
    Verdict.REPRODUCED: "❌",
    Verdict.CLEAN: "✅",
    Verdict.INCONCLUSIVE: "❔",
    Verdict.ERROR: "⚠️",
}
# What Markdown, GitHub's too, can take for markup inside a line. "@" makes a mention, "#" a link to
# an issue, a colon or "www." one to somewhere. No line begins with a text of a guest's.
_MARKUP = re.compile(r"[!#()*+<>@\[\\\]^_`{|}~&:$]|(?<=www)\.", re.IGNORECASE)


def markdown(material: Material) -> str:
    """The summary."""
    return "\n".join(_lines(material)) + "\n"


def text(value: str) -> str:
    """*value* so that Markdown shows it as it is, on one line, cut where it is long."""
    value = one_line(value)
    if len(value) > _LONGEST:
        value = f"{value[:_LONGEST]} …"
    return _MARKUP.sub(_escape, value)


def _escape(match: re.Match[str]) -> str:
    # Entities, where a backslash is not enough: tables are cut at bars, and links and mentions are
    # looked for, before backslashes are.
    return f"&#{ord(match[0])};"


def _lines(material: Material) -> Iterator[str]:
    summary, tally = material.summary, material.summary.tally
    found = verdict(material)
    yield f"## {_MARKS[found]} {text(summary.recipe)} · {text(summary.variant)}"
    yield ""
    yield f"**{found.capitalize()}**: {text(headline(material))}"
    yield ""
    if not material.single:
        if tally.rate is not None and tally.interval is not None:
            yield (
                f"Rate **{percent(tally.rate)}**, {between(tally.interval)}: "
                f"{of_interval(tally.interval)}."
            )
            yield ""
        yield "| trials | reproduced | clean | inconclusive | errors |"
        yield "|---:|---:|---:|---:|---:|"
        yield (
            f"| {tally.trials} | {tally.reproduced} | {tally.clean} | {tally.inconclusive} "
            f"| {tally.errors} |"
        )
        yield ""
    if summary.cells:
        yield "| cell | trials | rate |"
        yield "|---|---:|---|"
        for name, cell in summary.cells.items():
            yield f"| {text(name)} | {cell.trials} | {rate_with_interval(cell)} |"
        yield ""
    yield from _signatures(material)
    if summary.stopped_because:
        yield f"Ended: {text(summary.stopped_because)}."
        yield ""
    if summary.command:
        yield f"Again: {text(summary.command)}"


def _signatures(material: Material) -> Iterator[str]:
    signatures = material.summary.signatures
    if not signatures:
        return
    yield "| signature | what | trials | first | newest |"
    yield "|---|---|---:|---:|---:|"
    for one in signatures[:_MOST_SIGNATURES]:
        yield (
            f"| {text(one.signature)} | {text(one.title)} | {one.count} | {one.first_trial} "
            f"| {one.newest_trial} |"
        )
    yield ""
    if len(signatures) > _MOST_SIGNATURES:
        yield f"{len(signatures) - _MOST_SIGNATURES} more signatures are not shown."
        yield ""
