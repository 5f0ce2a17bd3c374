"""Patching a copy of a kernel file at the place that disassembly shows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import ppc64_elf as ppc
import pytest

from osvtriage.arch import PPC64LE
from osvtriage.images.patch import PatchedKernel, patched
from osvtriage.images.places import cache_directory
from osvtriage.model.errors import SymbolError
from osvtriage.recipe.recipe import Patch

STORE = r"stfd f0, 0x200\(r\d+\)"
RELOAD = Patch.model_validate(
    {
        "name": "fp-reload",
        "functions": ["save_fpu"],
        "find": ["mffs f0", STORE, "b 0x[0-9a-f]+"],
        "replace": {"index": 2, "word": "4e800020", "instruction": "blr"},
        "never_had": ["mffs f0", STORE, "blr"],
    }
)
ALTIVEC = Patch.model_validate(
    {
        "name": "altivec-reload",
        "functions": ["save_altivec"],
        "find": ["stvx v0, r4, r7", "lvx v0, 0, r7", "blr"],
        "replace": {"index": 1, "word": "4e800020", "instruction": "blr"},
    }
)
# .text is the first section of the file, 64 bytes into it.
RELOAD_OFFSET = 64 + 4 * ppc.SAVE_FPU_RELOAD
RELOAD_ADDRESS = ppc.TEXT + 4 * ppc.SAVE_FPU_RELOAD


@pytest.fixture
def cache(places: None) -> Path:
    return cache_directory()


def write(tmp_path: Path, **changed: Sequence[int | str]) -> Path:
    return ppc.write(tmp_path / "vmlinux", ppc.kernel(**changed))


def patch(kernel: Path, *patches: Patch) -> PatchedKernel:
    return patched(kernel, sha256(kernel.read_bytes()).hexdigest(), PPC64LE, patches)


def test_one_instruction_changes_in_a_copy(tmp_path: Path) -> None:
    kernel = write(tmp_path)
    whole = kernel.read_bytes()
    made = patch(kernel, RELOAD)
    expected = bytearray(whole)
    expected[RELOAD_OFFSET : RELOAD_OFFSET + 4] = bytes.fromhex("2000804e")
    assert made.path.read_bytes() == expected
    assert made.sha256 == sha256(expected).hexdigest()
    assert kernel.read_bytes() == whole


def test_the_record_shows_the_shape_before_and_after(tmp_path: Path) -> None:
    (applied,) = patch(write(tmp_path), RELOAD).patches
    assert (applied.symbol, applied.address) == ("save_fpu", f"{RELOAD_ADDRESS:016x}")
    assert applied.before == (
        f"{RELOAD_ADDRESS - 8:016x}: mffs f0",
        f"{RELOAD_ADDRESS - 4:016x}: stfd f0, 0x200(r6)",
        f"{RELOAD_ADDRESS:016x}: b {RELOAD_ADDRESS + 12:#x}",
    )
    assert applied.after == (*applied.before[:2], f"{RELOAD_ADDRESS:016x}: blr")
    assert type(applied).from_json(applied.to_json()) == applied


def test_several_patches_go_into_one_copy(tmp_path: Path) -> None:
    kernel = write(tmp_path)
    made = patch(kernel, RELOAD, ALTIVEC)
    differing = [
        at
        for at, (old, new) in enumerate(
            zip(kernel.read_bytes(), made.path.read_bytes(), strict=True)
        )
        if old != new
    ]
    assert {(at - 64) // 4 for at in differing} == {
        ppc.SAVE_FPU_RELOAD,
        len(ppc.SAVE_FPU) + 6,
    }
    assert [item.symbol for item in made.patches] == ["save_fpu", "save_altivec"]


def test_no_patch_leaves_the_kernel(tmp_path: Path, cache: Path) -> None:
    kernel = write(tmp_path)
    assert patch(kernel).path == kernel
    assert not cache.exists()


def test_a_kernel_that_never_had_the_fix_is_booted_as_it_is(tmp_path: Path) -> None:
    kernel = write(tmp_path, save_fpu=ppc.SAVE_FPU_WITHOUT_FIX)
    for _made_or_recalled in range(2):
        made = patch(kernel, RELOAD)
        assert made.path == kernel
        assert made.sha256 == sha256(kernel.read_bytes()).hexdigest()
        (applied,) = made.patches
        assert applied.before == applied.after
        assert applied.before[-1].endswith(": blr")


def test_a_kernel_without_one_of_two_fixes_gets_the_other_out(tmp_path: Path) -> None:
    kernel = write(tmp_path, save_fpu=ppc.SAVE_FPU_WITHOUT_FIX)
    made = patch(kernel, RELOAD, ALTIVEC)
    assert made.path != kernel
    assert [item.before == item.after for item in made.patches] == [True, False]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([ppc.NOP, ppc.BLR], "no run of instructions"),
        ([*ppc.SAVE_FPU, *ppc.SAVE_FPU], "more than one run of instructions"),
        ([*ppc.SAVE_FPU_WITHOUT_FIX, *ppc.SAVE_FPU_WITHOUT_FIX], "no run of instructions"),
    ],
)
def test_an_unknown_shape_shows_the_code(
    tmp_path: Path, cache: Path, words: list[int | str], found: str
) -> None:
    with pytest.raises(SymbolError) as caught:
        patch(write(tmp_path, save_fpu=words), RELOAD)
    message = str(caught.value)
    assert f"save_fpu has {found} that patch 'fp-reload' looks for" in message
    assert "mffs f0; stfd" in message
    assert message.endswith("20 00 80 4e  blr")
    assert not cache.exists()


def test_a_patch_without_never_had_needs_its_shape(tmp_path: Path) -> None:
    words = [*ppc.SAVE_ALTIVEC[:6], ppc.BLR]
    with pytest.raises(SymbolError, match="save_altivec has no run"):
        patch(write(tmp_path, save_altivec=words), ALTIVEC)


def test_a_word_that_is_not_the_instruction_named_beside_it(tmp_path: Path, cache: Path) -> None:
    data = RELOAD.model_dump()
    data["replace"]["word"] = "60000000"
    with pytest.raises(SymbolError, match="60000000 is `nop`, not `blr` as the recipe says"):
        patch(write(tmp_path), Patch.model_validate(data))
    assert not cache.exists()


def test_a_function_that_the_kernel_has_not(tmp_path: Path) -> None:
    data = RELOAD.model_dump() | {"functions": ["save_fpu", "store_fp_state"]}
    with pytest.raises(SymbolError, match="no symbol 'store_fp_state'"):
        patch(write(tmp_path), Patch.model_validate(data))


def test_the_same_request_is_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = write(tmp_path)
    first = patch(kernel, RELOAD)

    def refuse(*arguments: object) -> None:
        pytest.fail("the kernel was read again")

    monkeypatch.setattr("osvtriage.images.patch.ElfImage", refuse)
    assert patch(kernel, RELOAD) == first


def test_another_kernel_or_another_patch_is_another_request(tmp_path: Path) -> None:
    first = patch(write(tmp_path), RELOAD)
    other_patch = patch(tmp_path / "vmlinux", ALTIVEC)
    other_kernel = patch(write(tmp_path, ktime_get=[ppc.NOP, ppc.BLR]), RELOAD)
    assert len({first.path, other_patch.path, other_kernel.path}) == 3


def test_a_copy_that_was_touched_is_made_anew(tmp_path: Path) -> None:
    kernel = write(tmp_path)
    made = patch(kernel, RELOAD)
    whole = made.path.read_bytes()
    made.path.write_bytes(b"somebody else's")
    again = patch(kernel, RELOAD)
    assert again.path.read_bytes() == whole
    assert again.sha256 == made.sha256


@pytest.mark.parametrize("damage", ["no record", "half a record", "no kernel", "other record"])
def test_a_cache_entry_that_is_not_whole_is_made_anew(tmp_path: Path, damage: str) -> None:
    kernel = write(tmp_path)
    made = patch(kernel, RELOAD)
    record = made.path.parent / "patches.json"
    if damage == "no record":
        record.unlink()
    elif damage == "half a record":
        os.truncate(record, 20)
    elif damage == "no kernel":
        made.path.unlink()
    else:
        record.write_text('["patches"]')
    again = patch(kernel, RELOAD)
    assert again.path.exists()
    assert (again.sha256, again.patches) == (made.sha256, made.patches)
