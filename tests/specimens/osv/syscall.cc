/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The specimen's syscall stacks. A thread's first syscall runs on a tiny stack until there is a
 * large one. That is not meant to change the FPU's state, and does unless --fixed.
 */
#include "specimen.hh"

/*
 * --overflow: thread 2 writes 8 bytes below its tiny stack, where thread 1 has the stack of its own
 * first syscall, and later takes the address to return to from there.
 */
namespace scene {

enum { victim = 1, overflower = 2 };
static bool victim_is_there, overflown;

/* A frame that leaves all of itself unwritten but the value that lies 24 bytes below *begin*. */
PROBED static void write_below(char* begin)
{
    auto slot = (volatile long*)(begin - 24);
    auto frame = (char*)__builtin_alloca((char*)__builtin_frame_address(0) - (char*)slot);
    asm volatile("" : : "r"(frame) : "memory");
    *slot = 6;
}

/* Waits without a switch: a preempted thread's FPU state is safe. */
static inline void play(unsigned number, char* tiny)
{
    bool dead = specimen_switches.overflow == switches::dead;
    if (!specimen_switches.overflow || specimen_switches.fixed)
        return;
    if (number == victim && !dead) {
        store(victim_is_there, true);
        spin_until([] { return load(overflown); });
    } else if (number == overflower) {
        const char* below = tiny - TINY_SYSCALL_STACK_SIZE;
        spin_until([=] { return dead ? !memory::tiny_in_use(below) : load(victim_is_there); });
        write_below(tiny);
        store(overflown, true);
    }
}

}  // namespace scene

void sched::thread::setup_large_syscall_stack()
{
    fpu_lock guard(specimen_switches.fixed ? &_arch.fpu : nullptr);
    assert(_app);
    assert(*(long*)_tcb->syscall_stack_top == 0);
    char* tiny = (char*)_tcb->syscall_stack_top - TINY_SYSCALL_STACK_DEPTH;
    char* large = (char*)malloc(LARGE_SYSCALL_STACK_SIZE);
    char* large_top = large + LARGE_SYSCALL_STACK_DEPTH;
    scene::play(_argument, tiny);
    /* With the 16 registers that syscall_entry has pushed, to be popped from the copy. */
    memcpy(large_top - TINY_SYSCALL_STACK_DEPTH, tiny, TINY_SYSCALL_STACK_SIZE);
    *(void**)large = tiny;
    _tcb->syscall_stack_top = large_top;
    *(long*)large_top = 1;
}

void sched::thread::free_tiny_syscall_stack()
{
    fpu_lock guard(specimen_switches.fixed ? &_arch.fpu : nullptr);
    assert(_app);
    assert(*(long*)_tcb->syscall_stack_top == 1);
    ::free(*(void**)((char*)_tcb->syscall_stack_top - LARGE_SYSCALL_STACK_DEPTH));
}

extern "C" PROBED void setup_large_syscall_stack()
{
    sched::thread::current()->setup_large_syscall_stack();
}

extern "C" PROBED void free_tiny_syscall_stack()
{
    sched::thread::current()->free_tiny_syscall_stack();
}

extern "C" PROBED long syscall_wrapper(ulong number, ulong, ulong, ulong, ulong, ulong, ulong)
{
    if (specimen_switches.crash == switches::kernel)
        asm volatile("movl $0, (%0)" : : "r"(0ul) : "memory");
    if (number == SYS_gettid)
        return sched::thread::current()->_id;
    debug("syscall(): unimplemented system call %lu\n", number);
    return -38;                         /* ENOSYS */
}
