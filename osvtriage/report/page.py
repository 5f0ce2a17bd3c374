"""One HTML file that opens offline: a soak, or one run, with the evidence of each signature.

Guests' bytes end here: every text that a template puts out is escaped for people (control
characters are written out) and then for HTML (autoescape). Pictures are data: URLs, and the page
forbids itself scripts and the network, so that whatever slipped through could do nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from osvtriage.model.errors import MissingRequirement
from osvtriage.report import plots
from osvtriage.report.evidence import Evidence, evidence
from osvtriage.report.material import Material, Run, headline, verdict
from osvtriage.report.printable import printable
from osvtriage.report.rates import between, of_interval, percent, rate_with_interval
from osvtriage.soak.stopping import duration_text
from osvtriage.soak.summary import Signature, TrialOutcome

# Signatures that open to evidence; the others are listed in the table alone.
_MOST_OPEN = 50
# Trials of which each has a letter.
_MOST_LETTERS = 5000
_LETTERS = {"reproduced": "R", "clean": "·", "inconclusive": "?", "error": "E"}


@dataclass(frozen=True, slots=True)
class Opened:
    """A signature with the evidence of its exemplar, where there is one."""

    signature: Signature
    run: Run | None
    evidence: Evidence | None


def html(material: Material) -> str:
    """The page.

    Raises:
        MissingRequirement: Jinja2 or Matplotlib is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingRequirement(
            f"a report needs Jinja2, which is not here: {error}",
            f"install it with: {plots.INSTALL}",
        ) from error
    environment = Environment(
        loader=PackageLoader("osvtriage.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "percent": percent,
        "between": between,
        "of_interval": of_interval,
        "rate": rate_with_interval,
        "duration": _duration,
        "picture": _picture,
    }
    summary, outcomes = material.summary, material.outcomes
    return environment.get_template("page.html.j2").render(
        material=material,
        summary=summary,
        tally=summary.tally,
        conclusive=summary.tally.reproduced + summary.tally.clean,
        verdict=verdict(material),
        headline=headline(material),
        rate_chart=None if material.single else plots.cumulative_rate(outcomes, summary.tally),
        time_chart=None if material.single else plots.durations(outcomes),
        letters=letters(outcomes),
        left_out=max(0, len(outcomes) - _MOST_LETTERS),
        opened=[_opened(material, one) for one in summary.signatures[:_MOST_OPEN]],
        closed=summary.signatures[_MOST_OPEN:],
        environment=environment_of(material),
        example=next(iter(material.runs.values()), None),
        version=version("osvtriage"),
    )


def letters(outcomes: Sequence[TrialOutcome]) -> str:
    """A letter a trial, in groups of ten."""
    drawn = "".join(_LETTERS.get(one.verdict, "?") for one in outcomes[:_MOST_LETTERS])
    return " ".join(drawn[at : at + 10] for at in range(0, len(drawn), 10))


def environment_of(material: Material) -> list[tuple[str, str]]:
    """What was run where, in pairs; nothing that is not known."""
    summary = material.summary
    rows: list[tuple[str, Any]] = [("image", summary.image)]
    if material.runs:
        record = next(iter(material.runs.values())).record
        if (image := record.image) is not None:
            rows += [
                ("system", f"{image.system} on {image.arch}"),
                ("kernel", image.kernel_version),
                ("kernel sha256, as booted", image.kernel_sha256),
                ("kernel sha256, before patching", image.kernel_sha256_original),
                ("kernel command line", image.append),
                ("packages", ", ".join(f"{one.name} {one.version}" for one in image.packages)),
            ]
        for patch in record.patches:
            changed = [
                f"{old} → {new.partition(': ')[2]}"
                for old, new in zip(patch.before, patch.after, strict=False)
                if old != new
            ]
            rows.append((f"patch of {patch.symbol}", "; ".join(changed) or "nothing to patch"))
        rows += [("intervention", f"{one.stimulus}: {one.what}") for one in record.interventions]
        rows.append(("vCPUs", record.smp if material.single else None))
        rows.append(("started", record.started))
    host = next(iter(material.runs.values())).record.host.model_dump() if material.runs else {}
    for name, value in (host | summary.host).items():
        text = value if isinstance(value, str | int | float) else json.dumps(value)
        rows.append((name.replace("_", " "), None if value is None else text))
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def _opened(material: Material, signature: Signature) -> Opened:
    run = material.exemplar(signature)
    finding = run.finding(signature.signature) if run is not None else None
    if run is None or finding is None:
        return Opened(signature, run, None)
    return Opened(signature, run, evidence(finding, run.record))


def _shown(value: Any) -> Any:
    """Escape control characters in every text that comes from outside the templates."""
    # Markup is a str of our own making, such as a macro's output.
    return printable(value) if type(value) is str else value


def _picture(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def _duration(seconds: float) -> str:
    return duration_text(round(seconds, 1) if seconds < 120 else 60 * round(seconds / 60))
