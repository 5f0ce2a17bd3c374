"""``audit fpu``: the entries and returns of many kernel functions, watched at once for lost state.

The functions are those with an instruction that can change a floating-point or vector register, or
those that the user names. QEMU's plugin compares all such registers at every passage, and hands out
those that differ while the user's registers are live.
"""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from osvtriage.checks.fpu_audit import LIVE_BITS, SAVED_MSR, Loss, losses
from osvtriage.checks.fpu_state import GROUP
from osvtriage.guest import rundir
from osvtriage.images.store import ImageStore
from osvtriage.model.errors import GuestError, SymbolError, UsageError
from osvtriage.model.event import source_name
from osvtriage.model.plan import Field, GdbPlan, ProbePlan
from osvtriage.plugin.captures import Compared, Samples
from osvtriage.plugin.shared import Counter
from osvtriage.symbols.elf import Symbol
from osvtriage.trial import interruptible, library
from osvtriage.trial.connected import Given
from osvtriage.trial.prepare import prepare
from osvtriage.trial.request import Observer, Request
from osvtriage.trial.seen import Seen
from osvtriage.trial.trial import Trial

SCHEMA = "osvtriage.audit/1"
# The workload: every road on which a task's registers are saved, with known values in all of them.
RECIPE = "ppc64le-save-fpu"
# Passages of one function that are examined: the first show which registers it loses.
_EXAMPLES = 20
# Each takes a callback at two places; a kernel has 40,000 functions.
_MOST_FUNCTIONS = 20_000


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit saw. ``watched`` is the number of functions, ``entered`` of those that ran;
    ``expected`` has the losses of functions whose purpose that is. Where ``dropped`` records found
    no room, a function may be shown with fewer registers than it loses."""

    image: str
    kernel_version: str
    kernel_sha256: str
    variant: str
    smp: int
    watched: int
    entered: int
    passages: int
    losses: tuple[Loss, ...]
    expected: tuple[Loss, ...]
    dropped: int
    ending: str | None

    def to_json(self) -> dict[str, Any]:
        """As ``audit fpu --json`` prints it."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        data |= {name: [_loss(one) for one in data[name]] for name in ("losses", "expected")}
        return {"schema": SCHEMA, **data}


def _loss(loss: Loss) -> dict[str, Any]:
    span = loss.example
    return {
        "function": loss.function,
        "hits": loss.hits,
        "passages": loss.passages,
        "registers": dict(loss.registers),
        "within": loss.within,
        "example": {
            "task": {"pid": span.exit.thread.pid, "comm": span.exit.comm},
            "before": {name: span.entry.registers[name] for name in loss.registers},
            "after": {name: span.exit.registers[name] for name in loss.registers},
            "backtrace": [asdict(frame) for frame in span.entry.backtrace],
        },
    }


def audit(request: Request, functions: str | None, observer: Observer) -> Audit:
    """Boot the guest of *request*, let its workload run, and rank what was seen.

    Raises:
        UsageError: the processor's functions cannot be told by their code; none match.
        OsvtriageError: there is no QEMU for the plugin engine, or the guest failed.
    """
    rundir.sweep()
    prepared = prepare(request, observer)
    if prepared.arch.find_exits is None:
        raise UsageError(
            f"osvtriage cannot tell yet where functions of {prepared.arch.name} return",
            "`audit fpu` is for kernels of ppc64le",
        )
    seen = Seen()
    with tempfile.TemporaryDirectory(prefix="osvtriage-audit-") as directory:
        given = Given(request, prepared, Path(directory), observer, seen)
        trial = _AuditTrial(given, functions)
        interruptible.run(trial.run())
        observer.phase("check", f"{len(seen.events)} events")
        hits, differing = trial.counted(Counter.HITS), trial.counted(Counter.DIFFERING)
        found = [
            replace(one, function=trial.symbols[one.function])
            for one in losses(prepared.arch, seen.events, hits, differing)
        ]
        purposes = listed()
        if seen.ending is None or not seen.ending.orderly:
            raise GuestError(
                f"the audit was cut short: {seen.ending.sentence if seen.ending else 'no ending'}",
                "run it again; `osvtriage run ppc64le-save-fpu` tells whether the guest works",
            )
        return Audit(
            image=request.image.name,
            kernel_version=request.image.kernel_version,
            kernel_sha256=prepared.kernel.sha256,
            variant=request.variant.name,
            smp=request.smp,
            watched=len(trial.symbols),
            entered=sum(count > 0 for count in hits.values()),
            passages=sum(trial.counted(Counter.PASSAGES).values()),
            losses=tuple(one for one in found if source_name(one.function) not in purposes),
            expected=tuple(one for one in found if source_name(one.function) in purposes),
            dropped=sum(trial.counted(Counter.DROPPED).values()),
            ending=seen.ending.sentence,
        )


def audit_request(**chosen: Any) -> Request:
    """The request of an audit: the recipe's workload on an image.

    Raises:
        UsageError: the variant or the image does not exist.
    """
    recipe = library.load(RECIPE)
    variant = recipe.get_variant(chosen.pop("variant"))
    if variant is None:
        raise UsageError(
            "there is no such variant", f"there are: {', '.join(v.name for v in recipe.variant)}"
        )
    store = ImageStore()
    assert recipe.image is not None
    image = store.ensure(chosen.pop("image") or recipe.image, chosen.pop("progress"))
    if (kernel := chosen.pop("kernel")) is not None:
        image = store.with_kernel(image, kernel)
    return Request(
        recipe=recipe,
        recipe_directory=library.find(RECIPE).parent,
        variant=variant,
        image=image,
        engine="plugin",
        **chosen,
    )


class _AuditTrial(Trial):
    """A trial with a probe on every function in place of the recipe's."""

    def __init__(self, given: Given, functions: str | None) -> None:
        super().__init__(given)
        self._functions = functions
        # By the name of the probe: the function, its counters.
        self.symbols: dict[str, str] = {}
        self.counters: dict[str, Sequence[int]] = {}

    def counted(self, counter: Counter) -> dict[str, int]:
        """One counter of every function."""
        return {name: counters[counter] for name, counters in self.counters.items()}

    def _count_probes(self) -> None:
        """None of the recipe's probes is armed."""

    def _callee(self, probe: str) -> int | None:
        return None

    def _share_probes(self, plan: GdbPlan) -> GdbPlan:
        assert self._plugin is not None
        arch = self.prepared.arch
        # The recipe's own probes take it: it is where this kernel has it.
        saved = next(probe.fields[SAVED_MSR] for probe in plan.probes if SAVED_MSR in probe.fields)
        probes = tuple(self._probe(symbol, exits, saved) for symbol, exits in self._chosen())
        self.symbols = {probe.name: probe.symbol for probe in probes}
        live = sum(arch.msr_bits[bit] for bit in LIVE_BITS)
        compared = Compared(frozenset(arch.words_of((GROUP,))), bits=(SAVED_MSR, live))
        self._plugin.take(
            replace(plan, probes=probes),
            dict.fromkeys(self.symbols, compared),
            Samples(examples=_EXAMPLES, first=0),
        )
        self.seen.engine = "plugin"
        self.observer.phase("boot", f"{len(probes)} functions will be watched")
        return replace(plan, probes=())

    def _count_plugin(self) -> None:
        if self._plugin is not None:
            self._plugin.read()
            self.counters = self._plugin.counters()

    def _chosen(self) -> list[tuple[Symbol, list[int]]]:
        """The functions to watch, with where each returns.

        Raises:
            UsageError: there are none, or too many.
        """
        arch, pattern = self.prepared.arch, self._functions
        assert arch.find_exits is not None
        assert arch.changes_fpu is not None
        found = []
        for symbol in self._elf.code_symbols():
            if pattern is not None and not fnmatchcase(symbol.name, pattern):
                continue
            try:
                code = self._elf.read(symbol.address, symbol.size)
            except SymbolError:
                # A label at the end of a section's code, or of code that is not in the file.
                continue
            if pattern is not None or arch.changes_fpu(code):
                exits = arch.find_exits(code, symbol.address)
                if exits and symbol.entry not in exits:
                    found.append((symbol, exits))
        if not found:
            raise UsageError(
                f"no function that returns matches {pattern!r}",
                "quote the pattern, such as --functions 'giveup_*'",
            )
        if len(found) > _MOST_FUNCTIONS:
            raise UsageError(
                f"{len(found)} functions match {pattern!r}: at most {_MOST_FUNCTIONS} are watched",
                "give a narrower --functions",
            )
        return found

    def _probe(self, symbol: Symbol, exits: Sequence[int], saved: Field) -> ProbePlan:
        return ProbePlan(
            # Static functions of several files can have one name.
            name=f"{symbol.name}@{symbol.entry:x}",
            symbol=symbol.name,
            entries=(symbol.entry,),
            exits=tuple(exits),
            at_function_entry=True,
            registers=self.prepared.arch.words_of((GROUP,)),
            fields={SAVED_MSR: saved},
            limit=_EXAMPLES,
            required=0,
            # Its stack pointer is at the exit as at the entry, as around a call.
            callee=symbol.entry,
        )


def listed() -> dict[str, str]:
    """The functions whose purpose is to change the registers, and the sources that say so."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return {item["name"]: item["source"] for item in tomllib.loads(text)["function"]}
