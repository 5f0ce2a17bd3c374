"""Which Debian mirror, and which signing keys: read from the host's own apt configuration.

No mirror is named anywhere in osvtriage: what the administrator of the machine chose (a proxy, a
mirror inside the firewall) is what serves images as well. ``OSVTRIAGE_DEBIAN_MIRROR`` overrides it,
for machines that are not Debian and for suites that have moved to Debian's archive of old releases.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from osvtriage.images.processes import require, run
from osvtriage.model.errors import ImageError

VARIABLE = "OSVTRIAGE_DEBIAN_MIRROR"

# Where the package debian-archive-keyring puts the keys of all releases (.pgp from Debian 13 on).
_KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
)

# Reading the host's package lists was never seen to take a second.
_LIMIT = 60.0

_FIELDS = ("REPO_URI", "RELEASE", "SUITE", "CODENAME", "ORIGIN", "LABEL", "SOURCESENTRY")

NO_APT = (
    "images are made from Debian's packages: run this on Debian or in a Debian container, or add "
    "a kernel of your own with `osvtriage images add` to an image that was made there"
)


@dataclass(frozen=True, slots=True)
class Mirror:
    """A Debian mirror; ``signed_by`` is the value of the Signed-By field, if any."""

    uri: str
    signed_by: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """One of the package indexes that the host's apt is configured to use.

    All but ``uri``, ``release`` and ``entry`` are empty until the host has run ``apt-get update``.
    """

    uri: str
    release: str
    suite: str
    codename: str
    origin: str
    label: str
    entry: str


def host_mirror() -> Mirror:
    """The Debian mirror that this machine uses."""
    if override := os.environ.get(VARIABLE):
        return Mirror(override, _archive_keyring())
    apt_get = require("apt-get", "find a Debian mirror", NO_APT)
    form = "|".join(f"$({field})" for field in _FIELDS)
    done = run([apt_get, "indextargets", "--format", form, "Created-By: Packages"], limit=_LIMIT)
    if done.status != 0:
        raise ImageError(
            f"apt does not tell which mirror this machine uses:\n{done.last_words()}",
            hint=f"mend apt's configuration, or set {VARIABLE} to the URI of a Debian mirror",
        )
    source = choose(parse_index_targets(done.output), host_codename())
    if source is None:
        raise ImageError(
            "the apt configuration of this machine names no Debian archive",
            hint=f"run `apt-get update` if it should, or set {VARIABLE} to a Debian mirror's URI",
        )
    return Mirror(source.uri, _signed_by(source.entry) or _archive_keyring())


def parse_index_targets(text: str) -> list[Source]:
    """The sources in the output of ``apt-get indextargets`` with this module's format."""
    sources = []
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) == len(_FIELDS):
            # apt leaves the name of a field standing where it has no value.
            sources.append(Source(*("" if field.startswith("$(") else field for field in fields)))
    return sources


def choose(sources: Iterable[Source], host_codename: str) -> Source | None:
    """The source for Debian's main archive, which carries every suite under the same URI.

    ``bookworm-security`` and its like have a hyphen, and may be on another URI. Before the first
    ``apt-get update`` origins are unknown, and the host's own release is taken; were it somebody
    else's archive, the signature check would refuse it.
    """
    plain = [source for source in sources if not re.search(r"[-/]", source.release)]
    for source in plain:
        if source.origin == "Debian" and source.label == "Debian":
            return source
    return next((s for s in plain if not s.origin and s.release == host_codename), None)


def signed_by(text: str, entry: int, *, one_line: bool) -> str | None:
    """The Signed-By of one entry of a sources file, in a form that fits a ``.sources`` file.

    *entry* counts lines in the one-line format and stanzas in deb822, from 1, as apt's
    ``Sourcesentry`` does. A key may be written out in place, over several lines.
    """
    if one_line:
        lines = text.splitlines()
        found = re.search(r"\[[^]]*\bsigned-by=([^]\s]+)", lines[entry - 1]) if lines else None
        return found[1].replace(",", " ") if found else None
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    stanzas = [s for s in re.split(r"\n[ \t]*\n", "\n".join(lines)) if s.strip()]
    value = re.search(r"(?im)^signed-by:[ \t]*(.*(?:\n[ \t].*)*)", stanzas[entry - 1])
    return value[1].rstrip() if value and value[1].strip() else None


def _signed_by(entry: str) -> str | None:
    """The Signed-By of the host's source at *entry* (``FILE:NUMBER``)."""
    name, _, number = entry.rpartition(":")
    try:
        text = Path(name).read_text(encoding="utf-8", errors="replace")
        return signed_by(text, int(number), one_line=not name.endswith(".sources"))
    except (OSError, ValueError, IndexError):
        return None


def _archive_keyring() -> str | None:
    """Debian's keyring; without it apt uses the keys that the host trusts for everything."""
    return next((str(path) for path in _KEYRINGS if path.exists()), None)


def host_codename() -> str:
    """The host's own Debian release, such as ``bookworm``; empty where it is none."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r'(?m)^VERSION_CODENAME="?([a-z]+)"?$', text)
    return found[1] if found else ""
