"""`git bisect run osvtriage run` over a repository whose commits boot real kernels, or do not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from harness import LIMIT, OSVTRIAGE, Places

from osvtriage.arch import PPC64LE
from osvtriage.images.patch import patched
from osvtriage.images.places import CACHE_VARIABLE
from osvtriage.images.record import file_sha256
from osvtriage.trial import library


@pytest.fixture
def reverted_kernel(
    kernel: Path, trimmed: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The image's kernel without the fix."""
    monkeypatch.setenv(CACHE_VARIABLE, str(shared_cache))
    return patched(kernel, file_sha256(kernel), PPC64LE, library.load(str(trimmed)).patch).path


def test_a_bisection_ends_at_the_first_bad_commit(
    places: Places,
    tmp_path: Path,
    trimmed: Path,
    kernel: Path,
    reverted_kernel: Path,
    dying_kernel: Path,
) -> None:
    repository = tmp_path / "linux"
    repository.mkdir()
    environment = {
        **places.environment,
        **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "A"),
        **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "a@example.org"),
        **dict.fromkeys(("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"), "/dev/null"),
    }

    def git(*arguments: str, limit: float = 30) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=repository,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    git("init", "--quiet")
    # Git tries the middle of the six that are in doubt first: the one that does not boot.
    history = [kernel, kernel, kernel, dying_kernel, kernel, reverted_kernel, reverted_kernel]
    commits = []
    for number, built in enumerate(history, 1):
        (repository / "vmlinux").unlink(missing_ok=True)
        (repository / "vmlinux").symlink_to(built)
        git("add", "vmlinux")
        git("commit", "--quiet", "--allow-empty", "--message", f"commit {number}")
        commits.append(git("rev-parse", "HEAD").strip())

    git("bisect", "start", commits[-1], commits[0])
    osvtriage = [*OSVTRIAGE, "run", str(trimmed), "--kernel", "./vmlinux", "--timeout", "100"]
    said = git("bisect", "run", *osvtriage, limit=5 * LIMIT)
    assert f"{commits[5]} is the first bad commit" in said
    log = git("bisect", "log")
    assert f"git bisect skip {commits[3]}" in log
    assert f"git bisect bad {commits[5]}" in log
    assert "git bisect good" in log
    places.assert_clean()
