"""The image manifest: what a guest is made of and how it is started, as data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# Debian Policy 5.6.1. A package name becomes an argument of apt: it must not look like an option.
_PackageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$", max_length=100)]

IMAGE_NAME = r"^[a-z0-9][a-z0-9._+-]*$"
"""A file name on every file system, and nothing that a shell or an option parser takes apart."""

IMAGE_NAME_LENGTH = 64


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DebianPackages(_Table):
    """Where the kernel and the userland come from.

    ``kernel`` may be a metapackage: its dependencies are followed to the package that holds the
    kernel. ``modules`` names modules of that package, which are loaded in the guest in this order
    before the payload starts. With ``glibc``, what programs are built against is fetched as well.
    """

    suite: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=64)]
    kernel: _PackageName
    busybox: _PackageName = "busybox-static"
    modules: tuple[Annotated[str, Field(pattern=r"^[a-z0-9_-]+$", max_length=64)], ...] = ()
    glibc: bool = False


class ImageManifest(_Table):
    """One file of ``images/*.toml``; its ``name`` is the file's name without ``.toml``.

    ``memory`` is in MiB. ``append`` is added to the kernel's command line. The image with
    ``default = true`` lends its userland to kernels of its processor that a user adds.
    """

    schema_: Literal["osvtriage.image/1"] = Field(alias="schema")
    name: Annotated[str, Field(pattern=IMAGE_NAME, max_length=IMAGE_NAME_LENGTH)]
    title: Annotated[str, Field(min_length=1, max_length=200)]
    system: Literal["linux"]
    arch: Literal["ppc64le", "x86_64"]
    debian: DebianPackages
    memory: Annotated[int, Field(ge=64, le=1_048_576)] = 1024
    append: Annotated[str, Field(max_length=1024, pattern=r"^[ -~]*$")] = ""
    default: bool = False

    @property
    def glibc_suite(self) -> str | None:
        """The suite whose glibc programs for this image are linked with, where it has one."""
        return self.debian.suite if self.debian.glibc else None
