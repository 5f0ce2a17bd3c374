"""`osvtriage gdb` in a pseudo-terminal: it stops where it should, shows what the guest holds, and
leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import osv_specimen
import pexpect
import pytest
import session_stacks
from harness import LIMIT, OSVTRIAGE, Command, Places, until
from pygdbmi import gdbmiparser
from terminal import PROMPT, Outside, Terminal

from osvtriage.arch import X86_64
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.layouts import LAYOUTS
from osvtriage.systems.osv import THREAD_MAP

Start = Callable[..., Command]
Session = Callable[..., Terminal]

SETUP = "setup_large_syscall_stack"


@pytest.fixture(scope="session")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The specimen's kernel."""
    return osv_specimen.build(tmp_path_factory.mktemp("specimen"))


@pytest.fixture
def osv(command: Start, places: Places, specimen: Path) -> Session:
    """Start a session of osv-syscall-fpu on the specimen."""

    def start(variant: str, *options: str, append: str = "--threads=8") -> Terminal:
        added = ["images", "add", "specimen", "--system", "osv", "--kernel", specimen]
        done = command(*added, "--append", append).wait()
        assert done.status == 0, done.err
        image = ["--image", "specimen"]
        return Terminal(places, "osv-syscall-fpu", "--variant", variant, *image, *options)

    return start


@pytest.fixture
def outside(places: Places) -> Iterator[Callable[[], Outside]]:
    """A look into the guest past osvtriage."""
    opened: list[Outside] = []

    def look() -> Outside:
        opened.append(Outside(places))
        return opened[-1]

    yield look
    for one in opened:
        one.close()


def test_osv_is_stopped_at_the_finding_and_shows_what_it_holds(
    osv: Session, outside: Callable[[], Outside], places: Places, specimen: Path
) -> None:
    session = osv("specimen-xmm0")
    told = session.until_prompt()
    assert f"Finding: xmm0 changed in {SETUP}" in told
    qemu = outside()
    assert not qemu.is_running()

    pc = qemu.register("RIP")
    status = session.run("ot status")
    assert f"probe {SETUP}, exit" in status
    name = re.search(r"vCPU 0 \*  (\S+), in", status)
    assert name is not None
    assert session.run("ot bt").startswith(f"#0  0x{pc} {name[1]}")

    fpu = dict(re.findall(r"^(\w+) +([0-9a-f ]+)$", session.run("ot fpu"), re.M))
    # The lower half, the second, is xmm0.
    assert qemu.register("YMM00").split() == [*fpu["ymm0h"].split(), *fpu["xmm0"].split()]
    finding = session.run("ot finding")
    assert f"seen     {fpu['xmm0'].replace(' ', '')}" in finding
    # The control: what the entry held is not what there is now.
    wanted = re.search(r"xmm0 +expected ([0-9a-f]+)", finding)
    assert wanted is not None
    assert wanted[1] != fpu["xmm0"].replace(" ", "")

    listed = session.run("ot threads")
    probes = session.run("ot probes")
    assert re.search(rf"^{SETUP} +[1-9] +yes", probes, re.M)
    assert "syscall_entry+" in probes

    threads = re.findall(r"^(\d+) +(.+?) +(\d+|-) +(\w+) +0x([0-9a-f]+)", listed, re.M)
    with ElfImage(specimen, X86_64) as elf:
        count = elf.symbol(THREAD_MAP).address + 24
    assert len(threads) == int.from_bytes(qemu.memory(count, 8), "little") > 2

    with ElfImage(specimen, X86_64) as elf:
        plan = LAYOUTS["osv"](elf).threads
    assert plan is not None
    asleep = next(row for row in threads if row[3] == "waiting")
    rows = session_stacks.shown(session, asleep[0])
    begin, end = session_stacks.bounds(rows)
    assert begin == qemu.word(int(asleep[4], 16) + plan.offsets["stack.begin"])
    assert end - begin == qemu.word(int(asleep[4], 16) + plan.offsets["stack.size"])
    assert session_stacks.in_use(rows) == qemu.word(int(asleep[4], 16) + plan.offsets["state.sp"])
    session_stacks.require_true(rows, qemu, marked=False)
    # The thread that runs is in its first system call.
    rows = session_stacks.shown(session)
    assert rows["stack pointer"] == f"0x{qemu.register('RSP')}, on another stack"
    assert "system calls" in rows
    assert "no thread 999" in session.run("ot stack 999")

    status, _ = session.quit()
    assert status == 0
    record = session.record()
    assert record["verdict"] == "reproduced"
    assert record["findings"][0]["title"] == f"xmm0 changed in {SETUP}"
    places.assert_clean()


@pytest.fixture
def running(osv: Session, outside: Callable[[], Outside]) -> tuple[Terminal, Outside]:
    """A session whose guest runs, and does not end by itself."""
    session = osv("specimen-fixed", "--stop-at", "crash", append="--threads=2 --forever")
    session.until("Running until crash")
    qemu = outside()
    until(qemu.is_running, "the guest runs")
    return session, qemu


def test_ctrl_c_stops_the_guest_and_not_osvtriage(
    running: tuple[Terminal, Outside], places: Places
) -> None:
    session, qemu = running
    session.ctrl_c()
    assert "SIGINT" in session.until_prompt()
    assert not qemu.is_running()
    assert "stops at  crash" in session.run("ot status")
    # And again, as often as one likes.
    session.child.sendline("continue")
    until(qemu.is_running, "the guest runs again")
    session.ctrl_c()
    assert "SIGINT" in session.until_prompt()
    # At the prompt it is readline's, and gdb's: nothing ends.
    session.ctrl_c()
    session.until_prompt()
    assert session.quit()[0] == 0
    assert session.record()["verdict"] == "inconclusive"
    assert "worked in the guest" in session.record()["reason"]
    places.assert_clean()


@pytest.mark.parametrize(
    ("ends", "stopped"),
    [
        *(("qemu", True), ("qemu", False), ("gdb", False), ("osvtriage", True)),
        *(("osvtriage", False), ("supervisor", True), ("terminal", True), ("terminal", False)),
        ("asked", True),
    ],
    ids=lambda value: value if isinstance(value, str) else "at-the-prompt" if value else "running",
)
def test_whoever_ends_takes_everything_along(
    running: tuple[Terminal, Outside], places: Places, ends: str, stopped: bool
) -> None:
    session, _ = running
    if stopped:
        session.ctrl_c()
        session.until_prompt()
    match ends:
        case "qemu":
            os.kill(places.process("qemu"), signal.SIGKILL)
            if not stopped:
                session.until_prompt()
            assert "ended" in session.run("ot status")
            assert session.quit()[0] == 128
        case "gdb":
            os.kill(places.process("gdb"), signal.SIGKILL)
            status, said = session.wait()
            assert status == 128
            assert "gdb was ended by signal 9" in said
        case "osvtriage":
            os.kill(session.child.pid, signal.SIGKILL)
            session.wait()
        case "supervisor":
            os.kill(places.supervisor(), signal.SIGKILL)
            session.wait()
        case "terminal":
            session.hang_up()
        case "asked":
            os.kill(session.child.pid, signal.SIGTERM)
            session.wait()
    places.assert_gone()
    until(lambda: not places.sockets() or ends in ("osvtriage", "supervisor"), "no socket is left")


@pytest.mark.parametrize("phase", ["boot: ", "gdb: stops at", "Running until"])
def test_ctrl_c_while_gdb_begins_ends_the_session_or_gives_the_prompt(
    osv: Session, places: Places, phase: str
) -> None:
    session = osv("specimen-fixed", "--stop-at", "crash", append="--threads=2 --forever")
    session.until(phase)
    session.ctrl_c()
    # Where it comes to is the machine's choice; that it is one of the two is not.
    if session.child.expect([pexpect.EOF, PROMPT]) == 1:
        assert "crash" in session.run("ot status")
        session.child.sendline("quit")
    status, said = session.wait()
    assert status in (0, 130), said
    assert "defect" not in said
    places.assert_clean()


def test_ctrl_c_before_gdb_has_the_terminal_ends_osvtriage(places: Places) -> None:
    session = Terminal(places, "ppc64le-save-fpu")
    session.until("boot: ")
    until(lambda: "qemu" in "".join(places.processes().values()), "QEMU")
    session.ctrl_c()
    status, said = session.wait()
    assert status == 130
    assert "interrupted" in said
    places.assert_clean()


def test_ppc64le_is_stopped_at_the_finding_and_shows_what_it_holds(
    places: Places, outside: Callable[[], Outside], trimmed: Path
) -> None:
    session = Terminal(places, trimmed, "--variant", "reverted")
    told = session.until_prompt()
    assert "Finding: vs0 now holds the FPSCR after watched" in told
    qemu = outside()

    backtrace = session.run("ot bt")
    assert backtrace.startswith(f"#0  0x{qemu.register('NIP')} ")
    assert "copy_process+" in backtrace
    entered = re.search(r"^#(\d+) +0x([0-9a-f]+) == system call", backtrace, re.M)
    assert entered is not None
    # pt_regs, by its place: the marker is at the frame's beginning, the registers behind it.
    registers = dict(re.findall(r"(\w+) +([0-9a-f]{16})", session.run("ot regs")))
    assert registers["nip"] == entered[2]
    assert int(registers["msr"], 16) & 1 << 14, "from user mode"

    # GPR1 is the stack pointer; every stack is aligned to its size.
    rows = session_stacks.shown(session)
    sp, (begin, end) = int(qemu.register("GPR00").split()[1], 16), session_stacks.bounds(rows)
    assert session_stacks.in_use(rows) == sp
    assert begin == sp & -(end - begin)
    session_stacks.require_true(rows, qemu, marked=True)
    # The negative control: a task that sleeps is on another, of which all of this is true as well.
    init = session_stacks.shown(session, "1")
    assert session_stacks.bounds(init) != (begin, end)
    session_stacks.in_use(init)
    session_stacks.require_true(init, qemu, marked=True)

    fpu = dict(re.findall(r"^(\w+) +([0-9a-f ]+)$", session.run("ot fpu"), re.M))
    for number in (0, 4, 28):
        # Four registers a line.
        there = [fpu[f"vs{number + more}"].split()[0] for more in range(4)]
        assert there == qemu.register(f"FPR{number:02d}").split()
    fpscr = qemu.register("FPSCR")
    assert int(fpu["vs0"].split()[0], 16) == int(fpscr, 16) == int(fpu["fpscr"], 16)

    session.run("ot fpu save here")
    assert session.run("ot fpu diff here") == "No register differs.\n"
    session.run("set $f1 = 2.5")
    changed = session.run("ot fpu diff here")
    assert changed.startswith("vs1 ")
    assert "4004000000000000" in changed
    assert session.quit()[0] == 0
    assert session.record()["verdict"] == "reproduced"
    places.assert_clean()


def test_a_clean_guest_ends_without_a_finding(places: Places, trimmed: Path) -> None:
    session = Terminal(places, trimmed)
    told = session.until_prompt()
    assert "Finding" not in told
    assert "powered off" in session.run("ot status")
    assert session.run("ot finding") == "No finding so far.\n"
    assert "has gone" in session.run("ot bt")
    assert session.quit()[0] == 0
    assert session.record()["verdict"] == "inconclusive"
    places.assert_clean()


def test_the_console_is_shown_and_typed_into(places: Places, trimmed: Path) -> None:
    session = Terminal(places, trimmed, "--stop-at", "boot")
    told = session.until_prompt()
    assert "has booted" in told
    console = Terminal(places, command="console")
    console.until("osvtriage: ready")
    # The guest's terminal echoes what is typed into it, once it runs.
    console.child.send("typed-by-a-person")
    session.child.sendline("continue")
    console.until("typed-by-a-person")
    # The end of the guest's workload, and so of what it prints.
    console.until("osvtriage: end ")
    session.until_prompt()
    console.child.send("\x1d")
    assert console.wait()[0] == 0
    assert session.quit()[0] == 0
    places.assert_clean()


def test_a_snapshot_brings_the_guest_back_and_the_clobber_is_found_from_there(
    osv: Session, outside: Callable[[], Outside], places: Places
) -> None:
    session = osv("specimen-xmm0", "--stop-at", f"{SETUP}:entry")
    assert f"Stopped: probe {SETUP}, entry" in session.until_prompt()
    qemu = outside()
    pc, xmm0 = qemu.register("RIP"), qemu.register("YMM00")
    assert "kept as here" in session.run("ot snapshot save here")
    probes = session.run("ot probes")

    found = session.run("ot find-clobber xmm0")
    assert xmm0.split()[2:] == [re.findall(r"was (\w{16})(\w{16})", found)[0][at] for at in (0, 1)]
    assert qemu.register("YMM00") != xmm0
    assert re.search(r"=>|0x[0-9a-f]+ <\w+\+\d+>:\s+\w+", found)
    # The specimen's allocator is where the clobber is, called by the setup.
    assert SETUP in found

    session.run("ot snapshot load here")
    assert (qemu.register("RIP"), qemu.register("YMM00")) == (pc, xmm0)
    assert session.run("ot probes") == probes
    # The guest goes on from there, and its probe sees the passage's end.
    assert "Stopped: probe" in session.run("continue")

    session.run(f"break *0x{pc}")
    session.run("break *0x{pc}+1".replace("{pc}", pc))
    draft = places.runs.parent / "draft.toml"
    exported = session.run(f"ot export {draft}")
    assert "1 probes" in exported
    assert "left out: syscall_entry+" in exported
    assert f'call = {{ to = "{SETUP}", inside = ["syscall_entry"] }}' in draft.read_text()

    assert "no snapshot nothing" in session.run("ot snapshot load nothing")
    assert "cannot be read" in session.run("ot list 0xffff888812345678")
    assert session.quit()[0] == 0
    places.assert_clean()


def test_a_run_is_repeated_with_the_files_of_its_record(
    osv: Session, command: Start, places: Places
) -> None:
    # Has the specimen added.
    first = osv("specimen-xmm0", "--stop-at", "boot")
    first.until_prompt()
    first.quit()
    run = ["run", "osv-syscall-fpu", "--variant", "specimen-xmm0", "--image", "specimen"]
    done = command(*run).wait()
    assert done.directory is not None
    again = Terminal(places, "--record", done.directory)
    assert f"Finding: xmm0 changed in {SETUP}" in again.until_prompt()
    assert again.quit()[0] == 0
    kernel = again.record()["image"]["kernel_sha256"]
    assert kernel == done.record["image"]["kernel_sha256"]

    # The negative control: a record that was made with another kernel.
    other = (done.directory / "run.json").read_text().replace(kernel, "0" * 64)
    (done.directory / "run.json").write_text(other)
    status, said = Terminal(places, "--record", done.directory).wait()
    assert status == 129
    assert "other kernel" in said
    places.assert_clean()


def test_an_editor_has_the_session_over_mi(
    osv: Session, places: Places, tmp_path: Path, outside: Callable[[], Outside]
) -> None:
    first = osv("specimen-xmm0", "--stop-at", "boot")
    first.until_prompt()
    first.quit()
    recipe = ["osv-syscall-fpu", "--variant", "specimen-fixed", "--image", "specimen"]
    with (tmp_path / "stderr").open("wb") as errors:
        editor = subprocess.Popen(
            [*OSVTRIAGE, "gdb", *recipe, "--mi", "--stop-at", f"{SETUP}:exit"],
            env=places.environment,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert editor.stdin is not None
    assert editor.stdout is not None
    said: list[dict[str, Any]] = []

    def ask(command: str) -> Any:
        editor.stdin.write(f"7{command}\n".encode())
        editor.stdin.flush()
        for line in editor.stdout:
            record = gdbmiparser.parse_response(line.decode().strip())
            said.append(record)
            if record["type"] == "result" and record["token"] == 7:
                return record["payload"]
        raise AssertionError(said)

    address = ask("-stack-info-frame")["frame"]["addr"]
    # All before it is MI as well: pygdbmi takes what is none for the program's output.
    assert not [one for one in said if one["type"] == "output"]
    assert any("Stopped: probe" in str(one["payload"]) for one in said)
    assert int(address, 16) == int(outside().register("RIP"), 16)
    shown = ask('-interpreter-exec console "ot probes"')
    assert any(SETUP in str(one["payload"]) for one in said), shown
    ask("-gdb-exit")
    editor.stdin.close()
    assert editor.wait(LIMIT) == 0, (tmp_path / "stderr").read_text()
    editor.stdout.close()
    places.assert_clean()
