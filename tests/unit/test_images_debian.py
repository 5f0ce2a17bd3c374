"""What apt says, understood: which mirror, which keys, which packages."""

from __future__ import annotations

import pytest

from osvtriage.images.debian import BUSYBOX_FILE, KERNEL_FILE, dependency_names, parse_show
from osvtriage.images.mirror import Source, choose, parse_index_targets, signed_by

MAIN = Source("file:/m/debian/", "bookworm", "oldstable", "bookworm", "Debian", "Debian", "a:1")
UPDATES = Source(
    "file:/m/debian/", "bookworm-updates", "oldstable-updates", "bookworm-updates", "Debian",
    "Debian", "a:1",
)  # fmt: skip
SECURITY = Source(
    "file:/m/security/", "bookworm-security", "oldstable-security", "bookworm-security", "Debian",
    "Debian-Security", "a:2",
)  # fmt: skip
OTHER = Source("file:/other/", "bookworm", "bookworm", "bookworm", "Other Inc.", "Other", "b:1")
NODISTRO = Source("file:/flat/", "nodistro", "", "", "Flat", "Flat", "c:1")


def unread(source: Source) -> Source:
    return Source(source.uri, source.release, "", "", "", "", source.entry)


def test_the_main_archive_is_chosen() -> None:
    assert choose([OTHER, SECURITY, UPDATES, NODISTRO, MAIN], "bookworm") is MAIN


def test_without_package_lists_the_release_of_the_host_is_chosen() -> None:
    sources = [unread(s) for s in (NODISTRO, SECURITY, UPDATES, MAIN)]
    assert choose(sources, "bookworm") is sources[3]


@pytest.mark.parametrize("sources", [[], [OTHER], [SECURITY, UPDATES], [unread(NODISTRO)]])
def test_a_host_without_a_debian_archive(sources: list[Source]) -> None:
    assert choose(sources, "bookworm") is None


def test_index_targets_are_read() -> None:
    text = (
        "file:/m/debian/|bookworm|oldstable|bookworm|Debian|Debian|/etc/apt/x.sources:1\n"
        "file:/m/debian/|bookworm|$(SUITE)|$(CODENAME)|$(ORIGIN)|$(LABEL)|/etc/apt/y.list:3\n"
        "not such a line\n"
    )
    first, second = parse_index_targets(text)
    assert first.origin == "Debian"
    assert second == Source("file:/m/debian/", "bookworm", "", "", "", "", "/etc/apt/y.list:3")


_SOURCES = """\
# a comment
Types: deb
URIs: file:/m/debian
# another
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQENB
 -----END PGP PUBLIC KEY BLOCK-----
Suites: x

Types: deb
"""


@pytest.mark.parametrize(
    ("text", "entry", "one_line", "expected"),
    [
        (_SOURCES, 1, False, "/usr/share/keyrings/debian-archive-keyring.gpg"),
        (
            _SOURCES,
            2,
            False,
            "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQENB\n"
            " -----END PGP PUBLIC KEY BLOCK-----",
        ),
        (_SOURCES, 3, False, None),
        ("# c\ndeb [arch=amd64 signed-by=/k.gpg] file:/m x main\n", 2, True, "/k.gpg"),
        ("deb file:/m x main\n", 1, True, None),
    ],
)
def test_signed_by_is_found(text: str, entry: int, one_line: bool, expected: str | None) -> None:
    assert signed_by(text, entry, one_line=one_line) == expected


# From Debian unstable, shortened.
_SHOW = """\
Package: linux-image-powerpc64le
Source: linux (7.2.13-1)
Version: 7.2.13-1
Architecture: ppc64el
Depends: linux-base-powerpc64le (= 7.2.13-1), linux-image-7.2.13+deb14-powerpc64le (= 7.2.13-1)
Description: Linux for Little-endian 64-bit PowerPC with 4k pages (meta-package)
 This package depends on the newest
Size: 1668
SHA256: aca0bdf8f433f08e34a65ed1ade3eb9cafca80d44b75d8f11e6e284c3f60cdd9

Package: incomplete
Version: 1
"""


def test_a_package_is_read() -> None:
    (package,) = parse_show(_SHOW)
    assert (package.name, package.version) == ("linux-image-powerpc64le", "7.2.13-1")
    assert (package.source, package.size) == ("linux", 1668)
    assert package.depends == ("linux-base-powerpc64le", "linux-image-7.2.13+deb14-powerpc64le")
    assert list(parse_show("")) == []


def test_dependencies_are_their_first_alternatives() -> None:
    depends = "dracut | initramfs-tools (>= 0.120), kmod:any, linux-base (>= 4.3~) , , ${x}"
    assert list(dependency_names(depends)) == ["dracut", "kmod", "linux-base"]


@pytest.mark.parametrize(
    ("path", "is_kernel"),
    [
        ("./boot/vmlinux-6.1.0-50-powerpc64le", True),
        ("./boot/vmlinuz-6.1.0-50-amd64", True),
        ("./usr/lib/modules/7.2.13+deb14-powerpc64le/vmlinuz", True),
        ("./lib/modules/7.2.13/vmlinux", True),
        ("./boot/System.map-6.1.0-50-powerpc64le", False),
        ("./usr/share/doc/boot/vmlinux-6.1", False),
        ("./boot/vmlinux-6.1/x", False),
    ],
)
def test_where_a_kernel_is_in_a_package(path: str, is_kernel: bool) -> None:
    assert bool(KERNEL_FILE.fullmatch(path)) is is_kernel


def test_where_busybox_is_in_a_package() -> None:
    assert BUSYBOX_FILE.fullmatch("./bin/busybox")
    assert BUSYBOX_FILE.fullmatch("./usr/bin/busybox")
    assert not BUSYBOX_FILE.fullmatch("./usr/share/bin/busybox")
