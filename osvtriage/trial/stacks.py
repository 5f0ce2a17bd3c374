"""How deep the kernel stacks of a Linux guest are used: at a stop, and by calls of a function."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from osvtriage.guest import rundir
from osvtriage.images import atomic
from osvtriage.images.places import result_directory, runs_directory
from osvtriage.images.record import Image
from osvtriage.images.store import sweep_leftovers
from osvtriage.model.decode import decode
from osvtriage.model.errors import OsvtriageError, SymbolError, UsageError
from osvtriage.model.stacks import CallStack, StacksSeen
from osvtriage.recipe.recipe import AS_IS, Matrix, Recipe, Variant, Workload
from osvtriage.trial import high_water, identity, interruptible, library, stacks_record
from osvtriage.trial.choice import take_image
from osvtriage.trial.connected import Given
from osvtriage.trial.document import Kept
from osvtriage.trial.judge import Ending
from osvtriage.trial.prepare import prepare
from osvtriage.trial.request import Observer, Request
from osvtriage.trial.run import Options
from osvtriage.trial.trial import Trial

# All tasks of a guest of ours are read in 0.3 s; a user's may have a hundred times as many.
_LOOK_LIMIT = 120.0
# Until a function is called by itself: kernel threads wake up every few seconds.
_CALL_LIMIT = 120.0


class StacksReport(Kept):
    """What ``osvtriage stacks --json`` prints. ``tasks`` is ``null`` where calls were asked for."""

    FILE: ClassVar[str] = "stacks.json"
    MADE_BY: ClassVar[str] = "stacks"

    schema_: Literal["osvtriage.stacks/1"] = Field(default="osvtriage.stacks/1", alias="schema")
    image: str
    kernel_version: str
    stack_bytes: int
    stacks: stacks_record.StacksRecord | None
    function: str | None
    calls: list[stacks_record.CallStackRecord]
    ending: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked at: all tasks, or ``times`` calls of ``function``.

    ``dump`` is where the guest's memory is kept, as it was at that stop.
    """

    function: str | None = None
    times: int = 1
    dump: Path | None = None


class Stacks(Trial):
    """A guest that is booted, stopped, looked at and thrown away."""

    def __init__(self, given: Given, wanted: Wanted) -> None:
        super().__init__(given)
        self.wanted = wanted
        self.stack_bytes = 0
        self.calls: list[CallStack] = []

    async def _resolve_probes(self) -> None:
        await super()._resolve_probes()
        if self.wanted.function is not None:
            try:
                self._function = self._elf.symbol(self.wanted.function).entry
            except SymbolError as error:
                hint = "one that the compiler put into its callers, or made several of, has none"
                raise SymbolError(str(error), hint) from error

    async def _arm(self) -> None:
        assert self.resolved is not None
        for sample in self.resolved.samples:
            identity.compare(sample, self._elf, await self._read_sample(sample))
        self.stack_bytes = await high_water.load(
            self._elf, self.resolved, self.directory, self.run_in_gdb
        )

    async def _workload(self) -> None:
        if self.wanted.dump is not None:
            self.observer.phase("dump", str(self.wanted.dump))
            with atomic.new_file(self.wanted.dump) as file:
                # QEMU opens it by the name that it has until it is whole.
                path = Path(f"/proc/self/fd/{file.fileno()}").readlink()
                saved = self.monitor.dump_memory(path)
                await self.watch.until(saved, "the end of the dump")
        if self.wanted.function is None:
            self.observer.phase("stacks", "all tasks")
            answer = await self._answer("python high_water.tasks()", _LOOK_LIMIT)
            self.seen.stacks = decode(StacksSeen, answer)
        else:
            self._console.send("go")
            for number in range(1, self.wanted.times + 1):
                what = f"{number} of {self.wanted.times}, {self.wanted.function}"
                self.observer.phase("call", what)
                line = f"python high_water.call({self._function}, {_CALL_LIMIT})"
                answer = await self._answer(line, 3 * _CALL_LIMIT)
                if "never" in answer:
                    self.watch.end(Ending(False, f"{what}: {answer['never']}"))
                self.calls.append(decode(CallStack, answer))
        self.watch.end(Ending(True, "everything was looked at", endless=True))


def stacks(
    source: str | None, wanted: Wanted, options: Options, observer: Observer
) -> tuple[StacksReport, Path]:
    """Boot a guest and look at its stacks; the report, and the directory that it is kept in.

    Args:
        source: a recipe whose workload is run and whose image is the default; without one nothing
            runs but the image's own userland.

    Raises:
        OsvtriageError: what is asked for does not exist, or could not be done.
    """
    out = result_directory(options.out, runs_directory(), "stacks")
    rundir.sweep()
    sweep_leftovers()
    atomic.sweep(out.parent)
    failure = None
    with atomic.new_directory(out) as directory:
        try:
            report = _look(source, wanted, options, observer, directory)
        except UsageError:
            raise
        except OsvtriageError as error:
            # The logs stay.
            failure = error
        else:
            report.write(directory)
    if failure is not None:
        raise failure
    return report, out


def _look(
    source: str | None, wanted: Wanted, options: Options, observer: Observer, directory: Path
) -> StacksReport:
    recipe = library.load(source) if source is not None else None
    image = _image(recipe, options, observer)
    high_water.check_system(image.system, image.name)
    recipe = _watching_nothing(recipe, image)
    request = Request(
        recipe=recipe,
        recipe_directory=library.find(source).parent if source is not None else Path(),
        variant=recipe.variant[0],
        image=image,
        smp=options.smp,
        timeout=options.timeout,
        accelerator=options.accelerator,
        qemu=options.qemu,
    )
    trial = Stacks(Given(request, prepare(request, observer), directory, observer), wanted)
    interruptible.run(trial.run())
    ending = trial.seen.ending
    complete = trial.seen.stacks is not None or len(trial.calls) == wanted.times
    return StacksReport(
        image=image.name,
        kernel_version=image.kernel_version,
        stack_bytes=trial.stack_bytes,
        stacks=stacks_record.made(trial.seen.stacks),
        function=wanted.function,
        calls=stacks_record.calls(trial.calls),
        ending=None if complete or ending is None else ending.sentence,
    )


def _image(recipe: Recipe | None, options: Options, observer: Observer) -> Image:
    name = options.image or (recipe.image if recipe is not None else None)
    if name is None:
        raise UsageError("whose stacks? name an image with --image, or a recipe that has one")
    return take_image(name, options.kernel, observer)


def _watching_nothing(recipe: Recipe | None, image: Image) -> Recipe:
    """*recipe*, or one that runs nothing, without its probes and checks."""
    as_is = Variant(name=AS_IS, title="the guest as it is")
    nothing: dict[str, Any] = {"probe": (), "check": (), "patch": (), "variant": (as_is,)}
    nothing |= {"sweep": None, "interleave": None}
    if recipe is not None:
        return recipe.model_copy(update=nothing)
    # No recipe file could say so: one without controls is refused.
    return Recipe.model_construct(
        name="stacks",
        title="",
        system=image.system,
        arch=image.arch,
        image=image.name,
        workload=Workload(),
        matrix=Matrix(),
        **nothing,
    )
