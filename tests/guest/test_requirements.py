"""What doctor looks at, on this machine and with programs that are broken in known ways."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from osvtriage.arch import PPC64LE
from osvtriage.guest.programs import find_gdb
from osvtriage.guest.requirements import (
    Row,
    accelerator_rows,
    compiler_row,
    debian_rows,
    dot_row,
    examine,
    gdb_rows,
    qemu_rows,
    satisfied,
    socket_row,
)
from osvtriage.model.errors import MissingRequirement

NEEDED = frozenset({"ppc64le"})

# What gdb 13.1 prints; $* has the commands.
GDB = r"""
echo 'GNU gdb (GDB) 13.1'
case "$*" in *python*) {python} ;; esac
for word; do
    case "$word" in
    'set architecture '{known}) echo "The target architecture is set to \"${{word##* }}\"." ;;
    'set architecture '*) echo "Undefined item: \"${{word##* }}\"." >&2 ;;
    esac
done
"""
PYTHON_3_11 = "echo 'python 3 11 2'"
NO_PYTHON = "echo 'Python scripting is not supported in this copy of GDB.' >&2"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that is the whole PATH, but for what a shell script and a probe need."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "timeout").symlink_to("/usr/bin/timeout")
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setenv("OSVTRIAGE_CACHE", str(tmp_path / "cache"))
    return directory


def program(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def by_name(rows: Iterable[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


def test_this_machine_can_run_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSVTRIAGE_CACHE", str(tmp_path))
    steps: list[str] = []
    rows = examine(steps.append)
    lacking = [row for row in rows if row.required and not row.found]
    assert not lacking
    assert satisfied(rows)
    assert len({row.name for row in rows}) == len(rows)
    assert steps
    for row in rows:
        assert row.found or row.how_to_get or not row.required


def test_doctor_prints_what_a_script_can_read() -> None:
    code = "import sys; from osvtriage.cli.doctor import doctor\n"
    code += "sys.exit(doctor.main(['--json'], standalone_mode=False))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    record = json.loads(done.stdout)
    assert done.stderr == b""
    assert done.returncode == (0 if record["ok"] else 1)
    assert record["schema"] == "osvtriage.doctor/1"


def test_gdb_without_python_is_not_enough(programs: Path) -> None:
    program(programs, "gdb-multiarch", GDB.format(python=NO_PYTHON, known="*"))
    rows = by_name(gdb_rows(NEEDED))
    assert rows["gdb"].found
    assert rows["gdb"].version == "13.1"
    assert rows["gdb for ppc64le"].found
    inside = rows["gdb's Python"]
    assert not inside.found
    assert inside.required
    assert inside.detail == "Python scripting is not supported in this copy of GDB."
    assert "gdb-multiarch" in (inside.how_to_get or "")


def test_gdb_with_an_old_python_is_not_enough(programs: Path) -> None:
    program(programs, "gdb", GDB.format(python="echo 'python 3 9 2'", known="*"))
    inside = by_name(gdb_rows(NEEDED))["gdb's Python"]
    assert (inside.found, inside.version) == (False, "3.9.2")


def test_gdb_for_the_host_only_is_not_enough(programs: Path) -> None:
    program(programs, "gdb", GDB.format(python=PYTHON_3_11, known="i386:x86-64"))
    rows = by_name(gdb_rows(NEEDED))
    assert rows["gdb's Python"].found
    assert rows["gdb for x86_64"].found
    assert not rows["gdb for ppc64le"].found
    assert rows["gdb for ppc64le"].required
    with pytest.raises(MissingRequirement, match="does not know powerpc:common64") as caught:
        find_gdb(PPC64LE)
    assert "gdb-multiarch" in (caught.value.hint or "")


def test_a_plain_gdb_for_every_processor_is_enough(programs: Path) -> None:
    program(programs, "gdb", GDB.format(python=PYTHON_3_11, known="*"))
    assert all(row.found for row in gdb_rows(NEEDED))
    assert find_gdb() == programs / "gdb"
    program(programs, "gdb-multiarch", "exit 1")
    assert find_gdb() == programs / "gdb-multiarch"


def test_a_gdb_that_does_not_start(programs: Path) -> None:
    program(programs, "gdb", "echo 'error while loading libpython3.11.so' >&2; exit 127")
    rows = by_name(gdb_rows(NEEDED))
    assert not any(row.found for row in rows.values())
    assert rows["gdb"].detail == "error while loading libpython3.11.so"


@pytest.mark.usefixtures("programs")
def test_a_machine_with_nothing_names_every_package() -> None:
    rows = [
        *gdb_rows(NEEDED),
        *qemu_rows(PPC64LE, required=True),
        *accelerator_rows(PPC64LE, required=True),
        compiler_row(PPC64LE, required=True),
        *debian_rows(),
        dot_row(),
    ]
    assert not satisfied(rows)
    assert {package for row in rows if not row.found for package in row.packages} >= {
        *("gdb-multiarch", "qemu-system-ppc", "apt", "dpkg", "graphviz"),
        *("gcc-powerpc64le-linux-gnu", "libc6-dev-ppc64el-cross"),
    }


def test_qemu_without_its_firmware(programs: Path) -> None:
    complaint = "Could not find LPAR firmware 'slof.bin'"
    version = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"
    program(
        programs,
        PPC64LE.qemu,
        f'[ "$*" = --version ] && echo "{version}" && exit\necho "{complaint}" >&2\nexit 1',
    )
    rows = by_name(qemu_rows(PPC64LE, required=True))
    assert rows["QEMU for ppc64le"].version == "7.2.22"
    firmware = rows["firmware for ppc64le"]
    assert not firmware.found
    assert firmware.detail == complaint


def test_a_qemu_that_cannot_start(programs: Path) -> None:
    program(programs, PPC64LE.qemu, "echo 'cannot open libpixman-1.so.0' >&2; exit 127")
    rows = [*qemu_rows(PPC64LE, required=True), *accelerator_rows(PPC64LE, required=True)]
    assert not any(row.found for row in rows)
    assert rows[0].detail == "cannot open libpixman-1.so.0"
    assert "libpixman" in (rows[2].detail or "")


def test_a_compiler_without_a_static_library(programs: Path) -> None:
    complaint = "ld: cannot find -lc: No such file or directory"
    program(
        programs,
        PPC64LE.cross_compiler,
        f"echo '{complaint}' >&2; echo 'collect2: error: ld returned 1 exit status' >&2; exit 1",
    )
    row = compiler_row(PPC64LE, required=True)
    assert not row.found
    assert row.detail == complaint
    assert "libc6-dev-ppc64el-cross" in (row.how_to_get or "")


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory with a path short enough for sockets, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        yield Path(directory)


def test_a_socket_fits_the_runtime_directory(runtime: Path) -> None:
    row = socket_row()
    assert row.found
    assert row.path == str(runtime / "osvtriage")
    assert os.listdir(runtime / "osvtriage") == []


def test_a_directory_that_others_can_read_is_refused(runtime: Path) -> None:
    (runtime / "osvtriage").mkdir(mode=0o755)
    row = socket_row()
    assert not row.found
    assert row.required
    assert str(runtime / "osvtriage") in (row.detail or "")
    assert row.how_to_get
