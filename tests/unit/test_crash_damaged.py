"""Consoles that are cut, mixed or hostile: the best partial answer, named so, and no exception."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from consoles import crash, every_name, recorded, text
from hypothesis import example, given, settings
from hypothesis import strategies as st

from osvtriage.consoles.crashes import crashes
from osvtriage.model.crash import Crash

X86 = text("linux-6.1-x86_64-null")
WARN = text("linux-6.1-x86_64-warn")
PPC = text("linux-6.1-ppc64le-null")


def mixed(first: list[str], second: list[str]) -> str:
    """A line of the one, a line of the other."""
    lines = [line for pair in zip(first, second, strict=False) for line in pair]
    return "\n".join(lines) + "\n"


def warned_on(cpu: int, caller: str) -> list[str]:
    """The recorded warning as another CPU prints it."""
    lines = [line for line in WARN.splitlines() if line.startswith("[")][1:]
    renamed = [
        line.replace("CPU: 0 PID: 81", f"CPU: {cpu} PID: {81 + cpu}").replace("busybox", f"u{cpu}")
        for line in lines
    ]
    return [line.replace("] ", f"]{caller} ", 1) for line in renamed]


def test_two_cpus_whose_lines_interleave_are_told_apart_by_their_callers() -> None:
    both = crashes(mixed(warned_on(0, "[   T81]"), warned_on(1, "[   T82]")))
    alone = recorded("linux-6.1-x86_64-warn")
    # Equal in all that a signature has, and each whole.
    assert [(one.cpu, one.pid, one.comm) for one in both] == [(0, 81, "u0"), (1, 82, "u1")]
    for one in both:
        assert one.signature == alone.signature
        assert one.registers == alone.registers
        assert one.backtrace == alone.backtrace
        assert one.partial == ()


def test_two_cpus_whose_lines_interleave_without_callers_are_named_as_such() -> None:
    both = crashes(mixed(warned_on(0, ""), warned_on(1, "")))
    assert [one.cause for one in both] == ["warning", "warning"]
    said = " ".join(sentence for one in both for sentence in one.partial)
    assert "the lines of two CPUs are mixed" in said
    # What is certain is there: that it is a warning, and what it warns of.
    assert both[0].title.startswith("WARNING: CPU: 0 PID: 81 at lib/refcount.c:28")


def test_a_second_crash_in_the_middle_of_the_first_is_named() -> None:
    lines = X86.splitlines()
    middle = next(number for number, line in enumerate(lines) if "vfs_write" in line)
    said = "\n".join(lines[:middle]) + "\n" + PPC
    first, second = crashes(said)
    assert first.backtrace[-1].function == "proc_reg_write"
    assert "another crash begins at line" in first.partial[0]
    assert second.signature == recorded("linux-6.1-ppc64le-null").signature


def test_user_space_in_between_is_passed_over() -> None:
    noisy = X86.replace("\n[", "\nnoise of a payload\n[").replace("]  vfs_write", "]  vfs_write")
    assert crash(noisy).signature == crash(X86).signature
    assert crash(noisy).partial == ()
    # Half a line of user space, and the kernel's behind it.
    half = X86.replace("\n[", "\nhalf a line[")
    assert crash(half).signature == crash(X86).signature


def test_a_line_of_the_backtrace_that_is_broken_is_named() -> None:
    broken = crash(X86.replace("vfs_write+0xc7/0x3f0", "vfs_wri"))
    number = next(n for n, line in enumerate(X86.splitlines(), 1) if "vfs_write+0xc7" in line)
    assert broken.partial == (f"line {number}, in the backtrace, cannot be read",)
    assert [frame.function for frame in broken.backtrace][1:3] == ["proc_reg_write", "ksys_write"]


@pytest.mark.parametrize(
    ("last", "partial"),
    [
        ("BUG: kernel NULL", ("there is no backtrace", "the log ends in the middle of it")),
        ("RIP: 0010", ("nothing of the backtrace but where", "the log ends in the middle of it")),
        ("vfs_write+0xc7", ("the log ends in the middle of it",)),
        ("</TASK>", ()),
        ("---[ end trace", ()),
    ],
)
def test_a_log_that_is_cut(last: str, partial: tuple[str, ...]) -> None:
    lines = X86.splitlines()
    number = next(n for n, line in enumerate(lines) if last in line)
    found = crash("\n".join(lines[: number + 1]))
    assert found.cause == "page fault"
    assert len(found.partial) == len(partial)
    assert all(said in sentence for said, sentence in zip(partial, found.partial, strict=True))


def test_a_log_that_is_cut_before_the_cause_has_none() -> None:
    assert crashes(X86[: X86.index("BUG:")]) == []


@given(st.sampled_from(every_name()), st.integers(0, 13_000))
@settings(max_examples=200, deadline=None)
def test_wherever_it_is_cut_there_is_an_answer_or_none(name: str, at: int) -> None:
    whole, cut = crashes(text(name)), crashes(text(name)[:at])
    # A panic that was cut in its reason cannot be known as the end of the crash before it.
    assert len(cut) <= len(whole) or (cut[-1].kind, bool(cut[-1].partial)) == ("panic", True)
    for part, full in zip(cut, whole, strict=False):
        assert part.line == full.line
        assert part.backtrace == full.backtrace[: len(part.backtrace)] or part.partial


# What hypothesis hardly finds by itself: the words that the patterns begin with.
WORDS = st.sampled_from(
    [
        *("[    1.000000] ", "[    1.000000][   T12] ", "<4>", "\r", "\n", "\x1b[", "\x1b]0;", " "),
        *("BUG: ", "Oops: ", "WARNING: ", "Kernel panic - not syncing: ", "INFO: task ", "rcu: "),
        *("CPU: 0 PID: 1 Comm: ", "Not tainted ", "6.1.0 #1", "RIP: 0010:", "RIP: 0033:"),
        *(
            "NIP: ",
            "NIP [",
            "LR [",
            "Call Trace:",
            " <TASK>",
            " </TASK>",
            "--- interrupt: ",
            "c00 at ",
        ),
        *(
            "GPR00: ",
            "f" * 16,
            "f" * 17,
            "?",
            "f+0x1/0x2",
            "---[ end trace",
            ": 0000 [#1]",
            "MSR: ",
        ),
        *("[backtrace]", "[registers]", "Aborted", "OSv v0.57", "<f(int)+1>", "0x" + "0" * 16),
        *(
            "MSR: ",
            "RSP: 0018:",
            "ORIG_RAX: ",
            "TRAP: ",
            "soft lockup - CPU#",
            "[cut here]",
            "\ufffd",
            "\0",
        ),
    ]
)


@given(st.lists(WORDS | st.text(max_size=6), max_size=80).map("".join))
@example("[    1.000000] --- interrupt: 300 at \n[    1.000000] NIP: MSR: 1\n")
@settings(max_examples=400, deadline=None)
def test_no_text_makes_it_raise(said: str) -> None:
    for found in crashes(said):
        holds_together(found)


@given(st.binary(max_size=400))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    for found in crashes(data.decode("utf-8", "replace")):
        holds_together(found)


def holds_together(found: Crash) -> None:
    assert found.cause
    assert "\n" not in found.signature
    assert found.signature.startswith(f"crash:{found.cause}:")
    assert all(set(value) <= set("0123456789abcdef") for value in found.registers.values())
    assert all(set(frame.address) <= set("0123456789abcdef") for frame in found.backtrace)
    assert not found.backtrace or found.place < len(found.backtrace)


TRACE = "[    1.000000] BUG: x\n[    1.000000] Call Trace:\n"
ATTACKS: dict[str, Callable[[int], str]] = {
    "one line": lambda n: "[    1.000000] BUG: " + "a" * 40 * n,
    "blanks": lambda n: "[    1.000000] WARNING: " + " " * 40 * n,
    "stamps": lambda n: "[    1.000000]" * 3 * n,
    "escapes": lambda n: "\x1b[" * 20 * n,
    "escapes with numbers": lambda n: ("\x1b[" + "0" * 30) * n + "\n",
    "titles": lambda n: "[    1.000000] \x1b]0;aaaaaaaaaaaaaaaa" * n,
    "carriage returns": lambda n: "\r" * 40 * n,
    "headlines": lambda n: "[    1.000000] BUG: unable to handle\n" * n,
    "frames": lambda n: (
        "[ 1.000000] BUG: x\n[ 1.000000] Call Trace:\n" + "[ 1.000000] f+0x1/0x2\n" * n
    ),
    "tasks": lambda n: "[    1.000000] CPU: 0 PID: 1 Comm: " + "Tainted: " * 5 * n,
    "symbols": lambda n: TRACE + "f.+" * 20 * n,
    "hexadecimal": lambda n: "[    1.000000] Kernel panic - not syncing: " + "0x1 " * 10 * n,
    "osv": lambda n: "OSv v0.57\nAborted\n[backtrace]\n" + f"0x{'0' * 16} <{'(' * 30}+1>\n" * n,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_its_time_is_linear(attack: str) -> None:
    """16 times the text takes less than 64 times the time; what is quadratic takes 256 times."""

    def seconds(count: int) -> float:
        said = ATTACKS[attack](count)
        best = float("inf")
        for _ in range(3):
            begun = time.process_time()
            crashes(said)
            best = min(best, time.process_time() - begun)
        return best

    few = 400
    assert seconds(16 * few) < 64 * max(seconds(few), 1e-3)


def test_a_log_of_nothing_but_crashes_is_bounded() -> None:
    assert len(crashes("[    1.000000] BUG: Bad page state\n" * 5000)) == 64
    deep = X86.replace(
        "  proc_reg_write+0x56/0xa0", "  f+0x1/0x2\n[    3.633984]  g+0x1/0x2" * 2000
    )
    assert len(crash(deep).backtrace) <= 1101
    assert len(crash("[    1.000000] BUG: " + "a" * 10_000).title) <= 300
