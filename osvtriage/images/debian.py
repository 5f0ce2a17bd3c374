"""Debian packages of any suite and processor, fetched with a private apt root.

The host's own sources, architectures and package lists stay as they are, and no root is needed: apt
gets another state, cache and sources list through a configuration file in the cache directory. The
rest of the host's configuration (proxies, credentials, retries) holds, and so do apt's checks of
signatures and sums.
"""

from __future__ import annotations

import contextlib
import heapq
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from osvtriage.images.atomic import disk_full, explained, new_file
from osvtriage.images.mirror import NO_APT, VARIABLE, host_mirror
from osvtriage.images.processes import Done, require, run
from osvtriage.images.progress import Progress
from osvtriage.images.record import Package, file_sha256
from osvtriage.model.errors import ImageError

# `update` takes 2 s on a fast line, for 10 MB; a download is 100 MB at most. The limits are those
# of a line with 0.5 Mbit/s.
_UPDATE_LIMIT = 300.0
_DOWNLOAD_LIMIT = 1800.0
_QUERY_LIMIT = 60.0

# Debian kernels up to 6.x have the file in /boot; from 7 on beside the modules.
KERNEL_FILE = re.compile(r"\./(boot/vmlinu[xz]-[^/]+|(usr/)?lib/modules/[^/]+/vmlinu[xz])")
# Compressed from Debian 13 on.
MODULE_FILE = r"\./(?:usr/)?lib/modules/[^/]+/kernel/(?:[^/]+/)*%s\.ko(?:\.xz)?"
BUSYBOX_FILE = re.compile(r"\./(usr/)?bin/busybox")

# A metapackage leads to the kernel in two steps on every suite seen (sid: meta, image, binary).
_PACKAGES_LOOKED_INTO = 12

_SOURCES = """\
# Written by osvtriage.
Types: deb
URIs: {uri}
Suites: {suite}
Components: main
Architectures: {architecture}
Targets: Packages
{signed_by}"""

# Read after the host's own configuration, which stays in force where this says nothing. The hooks
# are cleared since they work on the host's caches (docker-clean, AppStream). The sandbox user
# cannot enter the cache directory of root, and without root apt has no sandbox anyway. Without the
# package caches, which container images switch off, each look-up takes a second.
_CONFIGURATION = """\
// Written by osvtriage. By hand: apt-get -c {root}/apt.conf …
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "{root}/sources";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "{root}/state";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
"""

_NO_SUITE = re.compile(r"(does not have|no longer has) a Release file")

# (what apt says, what it means, the next step), the most telling first.
_APT_FAILURES = (
    (
        r"NO_PUBKEY|EXPKEYSIG|BADSIG|GPG error|is not signed|not be authenticated",
        "its signature was not accepted",
        "install the newest debian-archive-keyring; nothing unsigned is ever used",
    ),
    (
        r"Temporary failure resolving|Could not resolve|Could not connect|Unable to connect|"
        r"Connection failed|Network is unreachable|timed out|Failed to fetch",
        "the mirror was not reached",
        "check the network and apt's proxy (does `apt-get update` work?), then try again",
    ),
)


Place = Callable[[PurePosixPath], PurePosixPath | None]
"""Where a package's file goes, below a directory; both paths are relative. None: nowhere."""


class SuiteGone(ImageError):
    """The mirror has no such suite, or no longer."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The newest version of a package in the archive. ``size`` is that of the .deb, in bytes."""

    name: str
    version: str
    source: str
    sha256: str
    size: int
    depends: tuple[str, ...]

    @property
    def package(self) -> Package:
        """What the image's record says of it."""
        return Package(self.name, self.version, self.sha256)


class Archive:
    """One suite for one processor, as Debian names it (``ppc64el``). *root* is the private root."""

    def __init__(self, suite: str, architecture: str, root: Path, progress: Progress) -> None:
        self.suite = suite
        self.architecture = architecture
        self._apt_get = require("apt-get", "fetch packages", NO_APT)
        self._apt_cache = require("apt-cache", "look packages up", NO_APT)
        self._dpkg_deb = require("dpkg-deb", "unpack packages", NO_APT)
        self._root = root
        self._progress = progress
        self._configuration = root / "apt.conf"
        self._uri = ""

    def update(self) -> None:
        """Fetch the list of packages."""
        self._progress(f"reading the package list of Debian {self.suite} ({self.architecture})")
        self._write_configuration()
        # Without --error-on=any apt goes on with an old list, or none, and reports success.
        done = self._apt(self._apt_get, "update", "--error-on=any", limit=_UPDATE_LIMIT)
        if done.status != 0:
            raise self._failure("reading the package list failed", done)

    def newest(self, name: str) -> Candidate:
        """The newest version of a package."""
        done = self._apt(self._apt_cache, "show", "--no-all-versions", "--", name)
        candidate = next((c for c in parse_show(done.output) if c.name == name), None)
        if candidate is None:
            raise ImageError(
                f"Debian {self.suite} has no package {name} for {self.architecture}",
                hint="see the names that it has with "
                f"`apt-cache -c {self._configuration} pkgnames {name[:10]}`",
            )
        return candidate

    def fetch_kernel(self, name: str, destination: Path, scratch: Path) -> Candidate:
        """Write the kernel file of package *name* to *destination*; its holder is returned.

        A metapackage is followed to what it depends on of the same source package. Smaller packages
        are looked into first, so that 80 MB of modules are fetched only where all else fails.
        """
        waiting = [(0, name)]
        seen = {name}
        source = None
        for _ in range(_PACKAGES_LOOKED_INTO):
            if not waiting:
                break
            candidate = self.newest(heapq.heappop(waiting)[1])
            source = source or candidate.source
            if self.fetch_file(candidate, KERNEL_FILE, destination, scratch):
                return candidate
            for dependency in candidate.depends:
                if dependency not in seen and (size := self._size_of_related(dependency, source)):
                    seen.add(dependency)
                    heapq.heappush(waiting, (size, dependency))
        raise ImageError(
            f"neither {name} of Debian {self.suite} nor what it depends on holds a kernel; "
            f"looked into {', '.join(sorted(seen))}",
            hint="name the package that holds boot/vmlinux-* in the image's manifest",
        )

    def fetch_file(
        self, candidate: Candidate, wanted: re.Pattern[str], destination: Path, scratch: Path
    ) -> bool:
        """Download a package, and write the file in it whose path is *wanted* to *destination*.

        False where it holds no such file. *scratch* is a directory for the .deb, which stays there:
        the next file of the same package costs no download.
        """
        with self._contents(candidate, scratch) as tar:
            for member in tar:
                if member.isreg() and wanted.fullmatch(member.name):
                    with new_file(destination) as file:
                        _copy(tar, member, file)
                    return True
        return False

    def fetch_tree(
        self, candidate: Candidate, place: Place, directory: Path, scratch: Path
    ) -> None:
        """Download a package, and unpack its files and symbolic links to where *place* puts them.

        *scratch* is a directory for the .deb.
        """
        with self._contents(candidate, scratch) as tar:
            for member in tar:
                if (path := place(PurePosixPath(member.name))) is None:
                    continue
                target = directory / path
                if member.issym():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(member.linkname)
                elif member.isreg():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("xb") as file:
                        _copy(tar, member, file)

    def _size_of_related(self, name: str, source: str) -> int | None:
        try:
            candidate = self.newest(name)
        except ImageError:
            # A virtual package, or one that is for another processor: it holds no kernel.
            return None
        return candidate.size if candidate.source == source else None

    def _download(self, candidate: Candidate, scratch: Path) -> Path:
        """The .deb in *scratch*, downloaded where it was not before."""
        what = f"{candidate.name} {candidate.version}"
        directory = scratch / candidate.sha256
        if directory.is_dir():
            return next(directory.glob("*.deb"))
        directory.mkdir()
        megabytes = candidate.size / 1e6
        self._progress(f"downloading {what} ({megabytes:.1f} MB)")

        def tell() -> None:
            here = sum(path.stat().st_size for path in directory.rglob("*.deb"))
            self._progress(f"downloading {what}: {here / 1e6:.1f} of {megabytes:.1f} MB")

        done = self._apt(
            self._apt_get,
            "download",
            f"{candidate.name}={candidate.version}",
            limit=_DOWNLOAD_LIMIT,
            directory=directory,
            ticking=tell,
        )
        debs = sorted(directory.glob("*.deb"))
        if done.status != 0 or len(debs) != 1:
            raise self._failure(f"downloading {what} failed", done, directory)
        if (seen := file_sha256(debs[0])) != candidate.sha256:
            raise ImageError(
                f"{debs[0].name} has SHA-256 {seen}; the package list says {candidate.sha256}",
                hint="try again: a mirror that is being updated can disagree with its own list",
            )
        return debs[0]

    @contextlib.contextmanager
    def _contents(self, candidate: Candidate, scratch: Path) -> Iterator[tarfile.TarFile]:
        """The files of a package, to be read in their order and as far as is wanted."""
        deb = self._download(candidate, scratch)
        self._progress(f"unpacking {candidate.name} {candidate.version}")
        process = subprocess.Popen(
            [self._dpkg_deb, "--fsys-tarfile", str(deb)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with tarfile.open(fileobj=cast("BinaryIO", process.stdout), mode="r|") as tar:
                yield tar
        except tarfile.TarError as error:
            process.kill()
            said = process.stderr.read().decode(errors="replace").strip()
            raise ImageError(f"cannot unpack {deb.name}: {said or error}") from error
        finally:
            # What is left of the package is not wanted: dpkg-deb need not decompress it.
            process.kill()
            process.stdout.close()
            process.stderr.close()
            process.wait()

    def _apt(
        self,
        program: str,
        *arguments: str,
        limit: float = _QUERY_LIMIT,
        directory: Path | None = None,
        ticking: Callable[[], None] | None = None,
    ) -> Done:
        command = [program, "-q", "-c", str(self._configuration), *arguments]
        return run(command, limit=limit, directory=directory, ticking=ticking)

    def _write_configuration(self) -> None:
        mirror = host_mirror()
        self._uri = mirror.uri
        with explained(self._root):
            for name in ("state/lists/partial", "cache/archives/partial", "sources"):
                (self._root / name).mkdir(parents=True, exist_ok=True)
            (self._root / "status").touch()
        signed_by = f"Signed-By: {mirror.signed_by}\n" if mirror.signed_by else ""
        sources = _SOURCES.format(
            uri=mirror.uri, suite=self.suite, architecture=self.architecture, signed_by=signed_by
        )
        configuration = _CONFIGURATION.format(root=self._root, architecture=self.architecture)
        for name, text in (
            ("sources/debian.sources", sources),
            (self._configuration.name, configuration),
        ):
            with new_file(self._root / name) as file:
                file.write(text.encode())

    def _failure(self, what: str, done: Done, where: Path | None = None) -> ImageError:
        said = done.errors + done.output
        if "No space left on device" in said:
            return disk_full(where or self._root)
        archive = f"Debian {self.suite} ({self.architecture}) from {self._uri}"
        if _NO_SUITE.search(said):
            return SuiteGone(
                f"{archive}: {what}: the mirror does not have this suite\n{done.last_words()}",
                f"Debian takes old suites off its mirrors: set {VARIABLE} to its archive of old "
                "releases, or use another image (`osvtriage images list`)",
            )
        for pattern, reason, hint in _APT_FAILURES:
            if re.search(pattern, said):
                return ImageError(f"{archive}: {what}: {reason}\n{done.last_words()}", hint)
        return ImageError(f"{archive}: {what}\n{done.last_words()}", "see apt's words above")


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, file: BinaryIO) -> None:
    contents = tar.extractfile(member)
    assert contents is not None
    shutil.copyfileobj(contents, file, 1 << 20)


def parse_show(text: str) -> Iterator[Candidate]:
    """The packages in the output of ``apt-cache show``; incomplete stanzas are left out."""
    for stanza in re.split(r"\n\s*\n", text.strip()):
        fields: dict[str, str] = dict(re.findall(r"(?m)^([A-Za-z0-9-]+): *(.*)$", stanza))
        if {"Package", "Version", "SHA256", "Size"} <= fields.keys():
            yield Candidate(
                fields["Package"],
                fields["Version"],
                fields.get("Source", fields["Package"]).partition(" ")[0],
                fields["SHA256"],
                int(fields["Size"]),
                tuple(dependency_names(fields.get("Depends", ""))),
            )


def dependency_names(depends: str) -> Iterator[str]:
    """The first alternative of each dependency in a Depends field, without its conditions."""
    for clause in depends.split(","):
        if found := re.match(r"\s*([a-z0-9][a-z0-9+.-]+)", clause):
            yield found[1]
