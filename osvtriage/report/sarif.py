"""SARIF 2.1.0 of findings with a source location, for viewers that show results beside the code.

Only those: a result that names no file is refused by the viewers there are. How many findings have
none is said in a notification.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any

from osvtriage.report.material import Material, Run
from osvtriage.report.printable import one_line
from osvtriage.soak.summary import Signature
from osvtriage.trial.record import FindingRecord

VERSION = "2.1.0"
SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_LINE = re.compile(r"(?P<file>.+):(?P<line>[1-9]\d{0,8})")
# What an URI may hold as it is (RFC 3986), without the colon: it would make a scheme of a name.
_SAFE = "/-._~!$&'()*+,;=@"


def sarif(material: Material) -> dict[str, Any]:
    """The log, as JSON data."""
    rules: dict[str, dict[str, Any]] = {}
    results, without = [], 0
    for signature in material.summary.signatures:
        run = material.exemplar(signature)
        finding = run.finding(signature.signature) if run else None
        place = location(finding) if finding else None
        if run is None or finding is None or place is None:
            without += 1
            continue
        rules.setdefault(finding.check, _rule(finding.check))
        results.append(_result(material, signature, run, finding, place, list(rules)))
    notifications = []
    if without:
        text = f"{without} signatures have no source location and are not among the results."
        notifications.append({"level": "note", "message": {"text": text}})
    return {
        "$schema": SCHEMA,
        "version": VERSION,
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "osvtriage",
                        "version": version("osvtriage"),
                        "rules": list(rules.values()),
                    }
                },
                "invocations": [
                    {
                        "commandLine": one_line(material.summary.command),
                        "executionSuccessful": material.summary.tally.errors == 0,
                        "toolExecutionNotifications": notifications,
                    }
                ],
                "results": results,
            }
        ],
    }


def location(finding: FindingRecord) -> tuple[str, int] | None:
    """File and line of a finding: of the boundary at which a thread was held."""
    boundary = finding.evidence.get("boundary")
    line = boundary.get("line") if isinstance(boundary, dict) else None
    found = _LINE.fullmatch(line) if isinstance(line, str) else None
    return (found["file"], int(found["line"])) if found else None


def _rule(check: str) -> dict[str, Any]:
    return {"id": one_line(check), "defaultConfiguration": {"level": "error"}}


def _result(
    material: Material,
    signature: Signature,
    run: Run,
    finding: FindingRecord,
    place: tuple[str, int],
    rules: list[str],
) -> dict[str, Any]:
    from urllib.parse import quote

    file, line = place
    count = "" if material.single else f" (in {signature.count} trials)"
    return {
        "ruleId": one_line(finding.check),
        "ruleIndex": rules.index(finding.check),
        "level": "error" if finding.shows_bug else "warning",
        "message": {"text": one_line(finding.title) + count},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(file, safe=_SAFE, errors="replace")},
                    "region": {"startLine": line},
                }
            }
        ],
        "partialFingerprints": {"signature/v1": one_line(finding.signature)},
        "occurrenceCount": signature.count,
        "properties": {
            "recipe": one_line(run.record.recipe),
            "variant": one_line(run.record.variant),
            "seed": run.record.seed,
        },
    }
