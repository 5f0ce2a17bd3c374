"""Recorded consoles of real guests: cause, task, registers, backtrace, signature."""

from __future__ import annotations

import re

import pytest
from consoles import crash, every_name, recorded, text

from osvtriage.consoles.crashes import crashes

WRITE = "proc_reg_write<vfs_write<ksys_write"
X86 = f"{WRITE}<do_syscall_64"
PPC = f"{WRITE}<system_call_exception"
CALL = ":system-call"


@pytest.mark.parametrize(
    ("console", "kind", "task", "signature"),
    [
        ("linux-5.10-x86_64-null", "oops", ("busybox", 69, 0),
         f"crash:page fault:{X86}<entry_SYSCALL_64_after_hwframe{CALL}"),
        ("linux-6.1-x86_64-null", "oops", ("busybox", 81, 0),
         f"crash:page fault:{X86}<entry_SYSCALL_64_after_hwframe{CALL}"),
        ("linux-6.12-x86_64-null", "oops", ("busybox", 131, 0),
         f"crash:page fault:{X86}<entry_SYSCALL_64_after_hwframe{CALL}"),
        ("linux-6.12-x86_64-exec", "oops", ("busybox", 127, 0),
         f"crash:page fault:?<{X86}{CALL}"),
        ("linux-6.1-x86_64-gpf", "oops", ("busybox", 81, 0),
         f"crash:general protection:{X86}<entry_SYSCALL_64_after_hwframe{CALL}"),
        ("linux-6.1-x86_64-df", "oops", ("busybox", 81, 0),
         "crash:double fault:write_sysrq_trigger:exception"),
        ("linux-6.1-x86_64-bug", "oops", ("busybox", 81, 0),
         f"crash:kernel BUG:usercopy_abort<{X86}{CALL}"),
        ("linux-6.1-x86_64-warn", "warning", ("busybox", 81, 0),
         f"crash:warning:refcount_warn_saturate<{X86}{CALL}"),
        ("linux-6.12-x86_64-warnpanic", "warning", ("busybox", 131, 0),
         f"crash:warning:refcount_warn_saturate<{X86}{CALL}"),
        ("linux-6.1-x86_64-soft", "lockup", ("busybox", 81, 0),
         f"crash:soft lockup:write_sysrq_trigger<{X86}{CALL}"),
        ("linux-6.1-x86_64-hung", "lockup", ("busybox", 83, None),
         f"crash:hung task:msleep<{X86}{CALL}"),
        ("linux-6.1-x86_64-rcu", "lockup", ("busybox", 171, 1),
         f"crash:RCU stall:write_sysrq_trigger<{X86}{CALL}"),
        ("linux-6.1-x86_64-exit", "panic", ("init", 1, 0),
         "crash:panic: Attempted to kill init! exitcode=N:do_exit<do_group_exit<"
         "__x64_sys_exit_group<do_syscall_64<entry_SYSCALL_64_after_hwframe:system-call"),
        ("linux-6.1-x86_64-nofs", "panic", ("swapper/0", 1, 0),
         "crash:panic: VFS: Unable to mount root fs on unknown-block(N,N):mount_block_root<"
         "prepare_namespace<kernel_init_freeable<kernel_init<ret_from_fork"),
        ("linux-6.1-stack-recurse", "oops", ("u", 89, 0),
         "crash:stack overflow:osvt_recurse<osvt_write<vfs_write<ksys_write<do_syscall_64" + CALL),
        ("linux-6.1-stack-stos", "oops", ("u", 89, 0),
         "crash:stack overflow:osvt_stos<osvt_write<vfs_write<ksys_write<do_syscall_64" + CALL),
        ("linux-6.1-ppc64le-null", "oops", ("busybox", 79, 0),
         f"crash:data access:{PPC}<system_call_vectored_common{CALL}"),
        ("linux-6.12-ppc64le-null", "oops", ("busybox", 125, 0),
         f"crash:data access:{PPC}<system_call_vectored_common{CALL}"),
        ("linux-6.12-ppc64le-pf", "oops", ("busybox", 129, 0),
         f"crash:data segment:{PPC}<system_call_vectored_common{CALL}"),
        ("linux-6.12-ppc64le-exec", "oops", ("busybox", 129, 0),
         f"crash:instruction access:?<{PPC}{CALL}"),
        ("linux-6.1-ppc64le-bug", "oops", ("busybox", 78, 0),
         f"crash:kernel BUG:usercopy_abort<{PPC}{CALL}"),
        ("linux-6.1-ppc64le-warn", "warning", ("busybox", 78, 0),
         f"crash:warning:refcount_warn_saturate<{PPC}{CALL}"),
        ("linux-6.1-ppc64le-soft", "lockup", ("busybox", 78, 0),
         f"crash:soft lockup:write_sysrq_trigger<{PPC}{CALL}"),
    ],
)  # fmt: skip
def test_linux(console: str, kind: str, task: tuple[str, int, int | None], signature: str) -> None:
    found = recorded(console)
    assert found.kind == kind
    assert (found.comm, found.pid, found.cpu) == task
    assert found.signature == signature
    assert not found.partial
    _, version, arch = console.split("-")[:3]
    assert found.kernel is not None
    assert found.kernel.startswith(f"{version}.")
    assert (found.arch, arch == "stack") in ((arch, False), ("x86_64", True), (None, False))


def test_equal_crashes_have_equal_signatures_with_kaslr_and_without() -> None:
    """Two boots of one kernel, one of another, and the other processor's."""
    names = ["6.1-x86_64-sysrq-kaslr", "6.1-x86_64-sysrq-nokaslr", "6.12-x86_64-sysrq-kaslr"]
    names.append("6.1-ppc64le-sysrq")
    consoles = [recorded(f"linux-{name}") for name in names]
    assert "Kernel Offset: disabled" in text("linux-6.1-x86_64-sysrq-nokaslr")
    assert "Kernel Offset: 0x33a00000" in text("linux-6.1-x86_64-sysrq-kaslr")
    assert {found.signature for found in consoles} == {
        "crash:panic: sysrq triggered crash:sysrq_handle_crash<__handle_sysrq<write_sysrq_trigger"
        "<proc_reg_write<vfs_write:system-call"
    }


def test_different_crashes_have_different_signatures() -> None:
    kinds = [
        "null",
        "exec",
        "gpf",
        "df",
        "bug",
        "warn",
        "soft",
        "hung",
        "rcu",
        "exit",
        "nofs",
        "sysrq-kaslr",
    ]
    found = [recorded(f"linux-6.{12 if kind == 'exec' else 1}-x86_64-{kind}") for kind in kinds]
    assert len({one.signature for one in found}) == len(kinds)


def test_registers_of_x86() -> None:
    registers = recorded("linux-6.1-x86_64-null").registers
    # The first block's: the trace goes on with those of the system call.
    assert registers["rsp"] == "ffa000000058ba50"
    assert registers["rcx"] == "0000000000000010"
    assert registers["r8"] == "0000000000000001"
    assert registers["cr2"] == "0000000000000000"
    assert (registers["eflags"], registers["cs"]) == ("00000282", "0010")
    assert registers["gs_base"] == "ff1100000f400000"
    assert "orig_rax" not in registers


def test_registers_of_ppc64le() -> None:
    registers = recorded("linux-6.1-ppc64le-null").registers
    assert {f"r{n}" for n in range(32)} <= registers.keys()
    assert registers["nip"] == "c0000000000aa4b0"
    assert registers["link"] == "c00000000060437c"
    assert registers["trap"] == "0000000000000300"
    assert registers["r1"] == "c0000000048ebb30"
    assert registers["r31"] == "c0000000032309c0"


def test_the_backtrace_says_how_the_kernel_was_entered() -> None:
    frames = recorded("linux-6.1-x86_64-null").backtrace
    assert [frame.line for frame in frames] == [
        "== page fault (write, not present) at 0000000000000000, from kernel mode, "
        "at memset_erms+0x9",
        "proc_reg_write+0x56",
        "vfs_write+0xc7",
        "ksys_write+0x6b",
        "do_syscall_64+0x5d",
        "entry_SYSCALL_64_after_hwframe+0x6e",
        "== system call 1, from user mode, at 0x000000000047b7a0",
    ]
    assert frames[-1].registers is not None
    assert frames[-1].registers["rsp"] == "00007fffc5954908"
    on_powerpc = recorded("linux-6.1-ppc64le-null").backtrace
    assert [frame.line for frame in on_powerpc][:2] == [
        "== data access (0x300), from kernel mode, at memset+0x68",
        # The caller that only the link register knows: memset makes no frame.
        "proc_reg_write+0xfc",
    ]
    assert on_powerpc[-1].line == (
        "== system call (vectored) (0x3000), from user mode, at 0x00000000100c4180"
    )
    assert on_powerpc[0].registers is not None
    assert on_powerpc[0].registers["dar"] == "0000000000000000"


def test_an_interrupt_in_the_middle_of_a_backtrace() -> None:
    """The trace that the panic of a soft lockup printed, in place of the lockup's own."""
    panic = text("linux-6.1-x86_64-soft").replace("softlockup: hung tasks", "out of patience")
    found = crashes(panic)[1]
    kinds = [(frame.kind, frame.note) for frame in found.backtrace if frame.kind != "call"]
    assert kinds == [
        ("interrupt", "apic timer interrupt, from kernel mode"),
        ("system call", "system call 1, from user mode"),
    ]
    at = next(frame for frame in found.backtrace if frame.kind == "interrupt")
    assert at.function == "write_sysrq_trigger"
    powerpc = text("linux-6.1-ppc64le-soft").replace("softlockup: hung tasks", "out of patience")
    kinds = [
        (frame.kind, frame.note) for frame in crashes(powerpc)[1].backtrace if frame.kind != "call"
    ]
    assert kinds == [
        ("interrupt", "decrementer (0x900), from kernel mode"),
        ("system call", "system call (vectored) (0x3000), from user mode"),
    ]


def test_a_panic_that_only_follows_belongs_to_what_it_follows() -> None:
    assert recorded("linux-6.1-x86_64-soft").panic == "softlockup: hung tasks"
    assert recorded("linux-6.12-x86_64-warnpanic").panic == "kernel: panic_on_warn set ..."
    assert recorded("linux-6.1-stack-recurse").panic == "Fatal exception in interrupt"
    assert len(crashes(text("linux-6.12-x86_64-warnpanic"))) == 1


def test_a_warning_gives_way_to_what_the_kernel_died_of() -> None:
    both = text("linux-6.1-x86_64-warn") + text("linux-6.1-x86_64-null")
    assert [one.cause for one in crashes(both)] == ["warning", "page fault"]
    assert crash(both).cause == "page fault"


def test_what_was_said_besides() -> None:
    assert recorded("linux-6.1-x86_64-warn").details == ("refcount_t: underflow; use-after-free.",)
    assert recorded("linux-6.1-x86_64-bug").details[0].startswith("usercopy: Kernel memory expos")
    assert (
        "#PF: supervisor write access in kernel mode" in recorded("linux-6.1-x86_64-null").details
    )


def test_a_stack_that_could_not_be_followed_is_named_as_such() -> None:
    found = recorded("linux-6.1-stack-rspstos")
    assert found.signature == "crash:stack overflow:osvt_rsp:exception"
    assert found.partial == ("the kernel could not follow its stack: its 39 guesses are left out",)


def test_a_backtrace_on_demand_is_no_crash() -> None:
    assert crashes(text("linux-6.1-dump-stack-five-contexts")) == []


# Titles that Debian's kernels do not print, as mm/kasan/report.c, mm/kfence/report.c, lib/ubsan.c,
# kernel/watchdog.c and include/asm-generic/bug.h (6.16 and later for the new WARNING) have them.
@pytest.mark.parametrize(
    ("line", "kind", "cause"),
    [
        ("BUG: KASAN: slab-out-of-bounds in f+0x1c/0x40 [m]", "bug", "KASAN slab-out-of-bounds"),
        ("BUG: KFENCE: use-after-free read in f+0x1c/0x40", "bug", "KFENCE use-after-free read"),
        ("BUG: KMSAN: uninit-value in f+0x1c/0x40", "bug", "KMSAN uninit-value"),
        ("BUG: KCSAN: data-race in f / g", "bug", "KCSAN data-race"),
        ("UBSAN: shift-out-of-bounds in lib/x.c:7:3", "bug", "UBSAN shift-out-of-bounds"),
        ("watchdog: Watchdog detected hard LOCKUP on cpu 3", "lockup", "hard lockup"),
        ("watchdog: CPU 3 self-detected hard LOCKUP @ f+0x1/0x2", "lockup", "hard lockup"),
        ("WARNING: lib/x.c:28 at f+0x1/0x2, CPU#0: u/89", "warning", "warning"),
        ("WARNING: possible circular locking dependency detected", "warning",
         "warning: possible circular locking dependency detected"),
        ("BUG: scheduling while atomic: u/89/0x00000002", "bug", "BUG: scheduling while atomic"),
        ("BUG: sleeping function called from invalid context at mm/x.c:7", "bug",
         "BUG: sleeping function called from invalid context"),
        ("BUG: Bad page state in process u  pfn:1234", "bug", "BUG: Bad page state"),
        ("divide error: 0000 [#1] PREEMPT SMP NOPTI", "oops", "divide error"),
        ("stack segment: 0000 [#1] SMP", "oops", "stack-segment fault"),
        ("Kernel stack overflow in process u[89], r1=c000000004043a30", "oops", "stack overflow"),
    ],
)  # fmt: skip
def test_titles(line: str, kind: str, cause: str) -> None:
    (found,) = crashes(f"[    1.000000] {line}\n")
    assert (found.kind, found.cause) == (kind, cause)
    assert found.title == line
    assert "there is no backtrace" in found.partial


@pytest.mark.parametrize(
    "line",
    [
        "",
        "u[89]: segfault at 0 ip 0000000000401136 sp 00007ffd error 4 in u[401000+1000]",
        "traps: u[89] general protection fault ip:401136 sp:7ffd0 error:0 in u[401000+1000]",
        "AMD-Vi: functionality not available on this system - This is not a bug.",
        "INFO: lockdep is turned off.",
        "Linux version 6.1.0 (BUG: in the name)",
        "Oops",
    ],
)
def test_what_is_no_crash(line: str) -> None:
    assert crashes(f"[    1.000000] {line}\n") == []


def test_what_user_space_says_is_no_crash() -> None:
    said = "[    1.000000] Run /init as init process\nBUG: unable to handle my input\n"
    assert crashes(said) == []
    # Where the kernel prints no stamps there is no telling them apart.
    assert len(crashes("BUG: unable to handle my input\n")) == 1


@pytest.mark.parametrize("name", [one for one in every_name() if one.startswith("linux")])
def test_without_stamps_with_callers_and_over_a_terminal_it_is_the_same(name: str) -> None:
    as_recorded = [one.signature for one in crashes(text(name))]
    stamp = re.compile(r"^\[ *[\d.]+\] ?", re.MULTILINE)
    for said in (
        stamp.sub("", text(name)),
        stamp.sub("[    1.000000][   T81] ", text(name)),
        stamp.sub("<4>[    1.000000] ", text(name)),
        stamp.sub("Nov 21 09:41:00 guest kernel: [    1.000000] ", text(name)),
        stamp.sub("\x1b[31m[    1.000000] ", text(name)).replace("\n", "\x1b[0m\r\n"),
    ):
        assert [one.signature for one in crashes(said)] == as_recorded


def test_osv() -> None:
    found = recorded("osv-crash")
    assert (found.system, found.cause, found.kernel) == (
        "osv",
        "page fault",
        "v0.57.0-34-gb11b225d",
    )
    # As the check `crash` has it, with gdb at the guest.
    assert found.signature == "crash:page fault:?:exception"
    assert [frame.line for frame in found.backtrace][1:] == [
        "osv::handle_mmap_fault+0x1c",
        "mmu::vm_fault+0x13a",
        "page_fault+0x8b",
        "0x00000000402f9db6",
        "== page fault, at 0xb0b0b0b0b0b0b0af",
    ]
    assert found.backtrace[found.place].kind == "exception"
    assert crashes(text("osv-fpu-fixed")) == []


# arch/x64/dump.cc and runtime.cc, of which no recording is at hand.
OSV_REGISTERS = """\
OSv v0.57.0
page fault outside application, addr: 0x0000000000000008
[registers]
RIP: 0x0000000040300010 <memory::free(void*)+16>
RFL: 0x0000000000010202  CS:  0x0000000000000008  SS:  0x0000000000000010
RAX: 0x0000000000000001  RBX: 0x0000000000000002  RCX: 0x0000000000000003  RDX: 0x0000000000000004
RSI: 0x0000000000000005  RDI: 0x0000000000000006  RBP: 0x0000000000000007  R8:  0x0000000000000008
R9:  0x0000000000000009  R10: 0x000000000000000a  R11: 0x000000000000000b  R12: 0x000000000000000c
R13: 0x0000000000000009  R14: 0x000000000000000a  R15: 0x000000000000000b  RSP: 0x0000200000000000
Aborted

[backtrace]
0x00000000402ac0ca <mmu::vm_fault(unsigned long, exception_frame*)+314>
0x00000000402fae2b <page_fault+139>
0x00000000402f9db6 <???+1076862390>
0x000000004030000f <memory::free(void*)+15>
0x0000000040300100 <syscall_wrapper+32>
"""


def test_osv_with_registers() -> None:
    found = crash(OSV_REGISTERS)
    assert found.cause == "page fault"
    assert found.details == ("Aborted",)
    # The same as in a test of the check `crash`.
    assert found.signature == "crash:page fault:memory::free<syscall_wrapper:exception"
    assert found.registers["rax"] == "0000000000000001"
    assert found.registers["eflags"] == "0000000000010202"
    # OSv prints R9 to R11 in the place of R13 to R15.
    assert not {"r13", "r14", "r15"} & found.registers.keys()
    true = OSV_REGISTERS.replace("R13: 0x0000000000000009", "R13: 0x00000000000000dd")
    assert crash(true).registers["r13"] == "00000000000000dd"


def test_aborted_in_a_shell_is_no_crash_of_osv() -> None:
    assert crashes("$ ./program\nAborted\n$\n") == []
