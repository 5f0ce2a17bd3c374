/* SPDX-License-Identifier: Apache-2.0 */
/* The part of the specimen's application where no compiler may have a say. */
#include "specimen.hh"

/* *operation*64 for AVX's state too where there is AVX, or its ancestor of SSE; takes rax, rdx. */
.macro fpu operation, ancestor, area
	cmpb $0, specimen_avx
	je 1f
	mov $7, %eax
	xor %edx, %edx
	\operation (\area)
	jmp 2f
1:	\ancestor (\area)
2:
.endm

	.text
	.global application_round
	.type application_round, @function
/*
 * void application_round(const fpu_state* pattern, fpu_state seen[2], bool syscalls)
 * Twice: load the pattern, do a syscall, store what is there then.
 */
application_round:
	.cfi_startproc
	push %rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset rbp, 0
	mov %rsp, %rbp
	.cfi_def_cfa_register rbp
	mov %edx, %r8d
	.rept 2
	fpu xrstor64, fxrstor64, %rdi
	test %r8d, %r8d
	jz 3f
	mov $SYS_gettid, %eax
	syscall
3:	fpu xsave64, fxsave64, %rsi
	add $FPU_STATE_SIZE, %rsi
	.endr
	pop %rbp
	.cfi_def_cfa rsp, 8
	ret
	.cfi_endproc
	.size application_round, . - application_round

	.section .note.GNU-stack, "", @progbits
