"""Recipes: the shipped ones are sound; a typo is named with file, line and a better word."""

from __future__ import annotations

import builtins
import re
from pathlib import Path

import pytest

from osvtriage.arch import ARCHES
from osvtriage.model.errors import DataFileError, OsvtriageError, UsageError
from osvtriage.recipe.shipped import images_directory
from osvtriage.trial import checking, library

RECIPE = """\
schema = "osvtriage.recipe/1"
name = "mine"
title = "a bug of mine"
system = "linux"
arch = "ppc64le"
image = "debian-bookworm-ppc64le"

[workload]
payload = "fpstate"
limit = 60

[[probe]]
name = "save_fpu"
call = { to = "save_fpu", not_in = ["__giveup_fpu"] }
registers = ["vs0", "fpscr", "msr"]
fields = ["thread.regs.msr"]
required = 1

[[probe]]
name = "giveup"
function = "__giveup_fpu"
until_after_call = "save_fpu"
registers = ["vs0", "fpscr", "msr"]
fields = ["thread.fp_state.fpr[0]", "thread.regs.msr"]
arm = { after = "save_fpu", stops = 2 }

[[check]]
kind = "fp-clobber"
probe = "save_fpu"
register = "vs0"
status = "fpscr"
live = "FP"

[[check]]
kind = "giveup-conditions"
probe = "giveup"
after = "save_fpu"

[[patch]]
name = "fp-reload"
functions = ["save_fpu"]
find = ["mffs f0", "stfd f0, 0x200\\\\(r\\\\d+\\\\)", "b 0x[0-9a-f]+"]
replace = { index = 2, word = "4e800020", instruction = "blr" }

[[variant]]
name = "as-is"
title = "as it is"
expect = "clean"

[[variant]]
name = "reverted"
title = "without the fix"
expect = "reproduced"
patch = ["fp-reload"]
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return path


def changed(path: Path, old: str, new: str) -> int:
    """Put *new* in the place of *old*; the line on which it stands."""
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))
    return text[: text.index(old)].count("\n") + 1


def refusal(path: Path) -> str:
    with pytest.raises(DataFileError) as caught:
        library.load(str(path))
    assert caught.value.exit_code == 129
    assert library.lint(str(path)) == str(caught.value).splitlines()
    return str(caught.value)


def line_of(message: str, path: Path) -> int:
    found = re.match(rf"{re.escape(str(path))}:(\d+): ", message)
    assert found, message
    return int(found[1])


@pytest.mark.parametrize("name", library.names())
def test_a_shipped_recipe_is_sound(name: str) -> None:
    assert library.lint(name) == []
    recipe = library.load(name)
    assert recipe.name == name
    if recipe.image is not None:
        assert (images_directory() / f"{recipe.image}.toml").is_file()
    assert {variant.expect for variant in recipe.variant} >= {"clean", "reproduced"}
    # Sweeps and contexts bring their own check.
    own = recipe.sweep or recipe.context
    assert checking.run(recipe, ARCHES[recipe.arch], []) or own


def test_there_are_shipped_recipes() -> None:
    assert {"ppc64le-save-fpu", "osv-syscall-fpu"} <= set(library.names())


def test_the_recipe_that_the_others_are_made_of_is_sound(mine: Path) -> None:
    recipe = library.load(str(mine))
    assert library.lint(str(mine)) == []
    assert recipe.get_variant("reverted") is not None
    assert recipe.get_variant("as-was") is None
    assert [type(check).__name__ for check in checking.build(recipe)] == [
        "FpClobber",
        "GiveupConditions",
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("required = 1", "requird = 1", '"requird" in [[probe]]; did you mean "required"'),
        ("system =", "sistem =", '"sistem" at the top level; did you mean "system"'),
        ("payload =", "payloads =", '"payloads" in [workload]; did you mean "payload"'),
        ('kind = "fp-clobber"', 'kind = "fp-clober"', "'fp-clober'; did you mean 'fp-clobber'"),
        ('kind = "fp-clobber"', 'kind = "zzz"', "there are: fp-clobber, giveup-conditions"),
        ('live = "FP"', 'life = "FP"', "of kind fp-clobber; did you mean 'live'"),
        ('live = "FP"', 'live = "FPP"', "no MSR bit 'FPP'; did you mean 'FP'"),
        ('live = "FP"', "live = 8192", "live must be a string"),
        ('probe = "giveup"', 'probe = "givup"', "names no probe: 'givup'; did you mean 'giveup'"),
        ('{ after = "save_fpu", stops', '{ after = "save_fp", stops',
         "no [[probe]] is named 'save_fp'; did you mean 'save_fpu'"),
        ('{ after = "save_fpu", stops', '{ afters = "save_fpu", stops', 'did you mean "after"'),
        ('"__giveup_fpu"\nuntil', '"__giveup_fpu"\nuntli',
         '"untli_after_call" in [[probe]]; did you mean "until_after_call"'),
        ('patch = ["fp-reload"]', 'patch = ["fp-relod"]',
         "no [[patch]] is named 'fp-relod'; did you mean 'fp-reload'"),
        ('"mffs f0"', '"mffs f(0"', "'mffs f(0' is not a regular expression: missing )"),
        ('word = "4e800020"', 'word = "blr"', '"word" in [patch.replace]: string should match'),
        ('expect = "reproduced"', 'expect = "reproducd"', "should be 'reproduced', 'clean' or"),
        ('arch = "ppc64le"', 'arch = "ppc64el"', "input should be 'ppc64le' or 'x86_64'"),
        ('schema = "osvtriage.recipe/1"', 'schema = "osvtriage.recipe/9"', "osvtriage.recipe/1"),
        ('name = "giveup"', 'name = "--giveup"', "string should match pattern"),
        ("limit = 60", "limit = 0", "greater than 0"),
    ],
)  # fmt: skip
def test_a_typo_is_named_with_its_line(mine: Path, old: str, new: str, words: str) -> None:
    start = changed(mine, old, new)
    message = refusal(mine)
    # A key that is not there any more is missed at its table's line, as a further problem.
    line = next(line for line in message.splitlines() if words in line)
    assert line_of(line, mine) in (start, start + new.count("\n"))


def test_an_unknown_register_is_named_with_its_line(mine: Path) -> None:
    mine.write_text(RECIPE.replace('["vs0"', '["vs00"', 1))
    assert "mine.toml:15: ppc64le has no register 'vs00'; did you mean 'vs0'?" in refusal(mine)


def test_a_missing_parameter_is_named(mine: Path) -> None:
    changed(mine, 'live = "FP"\n', "")
    assert ":27: [[check]] of kind fp-clobber needs 'live'" in refusal(mine)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "as-is"', 'name = "asis"', "no [[variant]] is named 'as-is'"),
        ('expect = "reproduced"', 'expect = "clean"', "its controls"),
        ('expect = "clean"', 'expect = "reproduced"', "its controls"),
        ('name = "reverted"', 'name = "as-is"', "two of [[variant]] are named 'as-is'"),
        ('name = "giveup"', 'name = "save_fpu"', "two of [[probe]] are named 'save_fpu'"),
        ('expect = "clean"', 'expect = "clean"\npatch = ["fp-reload"]', "must change nothing"),
        ('expect = "clean"', 'expect = "clean"\narguments = ["-x"]', "must change nothing"),
        ('expect = "clean"', 'expect = "clean"\nappend = "norandmaps"', "must change nothing"),
        ('{ after = "save_fpu", stops', '{ after = "giveup", stops', "'giveup' is never armed"),
        ("required = 1", "required = 101", "disarms after its `limit` of 100"),
        ("required = 1", "required = 1\noptional = true", "cannot be `required`"),
        ("call = {", 'function = "f"\ncall = {', "exactly one of `call`, `function` and"),
        ('function = "__giveup_fpu"', 'call = { to = "x" }', "goes with `function`"),
        ('until_after_call = "save_fpu"\n', "", "no exit to compare with"),
        ("index = 2", "index = 3", "past the end of `find`"),
        ('["thread.regs.msr"]\nreq', "[]\nreq", "'save_fpu' must take the fields thread.regs.msr"),
    ],
)
def test_what_contradicts_itself_is_refused(mine: Path, old: str, new: str, words: str) -> None:
    changed(mine, old, new)
    message = refusal(mine)
    assert words in message
    # The message leads into the table, not to the top of the file.
    assert line_of(message, mine) >= 12


def test_probes_that_wait_for_each_other(mine: Path) -> None:
    changed(mine, "required = 1\n", 'arm = { after = "giveup" }\n')
    assert "probe 'save_fpu' is never armed: 'giveup' waits for it in turn" in refusal(mine)
    changed(mine, '{ after = "giveup" }', '{ after = "giveup", first = 1 }')
    assert library.lint(str(mine)) == []


def test_what_is_added_to_the_kernels_command_line(mine: Path) -> None:
    changed(mine, "limit = 60", 'limit = 60\nappend = "norandmaps"')
    changed(mine, 'title = "without the fix"', 'title = "without the fix"\nappend = "nosmt quiet"')
    recipe = library.load(str(mine))
    assert recipe.workload.append == "norandmaps"
    assert [variant.append for variant in recipe.variant] == ["", "nosmt quiet"]
    changed(mine, "nosmt quiet", "nosmt\\nquiet")
    assert '"append"' in refusal(mine)


def test_an_osv_has_one_line_for_all(mine: Path) -> None:
    changed(mine, "limit = 60", 'limit = 60\nappend = "norandmaps"')
    changed(mine, 'system = "linux"\narch = "ppc64le"', 'system = "osv"\narch = "x86_64"')
    assert "`append` is for linux" in refusal(mine)


def test_a_payload_that_does_not_exist_is_linted(mine: Path) -> None:
    changed(mine, 'payload = "fpstate"', 'payload = "fpstat"')
    assert any("fpstat" in problem for problem in library.lint(str(mine)))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ppc64le-save-fp", "did you mean 'ppc64le-save-fpu'?"),
        ("zzz", "recipes list"),
        ("..", "recipes list"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match="there is no recipe") as caught:
        library.load(name)
    assert hint in (caught.value.hint or "")


def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="No such file"):
        library.load(str(tmp_path / "absent.toml"))
    assert len(library.lint(str(tmp_path / "absent.toml"))) == 1


@pytest.mark.parametrize("where", ["title", "about", "arguments", "find"])
def test_loading_runs_nothing_that_stands_in_the_file(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        pytest.fail(f"code from a recipe is run: {arguments}")

    for name in ("eval", "exec"):
        monkeypatch.setattr(builtins, name, refuse)
    code = f"__import__('pathlib').Path('{tmp_path}/ran').touch() $(touch {tmp_path}/ran)"
    old, new = {
        "title": ('"a bug of mine"', f'"{code}"'),
        "about": ('system = "linux"', f'about = "{code}"\nsystem = "linux"'),
        "arguments": ("limit = 60", f'limit = 60\narguments = ["{code}"]'),
        "find": ('"mffs f0"', f'"{code}"'),
    }[where]
    changed(mine, old, new)
    try:
        checking.build(library.load(str(mine)))
    except OsvtriageError as error:
        pytest.fail(str(error))
    assert not (tmp_path / "ran").exists()


# OSv.

OSV_RECIPE = """\
schema = "osvtriage.recipe/1"
name = "mine"
title = "a bug of mine"
system = "osv"
arch = "x86_64"

[workload]
duration = 10

[[probe]]
name = "setup"
call = { to = "setup_large_syscall_stack", or_function = true }
registers = ["fpu", "rsp"]
stack = "syscall_stack"
threads = "differs"

[[probe]]
name = "abort"
function = "abort"
registers = ["cr2"]
threads = "always"

[[check]]
kind = "fpu-preserved"
probe = "setup"

[[check]]
kind = "stack-bounds"
probe = "setup"

[[check]]
kind = "crash"
probe = "abort"
stack = "setup"

[[variant]]
name = "as-is"
title = "as it is"

[[variant]]
name = "bad"
title = "with the bug"
expect = "reproduced"

[[variant]]
name = "good"
title = "without"
expect = "clean"

[[variant]]
name = "other"
title = "another bug"
expect = "inconclusive"
"""


@pytest.fixture
def osv(tmp_path: Path) -> Path:
    path = tmp_path / "osv.toml"
    path.write_text(OSV_RECIPE)
    return path


def test_a_recipe_for_any_image_is_sound(osv: Path) -> None:
    assert library.lint(str(osv)) == []
    recipe = library.load(str(osv))
    assert [type(check).__name__ for check in checking.build(recipe)] == [
        "FpuPreserved",
        "StackBounds",
        "Crash",
    ]
    # What the user's image must give, nobody knows.
    assert [variant.expect for variant in recipe.variant] == [
        None,
        "reproduced",
        "clean",
        "inconclusive",
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        # A check that cannot see what it goes by would find it clean.
        ('stack = "syscall_stack"\n', "", "probe 'setup' must measure a `stack` for this check"),
        ('["fpu", "rsp"]', '["xmm0", "rsp"]', "probe 'setup' must take the registers xmm1, xmm2"),
        ('stack = "setup"', 'stack = "abort"', "probe 'abort' has no exit to compare with"),
        ('stack = "setup"', 'stack = "setpu"', "stack names no probe: 'setpu'; did you mean"),
        ('kind = "stack-bounds"\nprobe = "setup"', 'kind = "stack-bounds"\nprobe = "abort"',
         "probe 'abort' has no exit to compare with"),
        ('kind = "stack-bounds"\nprobe = "setup"', 'kind = "stack-bounds"\nstack = "setup"',
         'unknown key "stack" in [[check]] of kind stack-bounds'),
        ('kind = "crash"\nprobe = "abort"\n', 'kind = "crash"\n', "of kind crash needs 'probe'"),
        ('["fpu", "rsp"]', '["fpuu", "rsp"]', "x86_64 has no register 'fpuu'; did you mean 'fpu'"),
        # And of the probes themselves.
        ('"syscall_stack"', '"syscal_stack"', "no stack 'syscal_stack'; did you mean 'syscall_st"),
        ('threads = "always"', 'threads = "differs"', "need an exit to compare with"),
        ('threads = "always"', 'stack = "syscall_stack"', "need an exit to compare with"),
        ('threads = "always"', 'threads = "alway"', "input should be 'always' or 'differs'"),
        ('title = "without"\nexpect = "clean"', 'title = "without"',
         "`expect` is missing: what must it give?"),
        ('expect = "reproduced"', 'expect = "inconclusive"', "its controls"),
        ("duration = 10", "duration = 0", "greater than 0"),
    ],
)  # fmt: skip
def test_what_a_recipe_for_osv_cannot_mean(osv: Path, old: str, new: str, words: str) -> None:
    changed(osv, old, new)
    message = refusal(osv)
    assert words in message
    assert line_of(message, osv) >= 7


def test_a_shipped_image_has_a_verdict_that_it_must_give(osv: Path) -> None:
    changed(osv, 'arch = "x86_64"\n', 'arch = "x86_64"\nimage = "debian-bookworm-ppc64le"\n')
    assert "`expect` is missing" in refusal(osv)


def test_a_crash_needs_no_probe_of_stacks(osv: Path) -> None:
    changed(osv, 'stack = "setup"\n', "")
    assert library.lint(str(osv)) == []
