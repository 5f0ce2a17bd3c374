"""Places of their own for tests that run osvtriage whole."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import IMAGE, Command, Places, share_images, write_recipe

from osvtriage.arch import PPC64LE, X86_64
from osvtriage.guest.programs import find_plugin_qemu
from osvtriage.images.places import cache_directory
from osvtriage.images.store import ImageStore
from osvtriage.symbols.elf import ElfImage

# PowerISA, "Branch I-form" with a displacement of 0, and "Trap Word": `b .` and `trap`.
BRANCH_HERE, TRAP = 0x48000000, 0x7FE00008


@pytest.fixture(scope="session", autouse=True)
def signals_as_from_a_terminal() -> None:
    """What a background job or nohup(1) is told to ignore, its children would ignore as well."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the user's image in it, and what the tests' runs compile and patch."""
    ImageStore().ensure(IMAGE)
    cache = tmp_path_factory.mktemp("cache")
    share_images(cache_directory(), cache)
    return cache


def altered_kernel(path: Path, function: str, word: int) -> Path:
    """A copy of the image's kernel with another instruction where *function* is entered."""
    shutil.copyfile(ImageStore().get(IMAGE).kernel, path)
    with ElfImage(path, PPC64LE) as elf, path.open("r+b") as file:
        file.seek(elf.file_offset(elf.symbol(function).entry, 4))
        file.write(word.to_bytes(4, "little"))
    return path


@pytest.fixture(scope="session")
def plugin_qemu() -> Path:
    """A QEMU for x86-64 that the plugin engine can use: the host's, or one in the user's cache."""
    command = [sys.executable, "-m", "osvtriage", "doctor", "--fetch-qemu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    if "there is no backport of QEMU for this machine" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    found = find_plugin_qemu(X86_64).path
    assert found is not None
    return found


@pytest.fixture
def places(shared_cache: Path, tmp_path: Path) -> Iterator[Places]:
    """Directories of the test's own; what is left running in them fails the test."""
    with tempfile.TemporaryDirectory(prefix="ot-", dir="/tmp") as runtime:
        os.chmod(runtime, 0o700)
        (tmp_path / "runs").mkdir()
        made = Places(shared_cache, tmp_path / "runs", Path(runtime))
        yield made
        assert made.kill_all() == []


@pytest.fixture
def command(places: Places, tmp_path: Path) -> Callable[..., Command]:
    """Start osvtriage with arguments; several in one test do not share their outputs."""
    numbers = itertools.count()

    def start(*arguments: str | Path, **more: object) -> Command:
        scratch = tmp_path / f"command-{next(numbers)}"
        scratch.mkdir()
        return Command(places, scratch, *arguments, **more)

    return start


@pytest.fixture
def trimmed(tmp_path: Path) -> Path:
    """A recipe that gives its verdict after one process of the workload."""
    return write_recipe(tmp_path / "trimmed.toml")


@pytest.fixture(scope="session")
def kernel(shared_cache: Path) -> Path:
    """The image's kernel. It is the user's own: only to be read."""
    return ImageStore().get(IMAGE).kernel


@pytest.fixture(scope="session")
def dying_kernel(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's kernel with a trap before its first thread: it dies, and says so."""
    return altered_kernel(tmp_path_factory.mktemp("kernel") / "dying", "rest_init", TRAP)


@pytest.fixture(scope="session")
def hanging_kernel(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's kernel with `b .` where its C code begins: it is started, and does no more."""
    return altered_kernel(
        tmp_path_factory.mktemp("kernel") / "hanging", "start_kernel", BRANCH_HERE
    )
