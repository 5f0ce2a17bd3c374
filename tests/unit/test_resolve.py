"""From a recipe's probes to addresses in one kernel, and why an address is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import osv_kernel
import ppc64_elf as ppc
import pytest

from osvtriage.arch import PPC64LE, X86_64
from osvtriage.model.errors import OsvtriageError, SymbolError, UsageError
from osvtriage.model.plan import GdbPlan, ProbePlan
from osvtriage.recipe.recipe import Recipe
from osvtriage.symbols.elf import ElfImage
from osvtriage.trial.resolve import Resolved, resolve

AT = ppc.addresses(ppc.kernel())
SAVE = {"name": "save", "call": {"to": "save_fpu", "not_in": ["__giveup_fpu"]}}
GIVEUP = {
    "name": "giveup",
    "function": "__giveup_fpu",
    "until_after_call": "save_fpu",
    "arm": {"after": "save", "stops": 2},
}


@pytest.fixture
def elf(tmp_path: Path) -> Iterator[ElfImage]:
    with ElfImage(ppc.write(tmp_path / "vmlinux", ppc.kernel()), PPC64LE) as image:
        yield image


def recipe(*probes: dict[str, Any], system: str = "linux", arch: str = "ppc64le") -> Recipe:
    controls = [{"name": "as-is", "title": "a", "expect": "clean"}]
    controls += [{"name": "bug", "title": "b", "expect": "reproduced"}]
    return Recipe.model_validate(
        {
            "schema": "osvtriage.recipe/1",
            "name": "r",
            "title": "t",
            "system": system,
            "arch": arch,
            "image": "i",
            "workload": {},
            "probe": probes,
            "check": [{"kind": "fp-clobber"}],
            "variant": controls,
        }
    )


def plan(resolved: Resolved) -> ProbePlan:
    (probe,) = resolved.plan.probes
    return probe


def refusal(elf: ElfImage, probe: dict[str, Any]) -> OsvtriageError:
    with pytest.raises(OsvtriageError) as caught:
        resolve(recipe(probe), elf)
    return caught.value


def test_a_call_probe_stops_before_and_after_each_call(elf: ElfImage) -> None:
    probe = plan(resolve(recipe(SAVE), elf))
    site = AT["flush_all_to_thread.part.0"] + 4
    assert (probe.entries, probe.exits) == ((site,), (site + 4,))
    assert probe.callee == AT["save_fpu"]
    assert not probe.at_function_entry


@pytest.mark.parametrize(
    ("call", "callers"),
    [
        ({}, ["__giveup_fpu", "flush_all_to_thread.part.0"]),
        ({"inside": ["__giveup_fpu"]}, ["__giveup_fpu"]),
        # The compiler's part of a function counts as the function.
        ({"inside": ["flush_all_to_thread"]}, ["flush_all_to_thread.part.0"]),
        ({"not_in": ["flush_all_to_thread"]}, ["__giveup_fpu"]),
    ],
)
def test_calls_are_chosen_by_their_caller(
    elf: ElfImage, call: dict[str, Any], callers: list[str]
) -> None:
    probe = plan(resolve(recipe({"name": "p", "call": {"to": "save_fpu", **call}}), elf))
    functions = [elf.containing(entry) for entry in probe.entries]
    assert [function.name for function in functions if function] == callers


def test_a_function_probe_stops_at_the_local_entry(elf: ElfImage) -> None:
    probe = plan(resolve(recipe({"name": "p", "function": "__giveup_fpu"}), elf))
    assert (probe.entries, probe.exits) == ((AT["__giveup_fpu"] + 8,), ())
    assert probe.at_function_entry
    assert probe.callee is None


def test_a_function_probe_ends_behind_the_call_it_names(elf: ElfImage) -> None:
    resolved = resolve(recipe(SAVE, GIVEUP), elf)
    probe = resolved.plan.probes[1]
    assert probe.exits == (AT["__giveup_fpu"] + 12,)
    assert (probe.arm_after, probe.arm_stops) == ("save", 2)
    assert (resolved.callee("save"), resolved.callee("giveup")) == (AT["save_fpu"], None)


def test_a_call_through_the_global_entry_counts(tmp_path: Path) -> None:
    code = [
        ppc.Code("caller", [ppc.NOP, 0x48000009, ppc.BLR]),  # bl +8: the global entry
        ppc.Code("callee", [ppc.NOP, ppc.NOP, ppc.BLR], other=ppc.LOCAL_ENTRY_8),
        ppc.Code("local", ["callee", ppc.BLR]),
    ]
    path = ppc.write(tmp_path / "k", [*ppc.kernel(), *code])
    at = ppc.addresses([*ppc.kernel(), *code])
    with ElfImage(path, PPC64LE) as elf:
        probe = plan(resolve(recipe({"name": "p", "call": {"to": "callee"}}), elf))
    assert probe.entries == (at["caller"] + 4, at["local"])


def test_the_kernel_is_told_by_its_banner(elf: ElfImage) -> None:
    resolved = resolve(recipe(SAVE), elf)
    banner = resolved.samples[0]
    assert elf.read(banner.address, banner.size) == ppc.BANNER


def test_code_that_the_kernel_rewrites_is_compared_behind_it(tmp_path: Path) -> None:
    entry = AT["__giveup_fpu"] + 8
    data = {
        **ppc.KERNEL_DATA,
        "__start_mcount_loc": entry.to_bytes(8, "little"),
        "__stop_mcount_loc": b"",
    }
    with ElfImage(ppc.write(tmp_path / "k", ppc.kernel(), data), PPC64LE) as elf:
        resolved = resolve(recipe({"name": "p", "function": "__giveup_fpu"}), elf)
    assert plan(resolved).entries == (entry,)
    assert [(code.address, code.size) for code in resolved.samples[1:]] == [(entry + 8, 4)]


def test_a_plan_survives_the_way_to_gdb(elf: ElfImage) -> None:
    probes = [{**SAVE, "registers": ["vs0"], "fields": ["thread.regs.msr"]}, GIVEUP]
    made = resolve(recipe(*probes), elf).plan
    assert GdbPlan.from_json(made.to_json()) == made
    assert made.probes[0].fields["thread.regs.msr"].path == (0xE40, 264)


def test_an_optional_probe_may_be_absent(elf: ElfImage) -> None:
    probe = {"name": "p", "call": {"to": "store_fp_state"}, "optional": True}
    assert resolve(recipe(SAVE, probe), elf).plan.probes == resolve(recipe(SAVE), elf).plan.probes


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ({"call": {"to": "save_fpuu"}}, "no call of save_fpuu"),
        ({"call": {"to": "save_fpu", "inside": ["x"]}}, "no call of save_fpu inside x; the code"),
        (
            {"call": {"to": "save_altivec", "not_in": ["flush_all_to_thread"]}},
            "no call of save_altivec outside flush_all_to_thread",
        ),
        ({"function": "giveup"}, "no function giveup"),
        (
            {"function": "__giveup_fpu", "until_after_call": "save_altivec"},
            "__giveup_fpu in .* does not call save_altivec; its code:\n",
        ),
    ],
)
def test_a_place_that_is_not_in_the_kernel(
    elf: ElfImage, probe: dict[str, Any], words: str
) -> None:
    error = refusal(elf, {"name": "p", **probe})
    assert isinstance(error, SymbolError)
    assert re.search(f"probe 'p'.*{words}", str(error))


@pytest.mark.parametrize(
    ("captured", "words", "hint"),
    [
        ({"registers": ["vs00"]}, "unknown register 'vs00'", "did you mean 'vs0'?"),
        ({"fields": ["thread.regs.mrs"]}, "unknown field 'thread.regs.mrs'", "thread.regs.msr"),
        ({"fields": ["zzz"]}, "unknown field 'zzz'", ""),
    ],
)
def test_a_word_that_cannot_be_captured(
    elf: ElfImage, captured: dict[str, Any], words: str, hint: str
) -> None:
    error = refusal(elf, {**SAVE, **captured})
    assert isinstance(error, UsageError)
    assert words in str(error)
    assert hint in (error.hint or "")


# OSv.

SETUP = "setup_large_syscall_stack"
CALLS = {"name": "setup", "call": {"to": SETUP, "inside": ["syscall_entry"], "or_function": True}}


@pytest.fixture
def osv() -> Iterator[ElfImage]:
    with ElfImage(osv_kernel.KERNEL, X86_64) as image:
        yield image


def osv_recipe(*probes: dict[str, Any]) -> Recipe:
    return recipe(*probes, system="osv", arch="x86_64")


def test_a_call_of_x86_is_as_long_as_it_is(osv: ElfImage) -> None:
    resolved = resolve(osv_recipe(CALLS), osv)
    probe = plan(resolved)
    site = osv.symbol("syscall_entry").address + 0x1F
    assert (probe.entries, probe.exits) == ((site,), (site + 5,))
    assert (probe.callee, probe.exits_at_return) == (osv.symbol(SETUP).address, False)
    assert (resolved.notes, resolved.missing) == ({}, ())


def test_an_osv_is_armed_at_its_first_function_and_told_by_its_code(osv: ElfImage) -> None:
    resolved = resolve(osv_recipe(CALLS), osv)
    assert resolved.arm_address == osv.symbol("premain").address
    assert resolved.sleep_address is None
    # All of it: the code at a probe is no sample of its own.
    assert [(item.what, item.size) for item in resolved.samples] == [
        (".text", osv.section(".text").size)
    ]


@pytest.mark.parametrize(
    ("call", "searched"),
    [
        ({"to": SETUP, "inside": ["here", "there"]}, f"no call of {SETUP} inside here, there"),
        ({"to": SETUP, "not_in": ["syscall_entry"]}, f"no call of {SETUP} outside syscall_entry"),
        ({"to": "premain"}, "no call of premain"),
    ],
)
def test_a_call_that_is_not_there_is_watched_as_a_function(
    osv: ElfImage, call: dict[str, Any], searched: str
) -> None:
    resolved = resolve(osv_recipe({"name": "p", "call": {**call, "or_function": True}}), osv)
    probe = plan(resolved)
    assert (probe.entries, probe.exits) == ((osv.symbol(call["to"]).address,), ())
    assert (probe.exits_at_return, probe.at_function_entry, probe.callee) == (True, True, None)
    how = "watched from the function's entry to its return"
    assert resolved.notes == {"p": f"{searched} in this build: {how}"}


def test_without_leave_a_call_that_is_not_there_is_an_error(osv: ElfImage) -> None:
    probe = {"name": "setup", "call": {"to": SETUP, "inside": ["nowhere"]}}
    with pytest.raises(SymbolError, match=f"no call of {SETUP} inside nowhere; the code"):
        resolve(osv_recipe(probe), osv)
    # And a function that is not there is no way out.
    probe = {"name": "setup", "call": {"to": "nothing", "or_function": True}}
    with pytest.raises(SymbolError, match="nothing"):
        resolve(osv_recipe(probe), osv)


def test_a_stack_is_measured_by_what_the_kernel_tells_of_it(osv: ElfImage) -> None:
    probe = plan(resolve(osv_recipe({**CALLS, "stack": "syscall_stack"}), osv))
    assert probe.stack is not None
    assert (probe.stack.size, probe.stack.reserved) == (1024, 16)


def test_a_stack_that_a_build_does_not_tell_is_not_measured(tmp_path: Path) -> None:
    changes = osv_kernel.without("_ZN5sched6thread9setup_tcbEv")
    with osv_kernel.with_changes(tmp_path, changes) as elf:
        resolved = resolve(osv_recipe({**CALLS, "stack": "syscall_stack"}), elf)
    assert plan(resolved).stack is None
    (sentence,) = resolved.missing
    assert "first stack is not measured" in sentence


def test_a_group_stands_for_its_registers(osv: ElfImage) -> None:
    probe = plan(resolve(osv_recipe({**CALLS, "registers": ["rsp", "fpu", "xmm0"]}), osv))
    assert probe.registers == ("rsp", *X86_64.groups["fpu"])


def test_what_a_kernel_does_not_tell_is_passed_on(tmp_path: Path) -> None:
    changes = osv_kernel.without(".debug_aranges")
    with osv_kernel.with_changes(tmp_path, changes) as elf:
        resolved = resolve(osv_recipe(CALLS), elf)
    assert resolved.plan.threads is None
    (sentence,) = resolved.missing
    assert sentence.startswith("threads have no names")


def test_a_pinpoint_of_a_register_that_does_not_exist(osv: ElfImage) -> None:
    assert resolve(osv_recipe(CALLS), osv, "ymm0h").plan.pinpoint == "ymm0h"
    with pytest.raises(UsageError, match="--pinpoint asks for the unknown register 'xmm16'"):
        resolve(osv_recipe(CALLS), osv, "xmm16")
