"""Linux: where in a task the things are that probes ask for by name.

A *path* is a list of offsets from ``current``: all but the last are followed as pointers. The
offsets come from the kernel's own code (:mod:`osvtriage.symbols.linux`); this module only says how
they combine.
"""

from __future__ import annotations

from collections.abc import Mapping

from osvtriage.model.plan import Field
from osvtriage.systems.base import System

# schedule(): kernel/sched/core.c. run_init_process(): init/main.c. panic(): kernel/panic.c. die():
# arch/*/kernel, for exceptions that the kernel does not expect of itself. Text is poked by way of
# `int3`: arch/x86/kernel/alternative.c.
LINUX = System(
    name="linux",
    title="Linux",
    sleeps_in="schedule",
    init_at="run_init_process",
    gives_up_in=("panic", "die"),
    pokes_text=("x86_64",),
)

# TASK_COMM_LEN, include/linux/sched.h. Part of the ABI: /proc/PID/comm and prctl(PR_SET_NAME).
COMM_BYTES = 16
# What fork, vfork, clone and clone3 all come to, in kernel/fork.c; the second until 5.9.
CLONE_FUNCTIONS = ("kernel_clone", "_do_fork")
# What the first task is called in its initialiser (INIT_TASK_COMM, include/linux/init_task.h).
FIRST_COMM = b"swapper\0"
# The string in every kernel that names its exact build, init/version.c.
BANNER = "linux_banner"

# powerpc keeps the PACA, and through it `current`, in r13 while in the kernel; asm/paca.h.
PPC_CURRENT_BASE = "r13"
# struct pt_regs on powerpc up to `dsisr` is user ABI: arch/powerpc/include/uapi/asm/ptrace.h.
PPC_PT_REGS = {"nip": 256, "msr": 264, "ctr": 280, "link": 288, "xer": 296, "ccr": 304}
PPC_PT_REGS |= {"softe": 312, "trap": 320, "dar": 328, "dsisr": 336}
PPC_PT_REGS_BYTES = 352

# x86-64 has its per-CPU variables at an offset from gs_base. `swapgs` exchanges that with k_gs_base
# (MSR_KERNEL_GS_BASE) on the way to and from user mode: arch/x86/entry/entry_64.S. Each CPU has the
# base's own value in this_cpu_off: arch/x86/kernel/setup_percpu.c.
X86_PERCPU_BASE, X86_USER_PERCPU_BASE = "gs_base", "k_gs_base"
X86_PERCPU_OWN = "this_cpu_off"

# Members of task_struct that recipes can name, with their sizes.
_TASK_MEMBERS = {"comm": COMM_BYTES, "pid": 4, "tgid": 4, "start_time": 8, "mm": 8, "stack": 8}


def task_fields(offsets: Mapping[str, int]) -> dict[str, Field]:
    """Every field that a recipe can name, for the *offsets* that are known of this kernel."""
    fields = {
        name: Field((offsets[name],), size)
        for name, size in _TASK_MEMBERS.items()
        if name in offsets
    }
    if "mm.pgd" in offsets:
        fields["mm.pgd"] = Field((offsets["mm"], offsets["mm.pgd"]), 8)
    if "mm.saved_auxv" in offsets:
        path = (offsets["mm"], offsets["mm.saved_auxv"])
        fields["mm.saved_auxv"] = Field(path, offsets["mm.saved_auxv bytes"])
    if "thread.fp_state" in offsets:
        fp_state = offsets["thread"] + offsets["thread.fp_state"]
        vr_state = offsets["thread"] + offsets["thread.vr_state"]
        regs = offsets["thread"] + offsets["thread.regs"]
        fields |= {f"thread.fp_state.fpr[{n}]": Field((fp_state + 16 * n,), 16) for n in range(32)}
        fields |= {f"thread.vr_state.vr[{n}]": Field((vr_state + 16 * n,), 16) for n in range(32)}
        fields |= {f"thread.regs.{name}": Field((regs, at), 8) for name, at in PPC_PT_REGS.items()}
        # The status words follow the 32 registers: struct thread_fp_state and thread_vr_state,
        # arch/powerpc/include/asm/processor.h. The VSCR lies in the low word of a quadword.
        fields["thread.fp_state.fpscr"] = Field((fp_state + offsets["fpscr"],), 8)
        fields["thread.vr_state.vscr"] = Field((vr_state + 16 * 32,), 4)
    return fields
