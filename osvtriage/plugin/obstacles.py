"""What the plugin cannot watch, and what of a probe it does not see."""

from __future__ import annotations

from collections.abc import Collection

from osvtriage.arch import Arch
from osvtriage.model.plan import GdbPlan, ProbePlan


def obstacle(plan: GdbPlan, probe: ProbePlan, arch: Arch) -> str | None:
    """Why the plugin cannot watch *probe*, in half a sentence; ``None`` where it can."""
    if in_process(probe):
        if not all(map(in_process, plan.probes)):
            return "it is in a user process, and others are watched before that is found"
        if plan.thread.offset is not None and plan.thread.other_base is None:
            return "it is in a user process, where no register leads to the thread"
    if probe.fatal:
        return "the guest is stopped there"
    if probe.exits_at_return:
        return "its exits are not known before it is passed"
    if probe.threads == "always":
        return "all threads are listed there, for which the guest is stopped"
    hidden = [name for name in probe.registers if arch.words[name].stub is None]
    if hidden and not _all_but(hidden, probe.registers, arch):
        return f"QEMU's plugins see no {hidden[0]}"
    return None


def in_process(probe: ProbePlan) -> bool:
    """Whether the probe is in a user process."""
    return bool(probe.entry_places or probe.exit_places)


def unseen(probe: ProbePlan, arch: Arch) -> list[str]:
    """What of *probe* the plugin does not see, and the gdb engine does."""
    found = [name for name in probe.registers if arch.words[name].stub is None]
    if len(found) > 1:
        found = [f"{found[0]} and {len(found) - 1} other registers"]
    return [*found, *(["list of all threads"] if probe.threads else [])]


def _all_but(hidden: Collection[str], registers: Collection[str], arch: Arch) -> bool:
    """Whether the *hidden* ones are a part of a group whose rest is seen."""
    return any(set(hidden) < set(group) <= set(registers) for group in arch.groups.values())
