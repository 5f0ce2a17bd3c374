"""A run as the command line asks for it: from names to a record on disk."""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from osvtriage.checks.interleave import outcome
from osvtriage.consoles.payload import PayloadReport
from osvtriage.guest import rundir
from osvtriage.images import atomic
from osvtriage.images.places import result_directory, runs_directory
from osvtriage.images.record import Image
from osvtriage.images.store import sweep_leftovers
from osvtriage.model.errors import OsvtriageError, UsageError
from osvtriage.model.finding import CheckResult
from osvtriage.model.verdict import Verdict
from osvtriage.recipe.recipe import AS_IS, Recipe, Variant
from osvtriage.trial import (
    high_water,
    library,
    overflow_record,
    record,
    recording_record,
    reproducer,
    running,
    stacks_record,
)
from osvtriage.trial.again import require_same
from osvtriage.trial.choice import choose_image
from osvtriage.trial.connected import Given
from osvtriage.trial.judge import Agreement, Judgement, judge
from osvtriage.trial.overflow import frame_bytes
from osvtriage.trial.pinpoint import Pinpoint
from osvtriage.trial.prepare import Prepared, prepare
from osvtriage.trial.reception import DISTURBED
from osvtriage.trial.record import ImageRecord, RunRecord
from osvtriage.trial.recording import Recorded
from osvtriage.trial.request import Conditions, Observer, Request
from osvtriage.trial.seen import Seen
from osvtriage.trial.session import stop_at
from osvtriage.trial.start import Boot, Start
from osvtriage.trial.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Conditions):
    """What the user chose; ``None`` leaves it to the recipe. ``ready`` is an image that was found
    and checked before, whatever ``image`` and ``kernel`` say. ``same_as`` is the record of a run
    that is to be repeated with the very same files."""

    variant: str = AS_IS
    image: str | None = None
    kernel: Path | None = None
    out: Path | None = None
    ready: Image | None = None
    stop_at: str | None = None
    same_as: RunRecord | None = None


def run(
    recipe: Recipe,
    source: str,
    options: Options,
    observer: Observer,
    start: Start | None = None,
) -> tuple[RunRecord, Path]:
    """Run *recipe* once; the record and the directory that holds it.

    A failure of the tool or its surroundings is a record too, with the verdict *error*.

    Args:
        source: the recipe as the user named it: what it names is looked up beside it, and the
            command that reproduces the run names it so.
        start: how the guest starts; from its boot, unless told otherwise.

    Raises:
        UsageError: what is asked for does not exist or does not fit: nothing was run.
    """
    variant = recipe.get_variant(options.variant)
    if variant is None:
        names = ", ".join(item.name for item in recipe.variant)
        raise UsageError(
            f"recipe {recipe.name} has no variant {options.variant!r}", f"it has: {names}"
        )
    label = f"{recipe.name}-{options.variant}"
    out = result_directory(options.out, runs_directory(), label)
    rundir.sweep()
    sweep_leftovers()
    atomic.sweep(out.parent)
    started, begun = datetime.now(UTC), time.monotonic()
    work = _Work(recipe, source, options, start or Boot())
    with atomic.new_directory(out) as directory:
        name = directory / running.NAME
        name.write_text(str(out), encoding="utf-8")
        judgement = work.outcome(directory, observer)
        name.unlink()
        work.seen.timings["total"] = time.monotonic() - begun
        made = work.to_record(judgement, started)
        made.write(directory)
    return made, out


class _Work:
    """The stages of one run; what a failed stage leaves behind still goes into the record."""

    def __init__(self, recipe: Recipe, source: str, options: Options, start: Start) -> None:
        self.recipe = recipe
        self.start = start
        self.recipe_directory = library.find(source).parent
        self.options = options
        variant = recipe.get_variant(options.variant)
        assert variant is not None
        self.variant = variant
        self.command = _command(source, recipe, variant, options)
        self.image: Image | None = None
        self.prepared: Prepared | None = None
        self.trial: Trial | None = None
        self.seen = Seen()
        self.results: list[CheckResult] = []
        self.recording: record.RecordingRecord | None = None

    def outcome(self, directory: Path, observer: Observer) -> Judgement:
        try:
            self._execute(directory, observer)
        except UsageError:
            raise
        except OsvtriageError as error:
            if error.exit_code != Verdict.ERROR.exit_code:
                raise
            return Judgement(Verdict.ERROR, str(error), Agreement.NOT_APPLICABLE, error.hint)
        assert self.seen.ending is not None
        if self.seen.disturbed:
            said = DISTURBED.sentence
            return Judgement(Verdict.INCONCLUSIVE, said, Agreement.NOT_APPLICABLE)
        probes = list(self.seen.probes.values())
        return judge(self.results, probes, self._payload(), self.seen.ending)

    def _payload(self) -> PayloadReport | None:
        """What the workload said, where one is of ours: the recipe's, or the image's own."""
        said = self.seen.payload
        of_ours = self.recipe.workload.payload and self.options.program is None
        return said if of_ours or said.name else None

    def _execute(self, directory: Path, observer: Observer) -> None:
        begun = time.monotonic()
        self.image = self.options.ready or choose_image(
            self.recipe, self.options.image, self.options.kernel, observer
        )
        stop = self.options.stop_at
        request = Request(
            recipe=self.recipe,
            recipe_directory=self.recipe_directory,
            variant=self.variant,
            image=self.image,
            stop_at=stop_at(stop, self.recipe, self.variant) if stop else None,
            **self.options.conditions(),
        )
        if request.stacks:
            high_water.check_system(self.image.system, self.image.name)
        self.prepared = prepare(request, observer)
        if self.options.same_as is not None:
            require_same(self.options.same_as, self._image_record())
        self.seen.timings["image"] = time.monotonic() - begun
        trial = self.start.trial_of(Given(request, self.prepared, directory, observer, self.seen))
        self.trial = trial
        try:
            self.start.run(trial)
        finally:
            self._write_evidence(directory, trial)
        self.results = trial.check()
        if isinstance(trial, Recorded):
            self.recording = recording_record.made(trial, observer)

    def _write_evidence(self, directory: Path, trial: Trial) -> None:
        """What was seen until now, also where the trial failed."""
        assert self.prepared is not None
        with (directory / "events.jsonl").open("w", encoding="utf-8") as file:
            for event in self.seen.events:
                file.write(json.dumps(event.to_json()) + "\n")
        with (directory / "boundaries.jsonl").open("w", encoding="utf-8") as file:
            for boundary in self.seen.boundaries:
                file.write(json.dumps(asdict(boundary)) + "\n")
        with (directory / "comparisons.jsonl").open("w", encoding="utf-8") as file:
            for comparison in self.seen.comparisons:
                file.write(json.dumps(asdict(comparison)) + "\n")
        if trial.resolved is not None and not trial.steers:
            reproducer.write(
                directory, reproducer.script(self.prepared, trial.resolved, self.command)
            )

    def to_record(self, judgement: Judgement, started: datetime) -> RunRecord:
        seen, prepared = self.seen, self.prepared
        return RunRecord(
            verdict=judgement.verdict,
            reason=judgement.reason,
            hint=judgement.hint,
            recipe=self.recipe.name,
            variant=self.variant.name,
            expected_verdict=None if self._is_own() else self.variant.expect,
            engine=seen.engine,
            engine_notes=seen.engine_notes,
            image=self._image_record(),
            patches=_models(record.PatchRecord, prepared.kernel.patches if prepared else ()),
            interventions=self.trial.interventions() if self.trial else [],
            host=record.HostRecord(
                qemu=seen.qemu_version,
                gdb=seen.gdb_version,
                accelerator=prepared.accelerator.name if prepared else None,
                accelerator_reason=prepared.accelerator.reason if prepared else None,
                python=platform.python_version(),
                cpus=os.cpu_count() or 1,
            ),
            command=self.command,
            smp=self.options.smp,
            probes=[
                record.ProbeRecord(
                    name=probe.name,
                    symbol=probe.symbol,
                    address=list(probe.addresses),
                    hits=probe.hits,
                    disarmed=probe.disarmed,
                    required=probe.required,
                    note=probe.note,
                    passages=probe.passages,
                    unseen=probe.unseen,
                )
                for probe in seen.probes.values()
            ],
            checks=[
                record.CheckRecord(
                    check=result.check,
                    probe=probe,
                    examined=result.examined,
                    findings=len(result.findings),
                    classes=dict(result.classes),
                    measures=dict(result.measures),
                )
                for result, probe in zip(self.results, self._checked_probes(), strict=False)
            ],
            findings=_models(
                record.FindingRecord,
                [finding for result in self.results for finding in result.findings],
            ),
            pinpoint=_pinpoint(seen.pinpoint),
            boundaries=[
                record.BoundaryRecord(
                    address=one.address,
                    nth=one.nth,
                    name=one.name,
                    instruction=one.instruction,
                    line=one.line,
                    outcome=outcome(one) or "unreadable",
                    resumed=one.resumed,
                )
                for one in seen.boundaries
            ],
            overflow=overflow_record.made(seen.overflow, frame_bytes(self.variant)),
            stacks=stacks_record.made(seen.stacks),
            recording=self.recording,
            missing=self._missing(),
            payload=record.PayloadRecord.model_validate(seen.payload.to_json())
            if seen.payload.lines
            else None,
            agreement=judgement.agreement.value,
            ending=seen.ending.sentence if seen.ending else None,
            disturbed=seen.disturbed,
            stops=seen.stops,
            timings=record.Timings(
                **{name: round(value, 4) for name, value in seen.timings.items()}
            ),
            seed=self.options.seed,
            start=self.start.name,
            jitter=self.options.jitter,
            started=started.isoformat(timespec="seconds"),
        )

    def _missing(self) -> list[str]:
        """What this build of the kernel, or this run, does not tell."""
        seen = self.seen
        if self.options.stacks and seen.stacks is None and seen.ending is not None:
            return [*seen.missing, high_water.NOT_SEEN]
        return list(seen.missing)

    def _is_own(self) -> bool:
        """Whether the user changed what runs: the control says nothing of that."""
        chosen = self.options
        steered = (chosen.steering.boundary, chosen.steering.limit)
        return any((chosen.kernel, chosen.program, *steered))

    def _checked_probes(self) -> list[str]:
        """The probe of each check, in their order."""
        if self.trial is not None and self.trial.steers:
            return [""]
        return [str(table.parameters.get("probe", "")) for table in self.recipe.check]

    def _image_record(self) -> ImageRecord | None:
        image, prepared = self.image, self.prepared
        if image is None:
            return None
        kernel = prepared.kernel.sha256 if prepared else image.kernel_sha256
        symbols = prepared.symbols if prepared else image.symbols
        initrd = prepared.boot.initrd if prepared else None
        return ImageRecord(
            name=image.name,
            system=image.system,
            arch=image.arch,
            kernel=str(prepared.boot.kernel if prepared else image.kernel),
            kernel_version=image.kernel_version,
            kernel_sha256=kernel,
            kernel_sha256_original=image.kernel_sha256,
            symbols=str(symbols) if symbols else None,
            symbols_sha256=prepared.symbols_sha256 if prepared else image.symbols_sha256,
            append=prepared.boot.append if prepared else None,
            disks=[
                record.DiskRecord(path=str(disk.path), format=disk.format, sha256=disk.sha256)
                for disk in image.disks
            ],
            initrd=str(initrd) if initrd else None,
            initrd_sha256=prepared.initrd_sha256 if prepared else None,
            packages=_models(record.PackageRecord, image.packages),
        )


def _models(model: Any, items: Any) -> list[Any]:
    return [
        model.model_validate(item.to_json() if hasattr(item, "to_json") else _as_dict(item))
        for item in items
    ]


def _as_dict(item: Any) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


def _pinpoint(found: Pinpoint | None) -> record.PinpointRecord | None:
    if found is None:
        return None
    data = asdict(found)
    data["task"] = {"pid": data.pop("pid"), "comm": data.pop("comm")}
    return record.PinpointRecord.model_validate(data)


def _command(source: str, recipe: Recipe, variant: Variant, options: Options) -> str:
    if variant.interleave:
        parts = ["osvtriage", "interleave", source, "--mode", variant.interleave]
        steering = options.steering
        parts += ["--boundary", steering.boundary] if steering.boundary else []
        parts += ["--limit", str(steering.limit)] if steering.limit else []
        spin_at = recipe.interleave.spin_at if recipe.interleave else None
        parts += ["--spin-at", spin_at] if spin_at else []
    else:
        parts = ["osvtriage", "run", source, "--variant", options.variant]
    if options.image:
        parts += ["--image", options.image]
    if options.kernel:
        parts += ["--kernel", str(options.kernel)]
    parts += ["--smp", str(options.smp)]
    parts += [] if variant.interleave else ["--seed", str(options.seed)]
    if options.timeout is not None:
        parts += ["--timeout", f"{options.timeout:g}"]
    if options.duration is not None:
        parts += ["--duration", f"{options.duration:g}"]
    if options.stacks:
        parts.append("--stacks")
    if options.record:
        parts.append("--record")
    if options.pinpoint:
        parts += ["--pinpoint", options.pinpoint]
    if (own := options.program) is not None:
        parts += ["--program", str(own.path)]
        for name, path in (("--libs", own.libraries), ("--debug-dir", own.debug)):
            parts += [name, str(path)] if path else []
        parts += ["--args", shlex.join(own.arguments)] if own.arguments else []
        parts += ["--comm", own.comm] if own.comm else []
    if options.accelerator != "auto":
        parts += ["--accel", options.accelerator]
    if options.engine != "auto":
        parts += ["--engine", options.engine]
    if options.qemu:
        parts += ["--qemu", str(options.qemu)]
    return shlex.join(parts)
