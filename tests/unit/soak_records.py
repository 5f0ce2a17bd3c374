"""Soaks as they are read: their summaries and outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from osvtriage.soak.stopping import Counts, Rule, Runs, tally
from osvtriage.soak.summary import Signature, Summary, TrialOutcome

SIGNATURE = "fp-clobber:vs0:save_fpu"


def outcomes(verdicts: Sequence[str], **changed: Any) -> list[TrialOutcome]:
    """Trials with these verdicts; those that reproduce have one signature, and end sooner."""
    return [
        TrialOutcome(
            **{
                "number": number,
                "cell": "",
                "verdict": verdict,
                "reason": f"trial {number} is {verdict}",
                "seconds": (2.5 if verdict == "reproduced" else 7.0) + number % 3,
                "cpu_seconds": 6.5,
                "hits": 12,
                "signatures": (SIGNATURE,) if verdict == "reproduced" else (),
                "seed": 1000 + number,
                "jitter": 0.01,
                "record": None,
            }
            | changed
        )
        for number, verdict in enumerate(verdicts, 1)
    ]


def summary(trials: Sequence[TrialOutcome], rule: Rule | None = None, **changed: Any) -> Summary:
    """Their summary, of a soak whose number of trials was fixed unless *rule* says otherwise."""
    counts = Counts(started=len(trials))
    seen: dict[str, list[int]] = {}
    for trial in trials:
        counts.add(trial.verdict)
        for signature in trial.signatures:
            seen.setdefault(signature, []).append(trial.number)
    exemplars = {s: t.record for t in reversed(trials) for s in t.signatures if t.record}
    signatures = [
        Signature(name, f"{name} happened", len(numbers), numbers[0], numbers[-1],
                  exemplars.get(name))
        for name, numbers in seen.items()
    ]  # fmt: skip
    data: dict[str, Any] = {
        "recipe": "ppc64le-save-fpu",
        "variant": "fp-fix-reverted",
        "tally": tally(counts, rule or Runs(len(trials))),
        "cells": {},
        "signatures": tuple(sorted(signatures, key=lambda one: -one.count)),
        "stopped_because": f"{len(trials)} trials were asked for",
        "timings": {
            "total": sum(one.seconds for one in trials),
            "trial_mean": 7.0,
            "cpu_mean": 6.5,
            "trials_per_hour": 514.2,
        },
        "image": "debian-bookworm-ppc64le",
        "host": {"qemu": "7.2.22", "gdb": "GNU gdb 13.1", "cpus": 2},
        "command": "osvtriage soak ppc64le-save-fpu --variant fp-fix-reverted --runs 40",
    }
    return Summary(**(data | changed))


def mixed(reproduced: int, clean: int, inconclusive: int = 0, errors: int = 0) -> list[str]:
    """So many verdicts of each kind, the kinds taking turns while they last."""
    left = Counter(reproduced=reproduced, clean=clean, inconclusive=inconclusive, error=errors)
    verdicts = []
    while left := +left:
        verdicts += list(left)
        left -= Counter(dict.fromkeys(left, 1))
    return verdicts
