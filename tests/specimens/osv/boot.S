/* SPDX-License-Identifier: Apache-2.0 */
/* From QEMU's PVH loader, or from a start-up interrupt, to 64-bit C++ of the specimen. */
#include "specimen.hh"

#define PHYSICAL(symbol) ((symbol) - VM_SHIFT)

/* QEMU boots a 64-bit ELF by this note only: xen/include/public/elfnote.h, PHYS32_ENTRY is 18. */
	.section .note.Xen, "a", @note
	.align 4
	.long 4, 8, 18
	.asciz "Xen"
	.quad PHYSICAL(start32)

	.data
	.align 4096
ident_pt_l4:
	.quad PHYSICAL(ident_pt_l3) + 3
	.zero 511 * 8
ident_pt_l3:
	.quad PHYSICAL(ident_pt_l2) + 3
	.quad PHYSICAL(ident_pt_l2) + 3
	.quad 0
	.quad PHYSICAL(devices_pt_l2) + 3
	.zero 508 * 8
	.global ident_pt_l2
ident_pt_l2:
	index = 0
	.rept 512
	.quad (index << 21) + 0x83		/* present, writable, a page of 2 MiB */
	index = index + 1
	.endr
devices_pt_l2:
	.zero 0x1f7 * 8
	.quad LAPIC + 0x93			/* likewise, not cached */
	.zero 8 * 8

	.global gdt
gdt:
	.quad 0
	.quad 0x00af9b000000ffff		/* 0x08: 64-bit code */
	.quad 0x00cf93000000ffff		/* 0x10: data */
	.quad 0x00cf9b000000ffff		/* 0x18: 32-bit code */
	.zero MAX_CPUS * 16			/* 0x20: a TSS for each vCPU */
gdt_end:
gdt_descriptor:
	.short gdt_end - gdt - 1
	.long PHYSICAL(gdt)

	.bss
	.align 16
boot_stacks:
	.zero MAX_CPUS * BOOT_STACK_SIZE

/* Copied to AP_START: all that need not be in the first MiB is below. */
	.section .rodata
	.code16
	.global ap_trampoline, ap_trampoline_end
ap_trampoline:
	cli
	mov %cs, %ax
	mov %ax, %ds
	lgdtl ap_gdt_descriptor - ap_trampoline
	mov $0x11, %eax				/* CR0.PE, ET */
	mov %eax, %cr0
	ljmpl $0x18, $PHYSICAL(ap_start32)
ap_gdt_descriptor:
	.short gdt_end - gdt - 1
	.long PHYSICAL(gdt)
ap_trampoline_end:

	.text
	.code32
ap_start32:
	mov $0x10, %eax				/* real mode's %ds is not flat */
	mov %eax, %ds
	xor %ebx, %ebx				/* no start information: not the first vCPU */
	.global start32
start32:					/* %ebx: struct hvm_start_info */
	cli
	cld
	lgdtl PHYSICAL(gdt_descriptor)
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov $0x620, %eax			/* CR4.PAE, OSFXSR, OSXMMEXCPT */
	mov %eax, %cr4
	mov $PHYSICAL(ident_pt_l4), %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	mov $0x901, %eax			/* EFER.SCE, LME, NXE */
	xor %edx, %edx
	wrmsr
	mov $0x80010033, %eax			/* CR0.PG, WP, NE, ET, MP, PE */
	mov %eax, %cr0
	ljmpl $0x08, $PHYSICAL(start64)

	.code64
	.type start64, @function
start64:
	.cfi_startproc simple
	.cfi_def_cfa %rsp, 0
	.cfi_undefined %rip
	mov $1f, %eax				/* from the first GiB to the second */
	jmp *%rax
1:	mov $LAPIC + 0x20, %eax
	mov (%rax), %eax
	shr $24, %eax
	inc %eax
	imul $BOOT_STACK_SIZE, %eax
	lea boot_stacks(%rax), %rsp
	mov %ebx, %edi
	test %edi, %edi
	jz 2f
	call premain
	call specimen_main
2:	call smp_main
	ud2
	.cfi_endproc
	.size start64, . - start64

	.section .note.GNU-stack, "", @progbits
