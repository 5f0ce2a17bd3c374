"""Linux on x86-64: what its entry code is called, and where in memory the kernel is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# Vectors and the names of their handlers, asm_exc_NAME: arch/x86/include/asm/{trapnr,idtentry}.h.
HANDLERS = {
    0: "divide_error",
    1: "debug",
    2: "nmi",
    3: "int3",
    4: "overflow",
    5: "bounds",
    6: "invalid_op",
    7: "device_not_available",
    8: "double_fault",
    9: "coproc_segment_overrun",
    10: "invalid_tss",
    11: "segment_not_present",
    12: "stack_segment",
    13: "general_protection",
    14: "page_fault",
    15: "spurious_interrupt_bug",
    16: "coprocessor_error",
    17: "alignment_check",
    18: "machine_check",
    19: "simd_coprocessor_error",
    21: "control_protection",
    29: "vmm_communication",
}

# arch/x86/entry/entry_64.S: what the entry code calls to save the registers, above its return
# address.
SAVERS = frozenset({"error_entry", "paranoid_entry"})

# Intel SDM, volume 3, figure 6-8: a gate of the IDT has its handler's address in three parts.
_GATE_BYTES = 16
# KASLR goes by CONFIG_PHYSICAL_ALIGN, and stays within KERNEL_IMAGE_SIZE (asm/page_64_types.h).
_ALIGNMENT, _MOST = 2 << 20, 1 << 30


class WrongSlide(Exception):
    """The guest's interrupt table does not lead to the handlers of this kernel."""


def slide(read: Callable[[int, int], bytes | None], idt: int, handlers: Mapping[str, int]) -> int:
    """How far above its file's addresses the kernel is (KASLR): from the IDT at *idt*.

    Args:
        handlers: where the gates lead to in the kernel's file, by vector.

    Raises:
        WrongSlide: the gates do not all say the same, or say what KASLR never does.
    """
    found = {}
    for vector, address in handlers.items():
        raw = read(idt + int(vector) * _GATE_BYTES, _GATE_BYTES)
        # A gate that is not present is for an exception that this processor does not have.
        if raw is not None and raw[5] & 0x80:
            there = int.from_bytes(raw[:2] + raw[6:12], "little")
            found[vector] = there - address
    slides = set(found.values())
    if len(slides) != 1:
        said = f"lead to {len(slides)} places" if slides else "cannot be read"
        raise WrongSlide(
            f"the handlers in the guest's interrupt table (IDT at {idt:#x}) {said}: it is not the "
            "kernel that the symbols are of, or it has not come to user space yet"
        )
    (slide,) = slides
    if slide % _ALIGNMENT or not 0 <= slide < _MOST:
        raise WrongSlide(
            f"the handlers in the guest's interrupt table are {slide:#x} from where the kernel's "
            "file has them: it is not the kernel that the symbols are of"
        )
    return slide
