/* SPDX-License-Identifier: Apache-2.0 */
/* What each vCPU of the specimen has: descriptors, a local APIC, exceptions. */
#include "specimen.hh"

bool specimen_avx;

extern "C" {
extern uint64_t gdt[];
extern const struct { uint64_t vector; const void* entry; } exceptions[], exceptions_end[];
extern const char ap_trampoline[], ap_trampoline_end[], interrupt_entry[], text_start[], text_end[];
void syscall_entry();
}

/* Each thread has a stack for exceptions and another for interrupts. */
enum { IST_EXCEPTION = 1, IST_INTERRUPT = 2 };
enum { VECTOR_TIMER = 32, VECTOR_SPURIOUS = 255 };

static struct idt_entry {
    uint16_t offset0, selector;
    uint8_t ist, type;
    uint16_t offset1;
    uint32_t offset2, reserved;
} idt[256];

static void set_gate(unsigned vector, const void* entry, uint8_t ist)
{
    auto to = (uint64_t)entry;
    auto high = (uint32_t)(to >> 32);
    idt[vector] = { (uint16_t)to, 0x08, ist, 0x8e, (uint16_t)(to >> 16), high, 0 };
}

static void enable_avx()
{
    uint32_t eax = 1, ebx, ecx = 0, edx;
    asm("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    if (!(ecx & 1 << 26 && ecx & 1 << 28))      /* XSAVE, AVX */
        return;
    ulong cr4;
    asm volatile("mov %%cr4, %0" : "=r"(cr4));
    asm volatile("mov %0, %%cr4" : : "r"(cr4 | 1 << 18));       /* OSXSAVE */
    asm volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));          /* x87, SSE, AVX */
    specimen_avx = true;
}

static volatile uint32_t& lapic_register(unsigned offset)
{
    return *(volatile uint32_t*)(ulong)(LAPIC + offset);
}

void sched::cpu::init_on_cpu()
{
    auto tss = (uint64_t)&arch.tss;
    uint64_t* descriptor = gdt + 4 + 2 * id;
    descriptor[0] = 0x0000890000000067 | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56;
    descriptor[1] = tss >> 32;
    asm volatile("ltr %w0" : : "r"(0x20 + 16 * id));

    for (auto row = exceptions; row < exceptions_end; row++)
        set_gate(row->vector, row->entry, IST_EXCEPTION);
    for (unsigned i = 32; i < 256; i++)
        set_gate(i, interrupt_entry + (i - 32) * 16, IST_INTERRUPT);
    struct [[gnu::packed]] { uint16_t limit; const void* base; } pointer = { sizeof(idt) - 1, idt };
    asm volatile("lidt %0" : : "m"(pointer));

    enable_avx();
    wrmsr(0xc0000081, 0x08ull << 32);                           /* STAR: CS 0x08, SS 0x10 */
    wrmsr(0xc0000082, (uint64_t)syscall_entry);                 /* LSTAR */
    wrmsr(0xc0000084, 0);                                       /* FMASK: rflags stay */

    lapic_register(0xf0) = 0x100 | VECTOR_SPURIOUS;             /* enabled */
    lapic_register(0x3e0) = 0xb;                                /* divide by 1: QEMU counts ns */
    lapic_register(0x320) = 0x20000 | VECTOR_TIMER;             /* periodic */
    lapic_register(0x380) = 1000000;
}

unsigned lapic::id()
{
    return lapic_register(0x20) >> 24;
}

/* To all but this vCPU; waits until it was sent. */
static void send_ipi(uint32_t kind)
{
    lapic_register(0x300) = 0xc0000 | kind;
    spin_until([] { return !(lapic_register(0x300) & 1 << 12); });
}

void lapic::start_others()
{
    memcpy((void*)AP_START, ap_trampoline, ap_trampoline_end - ap_trampoline);
    send_ipi(0x4500);                                           /* INIT */
    send_ipi(0x4600 | AP_START >> 12);                          /* SIPI */
}

void lapic::stop_others()
{
    send_ipi(0x4400);                                           /* NMI */
}

extern "C" void interrupt(exception_frame* frame)
{
    fpu_state state;
    fpu_lock guard(&state);
    if (frame->error_code != VECTOR_TIMER)
        return;                                                 /* spurious ones want no EOI */
    lapic_register(0xb0) = 0;                                   /* EOI */
    sched::preempt();
}

static void dump_registers(const exception_frame* ef)
{
    debug("[registers]\n"
          "RIP: 0x%016lx <\?\?\?>\n"
          "RFL: 0x%016lx  CS:  0x%016lx  SS:  0x%016lx\n"
          "RAX: 0x%016lx  RBX: 0x%016lx  RCX: 0x%016lx  RDX: 0x%016lx\n"
          "RSI: 0x%016lx  RDI: 0x%016lx  RBP: 0x%016lx  R8:  0x%016lx\n"
          "R9:  0x%016lx  R10: 0x%016lx  R11: 0x%016lx  R12: 0x%016lx\n"
          "R13: 0x%016lx  R14: 0x%016lx  R15: 0x%016lx  RSP: 0x%016lx\n",
          ef->rip, ef->rflags, ef->cs, ef->ss, ef->rax, ef->rbx, ef->rcx, ef->rdx, ef->rsi, ef->rdi,
          ef->rbp, ef->r8, ef->r9, ef->r10, ef->r11, ef->r12, ef->r13, ef->r14, ef->r15, ef->rsp);
}

extern "C" PROBED void page_fault(exception_frame* ef)
{
    ulong addr;
    asm volatile("mov %%cr2, %0" : "=r"(addr));
    mmu::vm_fault(addr, ef);
}

void mmu::vm_fault(ulong addr, exception_frame* ef)
{
    if (ef->rip >= (ulong)text_start && ef->rip < (ulong)text_end) {
        debug("page fault outside application, addr: 0x%016lx\n", addr);
        dump_registers(ef);
        abort();
    }
    osv::handle_mmap_fault(addr, 11, ef);                       /* SIGSEGV */
}

void osv::handle_mmap_fault(ulong addr, int sig, exception_frame* ef)
{
    siginfo_t siginfo = { sig, (void*)addr };
    osv::generate_signal(siginfo, ef);
}

/* No application of the specimen handles a signal. */
void osv::generate_signal([[maybe_unused]] siginfo_t& siginfo, [[maybe_unused]] exception_frame* ef)
{
    abort();
}

extern "C" PROBED void divide_error(exception_frame* ef)
{
    siginfo_t siginfo = { 8, (void*)ef->rip };                  /* SIGFPE */
    osv::generate_signal(siginfo, ef);
}

extern "C" PROBED void general_protection(exception_frame* ef)
{
    dump_registers(ef);
    abort("general protection fault\n");
}

extern "C" PROBED void unexpected_exception(exception_frame* ef)
{
    dump_registers(ef);
    abort("unexpected exception\n");
}

/* Another vCPU has halted the specimen. */
extern "C" void nmi(exception_frame*)
{
    for (;;)
        asm volatile("cli; hlt");
}
