"""The backport of QEMU: what is kept of its packages, and where there is one."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from osvtriage.arch import PPC64LE, X86_64
from osvtriage.images import qemu
from osvtriage.model.errors import ImageError


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("usr/bin/qemu-system-ppc64", True),
        ("usr/bin/qemu-system-x86_64", True),
        ("usr/bin/qemu-system-i386", False),
        ("usr/share/qemu/slof.bin", False),
        ("usr/lib/qemu-system-ppc64", False),
    ],
)
def test_only_the_emulators_are_kept(path: str, kept: bool) -> None:
    place = qemu.emulator_place(PurePosixPath(path))
    assert place == (PurePosixPath(path) if kept else None)


def test_a_host_without_a_backport_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "host_codename", lambda: "trixie")
    with pytest.raises(ImageError, match="no backport of QEMU") as caught:
        qemu.fetch()
    assert "--qemu" in (caught.value.hint or "")
    assert qemu.fetched(PPC64LE) is None


def test_what_was_fetched_is_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OSVTRIAGE_CACHE", str(tmp_path))
    monkeypatch.setattr(qemu, "host_codename", lambda: "bookworm")
    monkeypatch.setattr(qemu.platform, "machine", lambda: "x86_64")
    assert qemu.fetched(PPC64LE) is None
    kept = tmp_path / "qemu" / "bookworm-backports-amd64"
    (kept / "10-x" / "usr" / "bin").mkdir(parents=True)
    (kept / "10-x" / "usr" / "bin" / "qemu-system-ppc64").touch()
    (kept / "current").symlink_to("10-x")
    assert qemu.fetched(PPC64LE) == kept / "10-x" / "usr" / "bin" / "qemu-system-ppc64"
    assert qemu.fetched(X86_64) is None
