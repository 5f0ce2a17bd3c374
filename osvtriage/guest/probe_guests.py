"""Guests of a few bytes, which prove that an accelerator runs guest code, then end QEMU.

Both are firmware images (``-bios``) that the processor runs from reset; the listings beside the
bytes are those of objdump. They were made with GNU as and need no compiler here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class ProbeGuest:
    """A firmware image, QEMU's arguments for it, and what only a guest that ran can produce."""

    image: bytes
    arguments: tuple[str, ...]
    exit_status: int
    output: bytes


# The size of the image: the reset vector, 16 bytes below its end, is mapped 16 bytes below 4 GiB,
# and the same bytes again at 0xf0000 (Intel SDM, volume 3A, section 10.1.4; QEMU's pc machine).
_X86_SIZE = 0x10000

# The image goes on to long mode with paging and SSE and does its work there. Real mode would prove
# nothing: KVM can carry it out with its instruction emulator. On a host with kvm_pvm a real-mode
# guest ended properly, and this one, as well as every kernel, hung at the switch to long mode.
_X86_START = bytes.fromhex(
    # .code16, at f000:0000
    "31c0"  #                   xor  %ax,%ax
    "8ed8"  #                   mov  %ax,%ds
    "66c706001003200000"  #     movl $0x2003,0x1000    PML4[0] -> 0x2000, present, writable
    "66c706002003300000"  #     movl $0x3003,0x2000    PDPT[0] -> 0x3000, present, writable
    "66c706003083000000"  #     movl $0x83,0x3000      PD[0]: the first 2 MiB, present, writable
    "2e660f01169000"  #         lgdtl %cs:0x90
    "66b820020000"  #           mov  $0x220,%eax       CR4.PAE, CR4.OSFXSR
    "0f22e0"  #                 mov  %eax,%cr4
    "66b800100000"  #           mov  $0x1000,%eax
    "0f22d8"  #                 mov  %eax,%cr3
    "66b9800000c0"  #           mov  $0xc0000080,%ecx  IA32_EFER
    "66b800010000"  #           mov  $0x100,%eax       EFER.LME
    "6631d2"  #                 xor  %edx,%edx
    "0f30"  #                   wrmsr
    "66b801000080"  #           mov  $0x80000001,%eax  CR0.PG, CR0.PE
    "0f22c0"  #                 mov  %eax,%cr0
    "66ea5a000f000800"  #       ljmpl $0x8,$0xf005a
    # .code64, at 0xf005a
    "48b8000000000000002a"  #   movabs $0x2a00000000000000,%rax
    "66480f6ec0"  #             movq %rax,%xmm0
    "66480f7ec2"  #             movq %xmm0,%rdx
    "48c1ea38"  #               shr  $0x38,%rdx
    "89d0"  #                   mov  %edx,%eax
    "e6f4"  #                   out  %al,$0xf4         isa-debug-exit: status (0x2a << 1) | 1
    "f4"  #                     hlt                    not reached
    "ebfd"  #                   jmp  . - 1
    "0f1f8000000000"  #         nopl 0(%rax)           to a multiple of 8
    # The GDT, at 0xf0080
    "0000000000000000"  #       the null descriptor
    "00000000009a2000"  #       64-bit code, ring 0, present
    # What lgdt loads, at 0xf0090
    "0f00"  #                   .word 15               its limit
    "80000f00"  #               .long 0xf0080          its address
)
_X86_RESET_VECTOR = bytes.fromhex("ea000000f0")  # ljmp $0xf000,$0x0


def _x86_image() -> bytes:
    image = bytearray(_X86_SIZE)
    image[: len(_X86_START)] = _X86_START
    at = _X86_SIZE - 16
    image[at : at + len(_X86_RESET_VECTOR)] = _X86_RESET_VECTOR
    return bytes(image)


# The pseries machine loads firmware at 0 and starts it at 0x100, big-endian and in real mode with
# hypercalls (`sc 1`) as its only way out: Linux on Power Architecture Reference, 1.1, section 14.5.
_PPC64_START = bytes.fromhex(
    "3c803000"  # lis  r4,0x3000          the spapr-vty's reg, from the arguments
    "38600058"  # li   r3,0x58            H_PUT_TERM_CHAR
    "38a00002"  # li   r5,2               how many characters
    "3cc06f6b"  # lis  r6,0x6f6b          "ok", most significant byte first
    "78c607c6"  # sldi r6,r6,32
    "44000022"  # sc   1
    "3c600000"  # lis  r3,0
    "6063f000"  # ori  r3,r3,0xf000       H_RTAS, QEMU's own hypercall for run-time services
    "38800140"  # li   r4,0x140           its arguments
    "44000022"  # sc   1
    "48000000"  # b    .                  not reached
)
_PPC64_RTAS_ARGUMENTS = bytes.fromhex(
    "00002003"  # .long 0x2003            power-off (QEMU, include/hw/ppc/spapr.h)
    "00000002"  # .long 2                 takes two arguments
    "00000001"  # .long 1                 gives one result
    "000000000000000000000000"
)


def _ppc64_image() -> bytes:
    image = bytearray(0x140)
    image[0x100 : 0x100 + len(_PPC64_START)] = _PPC64_START
    return bytes(image) + _PPC64_RTAS_ARGUMENTS


# By the name of the processor. One without an entry can run under TCG only.
PROBE_GUESTS: Mapping[str, ProbeGuest] = MappingProxyType(
    {
        "x86_64": ProbeGuest(
            image=_x86_image(),
            arguments=("-m", "16", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
            exit_status=(0x2A << 1) | 1,
            output=b"",
        ),
        "ppc64le": ProbeGuest(
            image=_ppc64_image(),
            # 256 MiB is the least that the pseries machine takes; it is not touched.
            arguments=(
                *("-m", "256"),
                *("-chardev", "stdio,id=console"),
                *("-device", "spapr-vty,chardev=console,reg=0x30000000"),
            ),
            exit_status=0,
            output=b"ok",
        ),
    }
)
