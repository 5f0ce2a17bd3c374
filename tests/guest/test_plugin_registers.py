"""A clobber of any one register is seen by the plugin: guests of a few bytes change each in turn.

Each guest is firmware that QEMU runs from reset (as in osvtriage/guest/probe_guests.py): a span for
every register, with one instruction in it that changes that register and no other.
"""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from osvtriage.arch import PPC64LE, X86_64, Arch
from osvtriage.guest.probe_guests import PROBE_GUESTS
from osvtriage.guest.programs import find_plugin_qemu
from osvtriage.model.event import Event
from osvtriage.model.plan import GdbPlan, ProbePlan, ThreadPlan
from osvtriage.plugin import build
from osvtriage.plugin.captures import Captures, Compared
from osvtriage.plugin.shared import RING_BYTES, Counter, Shared
from osvtriage.plugin.table import Table

pytestmark = pytest.mark.usefixtures("plugin_qemu")

# The guest runs for some milliseconds.
LIMIT = 60.0

# PowerISA, book I: ori 0,0,0; mfmsr r9; oris r9,r9,0x0280 (VEC, VSX); ori r9,r9,0x2000 (FP);
# mtmsrd r9; li r4,0x100.
PPC_NOP = 0x60000000
PPC_SETUP = [0x7D2000A6, 0x65290280, 0x61292000, 0x7D200164, 0x38800100]


def ppc_change(register: str) -> int:
    """An instruction that changes *register*: from memory at r4, or from vs63."""
    number = int(register.lstrip("vs"))
    if register.startswith("vs") and number < 32:
        # xxpermdi vsN,vsN,vs63,0: only the half that is no FPR.
        return 0xF0000052 | number << 21 | number << 16 | 31 << 11
    # lxvd2x vsN,0,r4
    return 0x7C002698 | (number & 31) << 21 | number >> 5


@dataclass(frozen=True)
class Guest:
    """Firmware, and the span of each register in it: (entry, exit). ``""``: nothing changes."""

    arch: Arch
    image: bytes
    spans: dict[str, tuple[int, int]]


def ppc_guest() -> Guest:
    """What is added stands at 0x200, and the guest that powers off behind it; its arguments for
    RTAS, which it names by their address, stay at 0x140."""
    image = PROBE_GUESTS["ppc64le"].image
    reset, added_at, moved_to = 0x100, 0x200, 0x1000
    added = [*PPC_SETUP, 0x7C002699 | 31 << 21]  # lxvd2x vs63,0,r4
    spans: dict[str, tuple[int, int]] = {}

    def span(name: str, word: int) -> None:
        entry = added_at + 4 * len(added)
        added.extend([PPC_NOP, word, PPC_NOP])
        spans[name] = (entry, entry + 8)

    span("", PPC_NOP)
    for number in range(32):
        # lfd fN,0(r4): only the FPR.
        span(f"f{number}", 0xC8040000 | number << 21)
    for number in range(63):
        span(f"vs{number}", ppc_change(f"vs{number}"))
    # xxlxor vs63,vs63,vs63: the last, for the others were changed from it.
    span("vs63", 0xF00004D7 | 31 << 21 | 31 << 16 | 31 << 11)
    added.append(0x48000000 | moved_to - (added_at + 4 * len(added)))
    code = b"".join(word.to_bytes(4, "big") for word in added)
    there = (0x48000000 | added_at - reset).to_bytes(4, "big").ljust(0x140 - reset, b"\0")
    start = image[:reset] + there + image[0x140:]
    whole = (start.ljust(added_at, b"\0") + code).ljust(moved_to, b"\0")
    return Guest(PPC64LE, whole + image[reset:0x140], spans)


def x86_guest() -> Guest:
    image = bytearray(PROBE_GUESTS["x86_64"].image)
    # The 64-bit part begins at 0xf005a, with `movabs $0x2a…,%rax`; it is moved to where there is
    # room, and a jump put in its place.
    begin, room, base = 0x5A, 0x200, 0xF0000
    tail = bytes(image[begin:0x80])
    code = bytearray(bytes.fromhex("48b8efcdab8967452301"))  # movabs $0x0123456789abcdef,%rax
    spans: dict[str, tuple[int, int]] = {}

    def span(name: str, change: bytes) -> None:
        entry = base + room + len(code)
        code.extend(b"\x90" + change + b"\x90")
        spans[name] = (entry, entry + 1 + len(change))

    span("", b"\x90")
    for number in range(16):
        # movq %rax,%xmmN
        span(
            f"xmm{number}",
            bytes([0x66, 0x48 | (number >> 3) << 2, 0x0F, 0x6E, 0xC0 | (number & 7) << 3]),
        )
    for number in range(16):
        # punpcklqdq %xmmN,%xmmN: the lower half, which is not 0 any more, into the upper.
        rex = bytes([0x40 | (number >> 3) * 5])
        modrm = 0xC0 | (number & 7) * 9
        span(f"xmm{number} upper", b"\x66" + rex + bytes([0x0F, 0x6C, modrm]))
    # fld1: st0 and the top of the stack.
    span("st0", b"\xd9\xe8")
    image[room : room + len(code)] = code
    image[room + len(code) : room + len(code) + len(tail)] = tail
    image[begin : begin + 5] = b"\xe9" + struct.pack("<i", room - begin - 5)
    return Guest(X86_64, bytes(image), spans)


def run(
    guest: Guest, tmp_path: Path, ring_bytes: int = RING_BYTES
) -> tuple[Shared, list[Captures]]:
    """What the plugin wrote of the guest, which has ended, and what it was told to capture."""
    arch = guest.arch
    words = [name for name in arch.words_of(("fpu",)) if arch.words[name].stub is not None]
    base = "r13" if arch is PPC64LE else "fs_base"
    registers: dict[str, int] = {}
    taken = []
    for name, (entry, exit_) in guest.spans.items():
        probe = ProbePlan(
            name=name,
            symbol=name,
            entries=(entry,),
            exits=(exit_,),
            at_function_entry=False,
            registers=tuple(words),
            fields={},
            limit=1,
            required=0,
            callee=1,
        )
        plan = GdbPlan(arch.name, ThreadPlan(base, None, {}), (probe,))
        taken.append(Captures(plan, probe, arch, Compared(frozenset(words)), registers))
    file = Shared(tmp_path / "shared", ring_bytes)
    table = Table(list(registers), [one.probe_for_plugin() for one in taken])
    file.arm(table)
    firmware = tmp_path / "firmware"
    firmware.write_bytes(guest.image)
    qemu = find_plugin_qemu(arch).path
    assert qemu is not None
    known = PROBE_GUESTS[arch.name]
    command = [str(qemu), "-no-user-config", "-nodefaults", "-display", "none", "-nic", "none"]
    command += [word for machine in arch.machine for word in ("-M", machine)]
    command += ["-accel", "tcg", "-cpu", arch.cpu, "-bios", str(firmware), "-no-reboot"]
    command += [*known.arguments, *build.argument(build.plugin(), file.path)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, file.error) == (known.exit_status, None), done.stderr
    return file, taken


def seen(guest: Guest, tmp_path: Path) -> dict[str, list[Event]]:
    """The events of each span, as the plugin engine gives them."""
    file, taken = run(guest, tmp_path)
    found: dict[str, list[Event]] = {name: [] for name in guest.spans}
    for record in file.records():
        found[list(guest.spans)[record.probe]] += taken[record.probe].events(record)
    for number, name in enumerate(guest.spans):
        assert file.counters(number)[Counter.PASSAGES] == 1, name
        assert file.counters(number)[Counter.SAME] == (name == ""), name
    file.close()
    return found


def changed(events: list[Event]) -> set[str]:
    entry, exit_ = events
    return {name for name, value in entry.registers.items() if exit_.registers[name] != value}


def test_every_register_of_ppc64le(tmp_path: Path) -> None:
    for name, events in seen(ppc_guest(), tmp_path).items():
        # f0-f31 are the upper halves of vs0-vs31.
        wanted = {f"vs{name[1:]}"} if name.startswith("f") else {name} if name else set()
        assert changed(events) == wanted, name
        if name.startswith("vs") and int(name[2:]) < 32:
            entry, exit_ = (event.registers[name] or "" for event in events)
            assert entry[:16] == exit_[:16], f"{name}: the half that is f{name[2:]} must stay"


def test_every_register_of_x86_64(tmp_path: Path) -> None:
    for name, events in seen(x86_guest(), tmp_path).items():
        found = changed(events)
        # A push onto the x87 stack renames its registers, and its top is in the status word.
        if name == "st0":
            assert {"st0", "fsw"} <= found
            continue
        register, _, half = name.partition(" ")
        assert found == {register} - {""}, name
        if half:
            entry, exit_ = (event.registers[register] or "" for event in events)
            assert entry[16:] == exit_[16:] != entry[:16], name


def test_a_ring_that_overflows_holds_up_nobody_and_counts(tmp_path: Path) -> None:
    """Nobody reads while the guest runs, and there is room for a few records of a hundred."""
    guest = ppc_guest()
    file, taken = run(guest, tmp_path, ring_bytes=32 << 10)
    counters = [file.counters(number) for number in range(len(taken))]
    assert [one[Counter.PASSAGES] for one in counters] == [1] * len(guest.spans)
    sent, dropped = (sum(one[what] for one in counters) for what in (Counter.SENT, Counter.DROPPED))
    assert sent > 0
    assert sent + dropped == len(guest.spans)
    assert file.dropped == dropped > 0
    assert sum(1 for _ in file.records()) == sent
    file.close()
