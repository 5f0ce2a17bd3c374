/* SPDX-License-Identifier: Apache-2.0 */
/* How the specimen is entered: exceptions, interrupts, new threads and the syscall instruction. */
#include "specimen.hh"

	.cfi_sections .eh_frame, .debug_frame

.macro save register
	pushq %\register
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset \register, 0
.endm

.macro restore register
	popq %\register
	.cfi_adjust_cfa_offset -8
	.cfi_restore \register
.endm

.macro function name
	.global \name
	.hidden \name
	.type \name, @function
\name:
.endm

/* *handler* gets the struct exception_frame that is made here. */
.macro entry name, handler, has_error_code
	function \name
	.cfi_startproc simple
	.cfi_signal_frame
	.if !\has_error_code
	pushq $0
	.endif
	.cfi_def_cfa rsp, 0
	.cfi_offset rip, 8
	.cfi_offset rsp, 32
	.irp register, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
	save \register
	.endr
	mov %rsp, %rdi
	subq $8, %rsp				/* the ABI's 16 bytes */
	.cfi_adjust_cfa_offset 8
	call \handler
	addq $8, %rsp
	.cfi_adjust_cfa_offset -8
	.irp register, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax
	restore \register
	.endr
	addq $8, %rsp
	iretq
	.cfi_endproc
	.size \name, . - \name
.endm

/* An entry, and a row of the table that the IDT is made from. */
.macro exception vector, name, handler=unexpected_exception, has_error_code=0
	entry \name, \handler, \has_error_code
	.pushsection .rodata.exceptions, "a"
	.quad \vector, \name
	.popsection
.endm

	.section .rodata.exceptions, "a"
	.global exceptions
exceptions:
	.text
	exception 0, ex_de, divide_error
	exception 1, ex_db
	exception 2, ex_nmi, nmi
	exception 3, ex_bp
	exception 4, ex_of
	exception 5, ex_br
	exception 6, ex_ud
	exception 7, ex_nm
	exception 8, ex_df, has_error_code=1
	exception 10, ex_ts, has_error_code=1
	exception 11, ex_np, has_error_code=1
	exception 12, ex_ss, has_error_code=1
	exception 13, ex_gp, general_protection, 1
	exception 14, ex_pf, page_fault, 1
	exception 16, ex_mf
	exception 17, ex_ac, has_error_code=1
	exception 18, ex_mc
	exception 19, ex_xm
	.section .rodata.exceptions, "a"
	.global exceptions_end
exceptions_end:
	.text

/* The vector is where other entries have an error code. */
	.align 16
function interrupt_entry
	vector = 32
	.rept 256 - 32
	.align 16
	pushq $vector
	jmp interrupt_entry_common
	vector = vector + 1
	.endr
	entry interrupt_entry_common, interrupt, 1

/* A new thread's first instruction; its sched::thread is in %rbp. */
function thread_main
	.cfi_startproc simple
	.cfi_undefined rip
	.cfi_def_cfa rsp, 0
	mov %rbp, %rdi
	call thread_main_c
	ud2
	.cfi_endproc
	.size thread_main, . - thread_main

/*
 * There is no change of rings: rsp is the caller's, rip is in rcx, rflags in r11. Up to label 1
 * there is no CFA, as in the system that this imitates: gdb 13 cannot unwind from there.
 */
	.align 16
function syscall_entry
	.cfi_startproc simple
	.cfi_signal_frame
	.cfi_undefined rcx
	.cfi_undefined r11
	.cfi_register rip, rcx
	.cfi_register rflags, r11
	movq %rsp, %fs:24			/* syscall_caller_stack_pointer */
	movq %fs:16, %rsp			/* syscall_stack_top */
	cmpq $0, (%rsp)				/* a tiny stack: this thread's first syscall? */
	jne 1f

	/* rcx twice, for the ABI's 16 bytes */
	.irp register, rcx, rcx, rbp, rbx, rax, rdx, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
	pushq %\register
	.endr
	callq setup_large_syscall_stack
	movq %fs:16, %rsp
	subq $128, %rsp				/* the setup has copied what was pushed */
	callq free_tiny_syscall_stack
	.irp register, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rdx, rax, rbx, rbp, rcx, rcx
	popq %\register
	.endr

1:	.cfi_def_cfa rsp, 0
	pushq %rcx				/* with rbp, a frame for frame pointers */
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset rip, 0
	save rbp
	pushq %fs:24				/* for the unwinder only */
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset rsp, 0
	leaq 8(%rsp), %rbp
	.irp register, rbx, rdx, rsi, rdi, r8, r9, r10
	save \register
	.endr
	pushq %r11
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset rflags, 0
	.irp register, r12, r13, r14, r15
	save \register
	.endr

	/* syscall_wrapper(rax; rdi, rsi, rdx, r10, r8, r9) */
	save r9
	movq %r8, %r9
	movq %r10, %r8
	movq %rdx, %rcx
	movq %rsi, %rdx
	movq %rdi, %rsi
	movq %rax, %rdi
	callq syscall_wrapper

	.irp register, r9, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rdx, rbx
	restore \register
	.endr
	addq $8, %rsp
	.cfi_adjust_cfa_offset -8
	restore rbp
	restore rcx
	pushq %r11
	popfq
	movq %fs:24, %rsp
	jmpq *%rcx
	.cfi_endproc
	.size syscall_entry, . - syscall_entry

	.section .note.GNU-stack, "", @progbits
