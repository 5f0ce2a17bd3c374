"""JUnit XML of a soak, as CI servers read it: a test case a trial.

A trial that reproduces the bug is a failure, an inconclusive one is skipped, an error is an error.
What XML 1.0 cannot hold, escaped or not (most control characters, lone surrogates), is written out.
"""

from __future__ import annotations

from junitparser import (
    Error,
    Failure,
    JUnitXml,
    Skipped,
    TestCase,
    TestSuite,
)

from osvtriage.model.verdict import Verdict
from osvtriage.report.material import Material
from osvtriage.report.printable import one_line, printable
from osvtriage.report.rates import rate_with_interval
from osvtriage.soak.summary import TrialOutcome

_RESULTS = {
    Verdict.REPRODUCED: Failure,
    Verdict.INCONCLUSIVE: Skipped,
    Verdict.ERROR: Error,
}


def junit(material: Material) -> bytes:
    """The XML, in UTF-8."""
    summary = material.summary
    suite = TestSuite(one_line(f"{summary.recipe} {summary.variant}"))
    for name, value in (
        ("rate", rate_with_interval(summary.tally)),
        ("method", summary.tally.interval.method if summary.tally.interval else ""),
        ("image", summary.image or ""),
        ("command", summary.command),
        ("stopped because", summary.stopped_because),
    ):
        if value and not (material.single and name in ("rate", "method")):
            suite.add_property(name, one_line(value))
    titles = {one.signature: one.title for one in summary.signatures}
    # At once: one by one, all are counted again for each.
    suite.add_testcases([_case(material, outcome, titles) for outcome in material.outcomes])
    # Sums of decimals have more digits than the field's readers take.
    suite.time = round(sum(outcome.seconds for outcome in material.outcomes), 3)
    xml = JUnitXml("osvtriage")
    xml.add_testsuite(suite)
    data: bytes = xml.tostring()  # type: ignore[no-untyped-call]
    return data


def _case(material: Material, outcome: TrialOutcome, titles: dict[str, str]) -> TestCase:
    cell = f" ({outcome.cell})" if outcome.cell else ""
    case = TestCase(
        one_line(f"trial {outcome.number}{cell}"),
        classname=one_line(f"{material.summary.recipe}.{material.summary.variant}"),
        time=round(outcome.seconds, 3),
    )
    made = _RESULTS.get(Verdict(outcome.verdict))
    if made is not None:
        first = outcome.signatures[0] if outcome.signatures else outcome.verdict
        # An empty message would be left out.
        result = made(one_line(outcome.reason) or outcome.verdict, one_line(first))
        result.text = printable(
            "\n".join(f"{name}: {titles.get(name, name)}" for name in outcome.signatures)
            + f"\nseed {outcome.seed}, jitter {outcome.jitter:g} s"
        ).strip()
        case.result = [result]
    run = material.runs.get(outcome.number)
    if run is not None and run.console_tail:
        case.system_out = run.console_tail
    return case
