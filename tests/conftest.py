"""What holds for every test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _TESTS / "guest" in item.path.parents:
            item.add_marker(pytest.mark.guest)


@pytest.fixture(autouse=True)
def _unit_tests_start_no_process(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if _TESTS / "unit" not in request.path.parents:
        return

    def refuse(*arguments: object, **options: object) -> None:
        pytest.fail(f"a unit test starts a process: {arguments[1:2]}")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"):
        monkeypatch.setattr(os, name, refuse)
