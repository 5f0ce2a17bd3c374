"""The recipe: one bug, as data.

A recipe says where to look (``[[probe]]``), what must hold there (``[[check]]``), how to provoke it
(``[workload]``), how to bring it back or leave it (``[[patch]]``, ``[[variant]]``), and which
verdict each variant must give.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from osvtriage.model.errors import UsageError
from osvtriage.model.verdict import Verdict
from osvtriage.recipe.tomlfile import Misplaced

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$", max_length=64)]
Symbol = Annotated[str, Field(pattern=r"^[A-Za-z_.$][A-Za-z0-9_.$]*$", max_length=200)]

# An address in the program's file, or in that of a library: 0x1234, libc.so.6:0x1234.
_SPIN_AT = r"^([^:/]+:)?0x[0-9a-f]{1,16}$"
SpinAt = Annotated[str, Field(pattern=_SPIN_AT, max_length=200)]

CommandLine = Annotated[str, Field(max_length=1024, pattern=r"^[ -~]*$")]

AS_IS = "as-is"


class Table(BaseModel):
    """A TOML table: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Call(Table):
    """Every call of ``to``: before it is the probe's entry, after it the exit.

    ``inside`` and ``not_in`` name calling functions; the compiler's parts of one (``f.part.0``,
    ``f.isra.0``, ``f.cold``) count as the function. Where no such call is in a kernel, a probe with
    ``or_function`` goes to the entry of ``to`` and its return instead.
    """

    to: Symbol
    inside: tuple[Symbol, ...] = ()
    not_in: tuple[Symbol, ...] = ()
    or_function: bool = False


class Arm(Table):
    """Arm a probe behind a rarer one.

    It stops the guest for its ``first`` passages, and then, whenever a thread has passed the probe
    ``after``, until that thread has come here ``stops`` times. (Others that pass meanwhile stop
    too.)
    """

    after: Name
    stops: Annotated[int, Field(ge=1, le=1000)] = 1
    first: Annotated[int, Field(ge=0, le=1000)] = 0


class Probe(Table):
    """One place of interest. Exactly one of ``call``, ``function`` and ``place`` says where.

    ``registers`` and ``fields`` are what is taken there; ``fpu`` stands for all floating-point and
    vector registers. ``stack`` names a stack whose use is measured from the entry to the exit.
    ``threads`` says when all threads of the guest are listed: ``always``, or when the registers of
    the two sides differ. A guest that comes to a ``fatal`` probe goes no further.

    A ``place`` is in a user process, in the files that it loaded: ``glibc.reclaim`` is where a
    forked child mends the lists of thread stacks, from its entry to fork's return. ``lists`` takes
    these lists.
    """

    name: Name
    call: Call | None = None
    function: Symbol | None = None
    place: Literal["glibc.reclaim"] | None = None
    until_after_call: Symbol | None = None
    registers: tuple[Name, ...] = ()
    fields: tuple[str, ...] = ()
    arm: Arm | None = None
    required: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1)] = 100
    optional: bool = False
    stack: Name | None = None
    threads: Literal["always", "differs"] | None = None
    fatal: bool = False
    lists: bool = False

    @property
    def has_exit(self) -> bool:
        """Whether it has two sides, to be compared."""
        return self.call is not None or self.place is not None or self.until_after_call is not None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(where is not None for where in (self.call, self.function, self.place)) != 1:
            raise ValueError("a probe needs exactly one of `call`, `function` and `place`")
        if self.lists and self.place is None:
            raise ValueError("`lists` goes with `place`: they are in a process")
        if self.until_after_call is not None and self.function is None:
            raise ValueError("`until_after_call` goes with `function`")
        if not self.has_exit and (self.stack is not None or self.threads == "differs"):
            raise ValueError('`stack` and `threads = "differs"` need an exit to compare with')
        if self.optional and self.required:
            raise ValueError("a probe that is `optional` cannot be `required`")
        if self.required > self.limit:
            raise ValueError(
                f"`required` is {self.required}, and the probe disarms after its `limit` of "
                f"{self.limit}"
            )
        return self


class Check(BaseModel):
    """One check; every key but ``kind`` is a parameter of that kind of check."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: Name

    @property
    def parameters(self) -> dict[str, Any]:
        """The keys that belong to the kind of check."""
        return dict(self.model_extra or {})


class Replacement(Table):
    """The instruction word that takes the place of the ``index``-th instruction found."""

    index: Annotated[int, Field(ge=0)]
    word: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    instruction: str


class Patch(Table):
    """A change of a kernel file, found by its disassembly.

    ``find`` and ``never_had`` are one regular expression an instruction, matched whole against
    ``mnemonic operands``. A function that has the shape ``never_had`` needs no patch.
    """

    name: Name
    functions: tuple[Symbol, ...]
    find: tuple[str, ...]
    replace: Replacement
    never_had: tuple[str, ...] = ()

    @field_validator("find", "never_had")
    @classmethod
    def _are_regular_expressions(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns

    @model_validator(mode="after")
    def _index_fits(self) -> Self:
        if self.replace.index >= len(self.find):
            raise ValueError("`replace.index` points past the end of `find`")
        return self


class Workload(Table):
    """What runs in the guest, and for how many seconds at most after it has booted.

    ``payload`` is the name of a shipped one, or the path of a C file (it ends in ``.c``), from the
    recipe's own directory on. Without one, what runs is the image's own. What has not ended after
    ``duration`` seconds is taken to run for ever, and what was seen until then counts; without a
    ``duration`` that is *inconclusive* after ``limit`` seconds. ``append`` is for the kernel's
    command line, such as ``norandmaps``: no address of the programs in the guest is random.

    With a ``linkage`` the payload is linked with the glibc of the image's suite, which it brings
    along; else it is static, with the host's.

    ``snapshot`` allows soaks to start its trials from a snapshot: only where a test has compared
    their rate with that of trials that boot.
    """

    payload: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    linkage: Literal["dynamic-pie", "dynamic-no-pie", "static-pie", "static-no-pie"] | None = None
    arguments: tuple[str, ...] = ()
    append: CommandLine = ""
    limit: Annotated[float, Field(gt=0)] = 300.0
    duration: Annotated[float, Field(gt=0)] | None = None
    snapshot: bool = False


class Interleave(Table):
    """How a fork is made to happen at each instruction of a thread's critical section.

    The section is where the thread holds the lock of glibc's stack lists. ``thread`` is the
    function of the program that it comes to last of all before; writing 1 into the variable ``go``
    makes another thread fork. The thread is held at ``spin_at``, where a `jmp .` is: an address in
    the program's file, or ``LIBRARY:ADDRESS``; without it one is looked for.
    """

    thread: Symbol
    go: Symbol
    spin_at: SpinAt | None = None


class Sweep(Table):
    """How a task's stack pointer is moved around the end of its stack, and what is done there.

    ``page_fault`` and ``double_fault`` name the probes where the kernel gives up on either.
    """

    stimulus: Literal["sweep-rsp"]
    accesses: tuple[Literal["rep-stos", "push", "call"], ...] = Field(min_length=1)
    page_fault: Name
    double_fault: Name


class Context(Table):
    """A place in the kernel where the backtrace is compared with an oracle's.

    A thread called ``comm`` comes to ``function``, through the handler ``entered`` where that is
    given, whose exception or interrupt came ``in`` the kernel or in user mode. With a ``module``
    the function is that module's, and the place is where it first calls the kernel.

    The oracle ``kernel`` is the kernel's own dump of that place. ``program`` is what the payload
    knows of itself: where its 32-bit program made a system call.
    """

    name: Name
    comm: Annotated[str, Field(min_length=1, max_length=15)] = "payload"
    function: Symbol
    entered: Symbol | None = None
    came_in: Literal["kernel", "user mode"] | None = Field(default=None, alias="in")
    module: Name | None = None
    oracle: tuple[Literal["kernel", "program"], ...] = Field(default=("kernel",), min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.entered is None) != (self.came_in is None):
            raise ValueError("`entered` and `in` go together")
        return self


class Variant(Table):
    """One way to run the recipe, with the verdict that it must give on a stock image.

    ``arguments`` and ``append`` are added to the workload's.

    With ``interleave`` the workload is steered: a fork at each instruction of a critical section,
    with the children's ``recovery`` left alone or disabled.

    With ``frame_bytes`` the prediction of a sweep takes an exception's frame for so big, in place
    of the processor's; with ``page_fault_ist`` the guest's IDT is changed, so that a page fault
    goes to that stack of the TSS.

    ``as-is`` has no verdict that it must give where the image is the user's own. A variant with
    ``needs_symbol`` is only for guests whose kernel has that symbol.

    ``kaslr`` lets the kernel choose its place in memory. ``shifted`` is a function for which the
    unwinder's table is made wrong by a word, in one entry.
    """

    name: Name
    title: str
    expect: Literal["reproduced", "clean", "inconclusive"] | None = None
    patch: tuple[Name, ...] = ()
    arguments: tuple[str, ...] = ()
    append: CommandLine = ""
    needs_symbol: Symbol | None = None
    interleave: Literal["recovery", "recovery-disabled"] | None = None
    frame_bytes: Annotated[int, Field(gt=0, le=4096)] | None = None
    page_fault_ist: Annotated[int, Field(ge=1, le=7)] | None = None
    kaslr: bool = False
    shifted: Symbol | None = None

    @property
    def verdict(self) -> Verdict | None:
        """The verdict that ``osvtriage verify`` demands of this variant."""
        return Verdict(self.expect) if self.expect else None


class Matrix(Table):
    """The conditions under which the bug is found fastest, for those who look long for it.

    ``arguments`` are alternatives, each added to the workload's; they fit the payload that the
    recipe's documentation names.
    """

    smp: tuple[Annotated[int, Field(ge=1, le=64)], ...] = (1,)
    arguments: tuple[tuple[str, ...], ...] = ((),)


class Recipe(Table):
    """A whole recipe file."""

    schema_: Literal["osvtriage.recipe/1"] = Field(alias="schema")
    name: Name
    title: str
    about: str = ""
    references: tuple[str, ...] = ()
    system: Literal["linux", "osv"]
    arch: Literal["ppc64le", "x86_64"]
    image: Name | None = None
    workload: Workload
    matrix: Matrix = Matrix()
    interleave: Interleave | None = None
    sweep: Sweep | None = None
    context: tuple[Context, ...] = ()
    probe: tuple[Probe, ...] = ()
    check: tuple[Check, ...] = ()
    patch: tuple[Patch, ...] = ()
    variant: tuple[Variant, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if not (self.probe or self.context):
            raise Misplaced("a recipe needs a [[probe]], or a [[context]]: where to look?", "probe")
        if not (self.check or self.sweep or self.context):
            raise Misplaced("a recipe needs a [[check]]: what must hold?", "check")
        if self.context and (self.probe or self.check):
            raise Misplaced("[[context]] brings its own check: no other goes with it", "context", 0)
        if self.context and (self.system, self.arch) != ("linux", "x86_64"):
            raise Misplaced("[[context]] is for linux on x86_64", "context", 0)
        for what, tables in (
            ("context", self.context),
            ("probe", self.probe),
            ("patch", self.patch),
            ("variant", self.variant),
        ):
            names = [table.name for table in tables]
            for index, name in enumerate(names):
                if name in names[:index]:
                    raise Misplaced(f"two of [[{what}]] are named {name!r}", what, index)
        if self.system != "linux" and self.workload.append:
            raise Misplaced("`append` is for linux: an OSv has one line for all", "workload")
        self._probes_are_armed()
        self._sweep_fits()
        patches = [patch.name for patch in self.patch]
        for index, variant in enumerate(self.variant):
            for number, name in enumerate(variant.patch):
                if name not in patches:
                    message = f"no [[patch]] is named {name!r}{_near(name, patches)}"
                    raise Misplaced(message, "variant", index, "patch", number)
            if variant.shifted is not None and not self.context:
                raise Misplaced("`shifted` needs a [[context]]", "variant", index, "shifted")
            if variant.kaslr and not self.context:
                # Probes are at the addresses that the kernel's file has.
                raise Misplaced("`kaslr` needs a [[context]]", "variant", index, "kaslr")
            changes = (variant.patch, variant.arguments, variant.append, variant.shifted)
            if variant.name == AS_IS and (any(changes) or variant.kaslr):
                raise Misplaced(f"the variant {AS_IS!r} must change nothing", "variant", index)
            if self.system != "linux" and variant.append:
                raise Misplaced("`append` is for linux: use `arguments`", "variant", index)
            if variant.interleave is not None and self.interleave is None:
                raise Misplaced("`interleave` needs the table [interleave]", "variant", index)
            if variant.expect is None and (variant.name != AS_IS or self.image is not None):
                raise Misplaced("`expect` is missing: what must it give?", "variant", index)
        if self.get_variant(AS_IS) is None:
            raise Misplaced(f"no [[variant]] is named {AS_IS!r}: that changes nothing", "variant")
        if not {"reproduced", "clean"} <= {variant.expect for variant in self.variant}:
            raise Misplaced(
                "a recipe needs a variant that reproduces and one that is clean: its controls",
                "variant",
            )
        return self

    def _sweep_fits(self) -> None:
        if self.sweep is None:
            for index, variant in enumerate(self.variant):
                for key in ("frame_bytes", "page_fault_ist"):
                    if getattr(variant, key) is not None:
                        raise Misplaced(f"`{key}` needs the table [sweep]", "variant", index)
            return
        if (self.system, self.arch) != ("linux", "x86_64"):
            raise Misplaced("[sweep] is for linux on x86_64", "sweep")
        if self.check:
            raise Misplaced("a recipe with [sweep] has its own check", "check", 0)
        for index, variant in enumerate(self.variant):
            if variant.name == AS_IS and (variant.frame_bytes or variant.page_fault_ist):
                raise Misplaced(f"the variant {AS_IS!r} must change nothing", "variant", index)
        probes = {probe.name: probe for probe in self.probe}
        for key in ("page_fault", "double_fault"):
            name = getattr(self.sweep, key)
            if name not in probes:
                message = f"no [[probe]] is named {name!r}{_near(name, list(probes))}"
                raise Misplaced(message, "sweep", key)
            if probes[name].function is None:
                raise Misplaced(f"probe {name!r} must be at a `function`", "sweep", key)

    def _probes_are_armed(self) -> None:
        names = [probe.name for probe in self.probe]
        armed = {probe.name for probe in self.probe if probe.arm is None or probe.arm.first}
        waiting = [
            (index, probe.name, probe.arm.after)
            for index, probe in enumerate(self.probe)
            if probe.arm is not None
        ]
        for index, _, after in waiting:
            if after not in names:
                message = f"no [[probe]] is named {after!r}{_near(after, names)}"
                raise Misplaced(message, "probe", index, "arm", "after")
        for _ in waiting:
            armed |= {name for _, name, after in waiting if after in armed}
        for index, name, after in waiting:
            if name not in armed:
                message = f"probe {name!r} is never armed: {after!r} waits for it in turn"
                raise Misplaced(message, "probe", index, "arm", "after")

    def get_variant(self, name: str) -> Variant | None:
        """The variant of that name."""
        return next((variant for variant in self.variant if variant.name == name), None)

    def holding_at(self, place: str) -> Recipe:
        """The recipe with another ``spin_at``.

        Raises:
            UsageError: *place* is none.
        """
        if re.match(_SPIN_AT, place) is None:
            raise UsageError(
                f"{place!r} is no place to hold a thread at",
                "an address in the program's file, 0x1234, or in a library's, libc.so.6:0x1234",
            )
        assert self.interleave is not None
        held = self.interleave.model_copy(update={"spin_at": place})
        return self.model_copy(update={"interleave": held})


def _near(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names) or 'none'}"
