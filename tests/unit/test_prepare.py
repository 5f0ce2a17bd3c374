"""What a guest is started with, out of the image, the recipe and the variant."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from osvtriage.arch import PPC64LE, X86_64, Arch
from osvtriage.model.errors import UsageError
from osvtriage.trial import prepare


def request(image: dict[str, Any] | None = None, **variant: Any) -> Any:
    """A request of a recipe with a payload; *variant* is what its variant changes."""
    stock = {"name": "mine", "system": "linux", "append": "quiet", "kernel_format": "bzimage"}
    stock |= {"boots_itself": False, "symbols": None, "symbols_sha256": None}
    changes = {"name": "v", "arguments": (), "append": "", "patch": (), "needs_symbol": None}
    changes |= {"kaslr": False}
    return SimpleNamespace(
        image=SimpleNamespace(**stock | (image or {})),
        recipe=SimpleNamespace(
            workload=SimpleNamespace(payload="p", arguments=("--a",), append="norandmaps")
        ),
        variant=SimpleNamespace(**changes | variant),
        seed=7,
        program=None,
    )


def test_the_kernels_command_line_and_the_payloads() -> None:
    made = prepare._append(request(append="nosmt", arguments=("--b",)), X86_64)
    assert made == "console=ttyS0 quiet norandmaps nosmt panic=-1 -- payload: --seed 7 --a --b"


@pytest.mark.parametrize(
    ("system", "arch", "name", "smp", "expected"),
    [
        ("linux", X86_64, "tcg", 2, "tcg,thread=single"),
        ("linux", X86_64, "tcg", 1, "tcg"),
        ("linux", X86_64, "kvm", 2, "kvm"),
        ("linux", PPC64LE, "tcg", 2, "tcg"),
        ("osv", X86_64, "tcg", 2, "tcg"),
    ],
)
def test_vcpus_take_turns_where_the_kernel_pokes_its_text(
    system: str, arch: Arch, name: str, smp: int, expected: str
) -> None:
    asked = request({"system": system})
    asked.smp = smp
    assert prepare._accelerator(asked, arch, name) == expected


@pytest.mark.parametrize(
    "variant", [{"append": "nosmt"}, {"arguments": ("--b",)}, {"patch": ("p",)}]
)
def test_a_disk_that_boots_itself_cannot_be_changed(variant: dict[str, Any]) -> None:
    image = {"kernel_format": "qcow2", "boots_itself": True}
    with pytest.raises(UsageError, match=r"kernel of mine is a disk.*cannot change them"):
        prepare._check_variant(request(image, **variant), X86_64)


def test_a_compressed_kernel_cannot_be_patched() -> None:
    with pytest.raises(UsageError, match=r"is compressed \(bzImage\)") as caught:
        prepare._check_variant(request(patch=("p",)), X86_64)
    assert "vmlinux" in str(caught.value.hint)
    prepare._check_variant(request(arguments=("--b",), append="nosmt"), X86_64)


def test_a_disk_without_the_symbols_of_its_kernel() -> None:
    with pytest.raises(UsageError, match="without the symbols of its kernel") as caught:
        prepare._symbols(request().image)
    assert "--symbols vmlinuz" in str(caught.value.hint)
