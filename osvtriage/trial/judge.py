"""From what was seen to the verdict. A pure function: everything it goes by is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from osvtriage.consoles.payload import PayloadReport
from osvtriage.model.finding import CheckResult
from osvtriage.model.verdict import Verdict


class Agreement(StrEnum):
    """Whether the probes in the kernel and the payload in user space tell the same story."""

    AGREE = "agree"
    DIFFER = "differ"
    NOT_APPLICABLE = "not-applicable"


@dataclass(slots=True)
class ProbeCount:
    """How often a probe's entries stopped the guest. ``disarmed``: it may have been more.

    ``note`` says where this kernel is not as the recipe has it. Where an engine compares by itself,
    ``passages`` is how many it saw to their end, and ``unseen`` how many might show something and
    were not looked at.
    """

    name: str
    symbol: str
    addresses: tuple[str, ...]
    required: int
    hits: int = 0
    disarmed: bool = False
    note: str | None = None
    passages: int | None = None
    unseen: int = 0

    @property
    def shown(self) -> str:
        """The count as it is shown: "≥ N" once the probe has disarmed."""
        return f"≥ {self.hits}" if self.disarmed else str(self.hits)


@dataclass(frozen=True, slots=True)
class Ending:
    """How the guest ended. ``orderly``: it powered off by itself after the workload, or, where
    ``endless``, was ended when it had run for as long as the recipe asks."""

    orderly: bool
    sentence: str
    hint: str | None = None
    endless: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict with its reason, one sentence, and what may be done about it."""

    verdict: Verdict
    reason: str
    agreement: Agreement
    hint: str | None = None


def judge(
    results: Sequence[CheckResult],
    probes: Sequence[ProbeCount],
    payload: PayloadReport | None,
    ending: Ending,
) -> Judgement:
    """Weigh the findings, the probes' counts, the payload's word and the guest's ending.

    ``payload`` is ``None`` where no workload of ours ran.
    """
    found = [finding for result in results for finding in result.findings]
    findings = [finding for finding in found if finding.shows_bug]
    agreement = _agreement(bool(findings), payload)
    if findings:
        count = len(findings)
        reason = f"{count} finding{'s' * (count > 1)}; the first: {findings[0].title}"
        if agreement is Agreement.DIFFER:
            reason += "; the workload in user space did not see it"
        return Judgement(Verdict.REPRODUCED, reason, agreement)

    def inconclusive(reason: str, hint: str | None = None) -> Judgement:
        return Judgement(Verdict.INCONCLUSIVE, reason, agreement, hint)

    if found:
        reason = f"{found[0].title}; {ending.sentence}; nothing that was seen leads to it"
        return inconclusive(reason, ending.hint)
    if not ending.orderly:
        return inconclusive(ending.sentence, ending.hint)
    if payload is not None:
        if payload.corrupt:
            return inconclusive("the workload in user space saw damage, but no probe did")
        if not payload.ended and not ending.endless:
            return inconclusive("the guest ended before the workload's last line")
        if payload.unsupported:
            what = ", ".join(
                f"{item.get('road', '?')} ({item.get('reason', '?')})"
                for item in payload.unsupported
            )
            return inconclusive(f"the guest cannot run all of the workload: {what}")
        if payload.totals.get("stuck"):
            return inconclusive(f"{payload.totals['stuck']} processes of the workload hung")
        if payload.exit_status:
            return inconclusive(f"the workload ended with status {payload.exit_status}")
    for probe in probes:
        if probe.hits < probe.required:
            was = "was never hit" if not probe.hits else f"was hit {probe.hits} times"
            return inconclusive(
                f"probe {probe.name} {was}; {probe.required} are required",
                "a workload that does not pass the probe says nothing of the bug",
            )
    for probe in probes:
        if probe.unseen:
            return inconclusive(
                f"{probe.unseen} passages of probe {probe.name} may show something, and were not "
                "looked at: more came than could be taken",
                "--engine gdb stops at each, up to the probe's limit",
            )
    for result in results:
        if unreadable := sum(
            count for name, count in result.classes.items() if name.startswith("unreadable")
        ):
            return inconclusive(f"{result.check}: {unreadable} stops could not be read")
    looked = sum(result.examined for result in results)
    if not looked:
        return inconclusive("no passage was seen from its entry to its exit: nothing was examined")
    return Judgement(
        Verdict.CLEAN, f"{looked} passages were examined, and none shows the bug", agreement
    )


def _agreement(found: bool, payload: PayloadReport | None) -> Agreement:
    if payload is None or not (payload.ended or payload.corrupt):
        return Agreement.NOT_APPLICABLE
    return Agreement.AGREE if found == payload.corrupt else Agreement.DIFFER
