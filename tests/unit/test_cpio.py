"""The newc writer, against a reader that was written from the format's description."""

from __future__ import annotations

import stat
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.images.cpio import Entry, archive, character_device, directory, regular, symlink


@dataclass(frozen=True)
class Header:
    inode: int
    mode: int
    uid: int
    gid: int
    links: int
    mtime: int
    size: int
    device: tuple[int, int]
    rdevice: tuple[int, int]
    name_size: int
    check: int


def read(data: bytes) -> list[tuple[str, Header, bytes]]:
    """The entries of one newc archive and of those appended to it."""
    found = []
    at = 0
    while at < len(data):
        if data[at] == 0:
            at += 4
            continue
        assert data[at : at + 6] == b"070701"
        assert at % 4 == 0
        f = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        header = Header(*f[:7], (f[7], f[8]), (f[9], f[10]), f[11], f[12])
        name = data[at + 110 : at + 110 + header.name_size]
        assert name[-1:] == b"\0"
        at = at + 110 + header.name_size + -(at + 110 + header.name_size) % 4
        contents = data[at : at + header.size]
        assert len(contents) == header.size
        at += header.size + -header.size % 4
        found.append((name[:-1].decode(), header, contents))
    return found


def test_each_kind_of_entry() -> None:
    entries = read(
        archive(
            [
                directory("dev"),
                character_device("dev/console", 5, 1),
                regular("bin/busybox", b"\x7fELF\0", 0o755),
                symlink("bin/sh", "busybox"),
            ]
        )
    )
    names = [name for name, _, _ in entries]
    assert names == ["dev", "dev/console", "bin/busybox", "bin/sh", "TRAILER!!!"]
    headers = {name: header for name, header, _ in entries}
    assert headers["dev"].mode == stat.S_IFDIR | 0o755
    assert headers["dev/console"].mode == stat.S_IFCHR | 0o600
    assert headers["dev/console"].rdevice == (5, 1)
    assert headers["bin/busybox"].mode == stat.S_IFREG | 0o755
    assert headers["bin/sh"].mode == stat.S_IFLNK | 0o777
    assert {name: data for name, _, data in entries}["bin/sh"] == b"busybox"
    assert all(h.mtime == h.uid == h.gid == 0 for h in headers.values())
    assert [h.inode for _, h, _ in entries] == [1, 2, 3, 4, 0]


_PATHS = st.lists(
    st.text("abcäé ._-", min_size=1).filter(lambda part: part not in (".", "..")), min_size=1
).map("/".join)


@given(st.lists(st.tuples(_PATHS, st.binary(max_size=50))))
def test_what_was_written_is_read_back(files: list[tuple[str, bytes]]) -> None:
    data = archive(regular(path, contents) for path, contents in files)
    *entries, trailer = read(data)
    assert [(name, contents) for name, _, contents in entries] == files
    assert trailer[0] == "TRAILER!!!"
    assert len(data) % 512 == 0


def test_an_archive_can_be_appended_to_another() -> None:
    both = archive([regular("init", b"1")]) + archive([regular("payload", b"2")])
    assert [name for name, _, _ in read(both)] == ["init", "TRAILER!!!", "payload", "TRAILER!!!"]


def test_the_same_entries_give_the_same_bytes() -> None:
    entries = [directory("bin"), regular("bin/x", b"data")]
    assert archive(entries) == archive(entries)


@pytest.mark.parametrize("path", ["/etc", "../x", "a//b", "a/./b", "", "a\0b", "TRAILER!!!"])
def test_a_path_that_leaves_the_archive_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="archive"):
        archive([Entry(path, stat.S_IFREG | 0o644)])
