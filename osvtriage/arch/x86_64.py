"""x86-64, as QEMU's pc machine runs it."""

from __future__ import annotations

from osvtriage.arch.base import Arch, Word

_WORDS = {
    **{
        name: Word(64, name)
        for name in (
            *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
            *(f"r{n}" for n in range(8, 16)),
            *("fs_base", "gs_base", "k_gs_base"),
        )
    },
    **{f"xmm{n}": Word(128, f"xmm{n}", "v4_int32") for n in range(16)},
    "pc": Word(64, "rip"),
    "eflags": Word(32, "eflags"),
    "mxcsr": Word(32, "mxcsr"),
}


def find_calls(code: bytes, address: int, targets: frozenset[int]) -> list[tuple[int, int]]:
    """The ``call rel32`` (E8) in *code* that go to one of *targets*: (address, target).

    A byte E8 inside another instruction can look like one, but hardly with the right displacement.
    """
    found = []
    at = code.find(b"\xe8")
    while 0 <= at <= len(code) - 5:
        target = address + at + 5 + int.from_bytes(code[at + 1 : at + 5], "little", signed=True)
        if target in targets:
            found.append((address + at, target))
        at = code.find(b"\xe8", at + 1)
    return found


X86_64 = Arch(
    name="x86_64",
    debian="amd64",
    elf_machine="EM_X86_64",
    byte_order="little",
    qemu="qemu-system-x86_64",
    qemu_package="qemu-system-x86",
    machine=("pc",),
    cpu="max",
    console="ttyS0",
    cross_compiler="x86_64-linux-gnu-gcc",
    cross_packages=("gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"),
    compiler_flags=("-pthread",),
    # Not set: doing so makes gdb refuse the stub's registers ("g packet too long").
    gdb_architecture=None,
    gdb_setup=(),
    capstone=("X86", ("64",)),
    instruction_bytes=None,
    words=_WORDS,
    pc="pc",
    stack_pointer="rsp",
    link_register=None,
    msr_bits={},
    traps={},
    system_call_traps=frozenset(),
    kvm_hosts=frozenset({"x86_64"}),
    find_calls=find_calls,
)
