"""Repeating a run: only with what it was made with."""

from __future__ import annotations

from typing import Any

import pytest
from run_records import record

from osvtriage.model.errors import UsageError
from osvtriage.trial.again import require_same


def test_the_same_files_are_the_same() -> None:
    made = record()
    require_same(made, made.image)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("kernel_sha256", "0" * 64, "kernel"),
        ("initrd_sha256", None, "initramfs"),
        ("append", "quiet", "command line"),
        ("symbols_sha256", "1" * 64, "symbols"),
    ],
)
def test_what_has_changed_is_named(key: str, value: Any, what: str) -> None:
    made = record()
    assert made.image is not None
    with pytest.raises(UsageError, match=what):
        require_same(made, made.image.model_copy(update={key: value}))


def test_a_run_that_booted_nothing_cannot_be_repeated() -> None:
    made = record().model_copy(update={"image": None})
    with pytest.raises(UsageError, match="booted nothing"):
        require_same(made, None)
