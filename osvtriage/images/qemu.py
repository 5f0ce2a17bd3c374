"""A QEMU whose plugins can read registers, for hosts whose own is too old: Debian's backport.

Kept in the cache (see :mod:`osvtriage.images.results`)::

    qemu/SUITE-ARCHITECTURE/VERSION-SUM/
        usr/bin/qemu-system-*
        qemu.json                        what it was made of

Fetched as images are, with a private apt root: nothing is installed on the host. It runs with the
host's firmware files and libraries, those that the host's own QEMU of the same release needs.
"""

from __future__ import annotations

import json
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from osvtriage.arch import ARCHES, Arch
from osvtriage.images import suites
from osvtriage.images.atomic import PREFIX, new_directory, sweep
from osvtriage.images.debian import Archive, Candidate
from osvtriage.images.mirror import host_codename
from osvtriage.images.places import cache_directory
from osvtriage.images.processes import install_command, run
from osvtriage.images.progress import Progress, silent
from osvtriage.images.results import Results
from osvtriage.model.errors import ImageError, MissingRequirement

_RECORD, _SCHEMA = "qemu.json", "osvtriage.qemu/1"
# `QEMU --version` starts and ends in 0.1 s; a machine that is swapping may take a hundredfold.
_LIMIT = 30.0

# Debian's releases whose own QEMU is older than version 9, and whose backports have a newer one.
_BACKPORTS = {"bookworm": "bookworm-backports"}


def fetched(arch: Arch) -> Path | None:
    """The emulator of guests of *arch* that was fetched, if one was."""
    if (suite := _BACKPORTS.get(host_codename())) is None or (host := _host()) is None:
        return None
    if (root := _results(suite, host).current) is None:
        return None
    program = root / "usr" / "bin" / arch.qemu
    return program if program.is_file() else None


def fetch(progress: Progress = silent) -> tuple[Path, str]:
    """Fetch the emulators of all processors that guests run on.

    Returns:
        The directory they are in, and their version. Where the newest is there already, nothing is
        downloaded.

    Raises:
        ImageError: this host's release has no such backport.
        MissingRequirement: the host lacks libraries that it needs.
    """
    codename, host = host_codename(), _host()
    suite = _BACKPORTS.get(codename)
    if suite is None or host is None:
        raise ImageError(
            f"there is no backport of QEMU for this machine ({codename or 'not Debian'}, "
            f"{platform.machine()}): those of {', '.join(_BACKPORTS)} are known",
            "Debian 13 and later have a QEMU that is new enough; --qemu takes any other build",
        )
    with suites.opened(suite, host, progress) as archive:
        packages = _packages(archive)
        results = _results(suite, host)
        made_of = {package.name: package.sha256 for package in packages}
        result = results.place(packages[0].version, made_of)
        if result != results.current or not result.is_dir():
            sweep(results.directory)
            with new_directory(result) as root:
                _fill(root, archive, packages)
                record = {"schema": _SCHEMA, "packages": [asdict(p.package) for p in packages]}
                (root / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            results.publish(result)
    return result / "usr" / "bin", packages[0].version


def _packages(archive: Archive) -> list[Candidate]:
    names = dict.fromkeys(arch.qemu_package for arch in ARCHES.values())
    return [archive.newest(name) for name in names]


def _results(suite: str, host: Arch) -> Results:
    return Results(cache_directory() / "qemu" / f"{suite}-{host.debian}")


def _host() -> Arch | None:
    return next((arch for arch in ARCHES.values() if arch.name == platform.machine()), None)


def _fill(root: Path, archive: Archive, packages: list[Candidate]) -> None:
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}deb-", dir=root) as scratch:
        for package in packages:
            archive.fetch_tree(package, emulator_place, root, Path(scratch))
    for arch in ARCHES.values():
        program = root / "usr" / "bin" / arch.qemu
        program.chmod(0o755)
        done = run([str(program), "--version"], limit=_LIMIT)
        if done.status != 0:
            raise MissingRequirement(
                f"{program.name} of the backport does not start on this machine:\n"
                + done.last_words(),
                "install the release's own QEMU, which brings the libraries and the firmware: "
                + install_command((arch.qemu_package,)),
            )


def emulator_place(path: PurePosixPath) -> PurePosixPath | None:
    """Where a file of a package of QEMU's goes: the emulators, and nothing else."""
    wanted = {arch.qemu for arch in ARCHES.values()}
    return path if str(path.parent) == "usr/bin" and path.name in wanted else None
