"""A disk image is refused with a reason before a guest is started with it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import osv_files
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.images.disk import check_disk
from osvtriage.images.record import Disk
from osvtriage.model.errors import ImageError


def refusal(path: Path, data: bytes) -> ImageError:
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        check_disk(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("data", "format_"),
    [
        (osv_files.disk(), "raw"),
        (osv_files.partitioned(1, 3, 4), "raw"),
        (osv_files.qcow2(), "qcow2"),
        (osv_files.qcow2(version=2), "qcow2"),
        # A cluster that is all zeros takes no place, and a compressed one may end anywhere.
        (osv_files.qcow2(data_cluster=1), "qcow2"),
        (osv_files.qcow2(data_cluster=1 << 62 | 1 << 61 | 2047), "qcow2"),
    ],
)
def test_a_disk_that_passes(tmp_path: Path, data: bytes, format_: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(data)
    assert check_disk(path) == Disk(path, format_, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"hello\n", "is not a raw or qcow2 disk image (a raw one has the boot signature 55 aa"),
        (bytes(4096), "is not a raw or qcow2 disk image"),
        (osv_files.loader(), "is not a raw or qcow2 disk image but an ELF file"),
        (b"\x1f\x8b\x08" + bytes(600), "but gzip-compressed data"),
        (b"KDMV" + bytes(600), "but a VMDK disk image"),
        (bytes(510) + b"\x55\xaa\0\0HdrS" + bytes(600), "but a compressed boot image"),
        (osv_files.qcow2(version=1), "is not a qcow2 disk image of version 2 or 3"),
        (osv_files.qcow2(cluster_bits=40), "is not a qcow2 disk image of version 2 or 3"),
        (osv_files.qcow2(backing=104), "is not whole by itself"),
        (osv_files.qcow2(features=1 << 2), "is not whole by itself"),
        (osv_files.qcow2(features=1 << 1), "is marked as corrupt"),
    ],
)
def test_a_file_that_is_no_usable_disk(tmp_path: Path, data: bytes, what: str) -> None:
    assert what in str(refusal(tmp_path / "disk", data))


def test_a_format_that_another_program_reads_can_be_converted(tmp_path: Path) -> None:
    error = refusal(tmp_path / "disk", b"conectix" + bytes(600))
    assert "qemu-img convert" in str(error.hint)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (osv_files.partitioned(1, 4, 4), "its partition 2 ends at byte 2560, the file has 2048"),
        (osv_files.qcow2()[:60], "it ends in its qcow2 header"),
        (osv_files.qcow2()[:516], "it refers to byte 520, the file has 516"),
        (osv_files.qcow2()[: 2 * 512], "it refers to byte 1536, the file has 1024"),
        (osv_files.qcow2()[: 3 * 512], "it refers to byte 1537, the file has 1536"),
        (osv_files.qcow2(data_cluster=1 << 62 | 2048), "it refers to byte 2049"),
    ],
)
def test_a_disk_that_is_cut_short(tmp_path: Path, data: bytes, what: str) -> None:
    assert f"is cut short: {what}" in str(refusal(tmp_path / "disk", data))


@given(st.binary(max_size=200), st.integers(0, 1600))
def test_a_damaged_qcow2_is_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    data = bytearray(osv_files.qcow2())
    data[at : at + len(noise)] = noise
    path = tmp_path_factory.mktemp("noise") / "disk"
    path.write_bytes(data)
    try:
        check_disk(path)
    except ImageError:
        pass


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot read the disk .*: No such file"):
        check_disk(tmp_path / "none")
    with pytest.raises(ImageError, match=r"the disk .* is not a regular file"):
        check_disk(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match=r"the disk .* is not a regular file"):
        check_disk(tmp_path / "pipe")
    assert "is empty" in str(refusal(tmp_path / "empty", b""))
