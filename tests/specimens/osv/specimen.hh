/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The specimen: a test guest of osvtriage. It boots, runs threads on all vCPUs and has defects on
 * demand. Functions, types and members that osvtriage looks for have the names that they have in
 * the unikernel which it debugs; all the rest is as small as it can be.
 */
#ifndef SPECIMEN_HH
#define SPECIMEN_HH

/* Linked at 1 GiB + 2 MiB, loaded at 2 MiB: both the first GiB and the second map the latter. */
#define VM_SHIFT 0x40000000
#define MAX_CPUS 8
#define BOOT_STACK_SIZE 4096
/* Where vCPUs other than the first start, in real mode: a page below 1 MiB. */
#define AP_START 0x8000
#define LAPIC 0xfee00000
#define FPU_STATE_SIZE 832
#define SYS_gettid 186

#ifndef TINY_SYSCALL_STACK_SIZE
#define TINY_SYSCALL_STACK_SIZE 1024
#endif
/* The indicator (tiny or large) is in the last 16 bytes of a stack. */
#define TINY_SYSCALL_STACK_DEPTH (TINY_SYSCALL_STACK_SIZE - 16)
#define LARGE_SYSCALL_STACK_SIZE (4 * 4096)
#define LARGE_SYSCALL_STACK_DEPTH (LARGE_SYSCALL_STACK_SIZE - 16)

#ifndef __ASSEMBLER__

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* A breakpoint on it, or on a call of it, must be hit: no inlining, no clones. */
#define PROBED __attribute__((noipa))

typedef unsigned long ulong;

/* The words of the command line, parsed. Its symbol tells that a guest is the specimen. */
struct switches {
    enum { xmm0, all, sticky, control, ftw } clobber;
    enum { no_overflow, live, dead } overflow;
    enum { no_crash, null, gp, assertion, kernel } crash;
    bool fixed, no_syscall, cannot_load, forever;
    unsigned threads;
};
extern "C" switches specimen_switches;

/* Intel SDM, "XSAVE area": the legacy region, the header, and AVX in the standard form. */
struct alignas(64) fpu_state {
    uint16_t fcw, fsw;
    uint8_t ftw, reserved0;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    struct { uint64_t mantissa; uint16_t exponent, reserved[3]; } st[8];
    uint64_t xmm[16][2];
    uint64_t reserved1[12];
    uint64_t xstate_bv, header[7];
    uint64_t ymm_high[16][2];
};
static_assert(sizeof(fpu_state) == FPU_STATE_SIZE);

extern "C" bool specimen_avx;

/* The compiler uses general registers only: what it does between these two changes no state. */
inline void fpu_save(fpu_state* state)
{
    if (specimen_avx)
        asm volatile("xsave64 %0" : "+m"(*state) : "a"(7), "d"(0));
    else
        asm volatile("fxsave64 %0" : "+m"(*state));
}

inline void fpu_restore(const fpu_state* state)
{
    if (specimen_avx)
        asm volatile("xrstor64 %0" : : "m"(*state), "a"(7), "d"(0));
    else
        asm volatile("fxrstor64 %0" : : "m"(*state));
}

/* Keeps the state in *area*, and gives it back when it goes out of scope; nothing for nullptr. */
class fpu_lock {
    fpu_state* const _area;
public:
    explicit fpu_lock(fpu_state* area) : _area(area)
    {
        if (!_area)
            return;
        for (uint64_t& word : _area->header)
            word = 0;                   /* XRSTOR faults on anything else */
        fpu_save(_area);
    }
    ~fpu_lock() { if (_area) fpu_restore(_area); }
};

/* What a stub of entry.S leaves on the stack. */
struct exception_frame {
    ulong r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint16_t error_code;
    ulong rip, cs, rflags, rsp, ss;
};

typedef struct {
    int si_signo;
    void* si_addr;
} siginfo_t;

/* At %fs:0; thread-local variables end where it begins. */
struct thread_control_block {
    thread_control_block* self;
    void* tls_base;
    void* syscall_stack_top;
    void* syscall_caller_stack_pointer;
};

struct thread_state {
    char* exception_stack;
    void *rsp, *rbp, *rip;
};

struct [[gnu::packed]] task_state_segment {
    uint32_t reserved0;
    uint64_t rsp[3], reserved1, ist[7], reserved2;
    uint16_t reserved3, io_map_base;
};

struct spinlock {
    bool locked;
    void lock()
    {
        while (__atomic_exchange_n(&locked, true, __ATOMIC_ACQUIRE))
            asm volatile("pause");
    }
    void unlock() { __atomic_store_n(&locked, false, __ATOMIC_RELEASE); }
};

/* Holds a lock with interrupts off: whoever preempts its holder could want it too. */
class irq_lock {
    spinlock& _lock;
    ulong _flags;
public:
    explicit irq_lock(spinlock& lock) : _lock(lock)
    {
        asm volatile("pushfq; popq %0; cli" : "=r"(_flags) : : "memory");
        _lock.lock();
    }
    ~irq_lock()
    {
        _lock.unlock();
        asm volatile("pushq %0; popfq" : : "r"(_flags) : "memory", "cc");
    }
};

namespace sched {

struct cpu;

/* A node of an intrusive set, as boost has it. */
struct tree_node { tree_node *parent_, *left_, *right_; };

struct arch_thread {
    alignas(64) fpu_state fpu;          /* --fixed keeps the state here */
    alignas(16) char interrupt_stack[4096];
    alignas(16) char exception_stack[4096];
};

struct thread {
    enum class status {
        invalid, prestarted, unstarted, waiting, sending_lock,
        running, queued, waking, terminating, terminated,
    };
    struct stack_info { void* begin; size_t size; };
    struct name_array { char _M_elems[16]; };
    struct attr {
        stack_info _stack;
        cpu* _pinned_cpu;
        bool _detached;
        name_array _name;
    };
    struct atomic_status { status _M_i; };
    struct detached_state {
        thread* t;
        cpu* _cpu;
        bool lock_sent;
        atomic_status st;
    };
    struct detached_state_ptr { detached_state* _M_head_impl; };
    /* A node of the map of threads, as libstdc++ has it. */
    struct map_node { map_node* _M_nxt; unsigned key; thread* value; };

    static thread* make(void (*function)(unsigned), unsigned argument, const char* name, bool app);
    static void dispose(thread* t);
    static thread* current();
    void start();
    void join();
    void switch_to();
    void switch_to_first();
    void init_stack();
    void free_tcb();
    PROBED void setup_tcb();
    PROBED void setup_large_syscall_stack();
    PROBED void free_tiny_syscall_stack();
    PROBED void main();
    PROBED void complete() __attribute__((noreturn));
    cpu*& _cpu() { return _detached_state._M_head_impl->_cpu; }
    status& st() { return _detached_state._M_head_impl->st._M_i; }

    void (*_function)(unsigned);
    unsigned _argument;                 /* an application thread's number, from 1; 0 for others */
    thread_state _state;
    thread_control_block* _tcb;
    detached_state_ptr _detached_state;
    attr _attr;
    arch_thread _arch;
    unsigned _id;
    bool _app;
    thread* _joiner;
    tree_node _runqueue_link;
    struct { float _Rtt; } _runtime;
    struct { unsigned _priority; } _realtime;
    map_node _map_node;
    detached_state _detached_storage;
};

struct arch_cpu {
    task_state_segment tss;
    uint32_t apic_id, acpi_id;
};

struct cpu {
    unsigned id;
    arch_cpu arch;
    struct { struct { tree_node header_; } tree_; } runqueue;
    thread* idle_thread;
    void init_on_cpu();
    PROBED void reschedule_from_interrupt();
};

extern __thread thread* s_current;

void init(unsigned number);
void preempt();

}  // namespace sched

inline sched::thread* sched::thread::current() { return s_current; }

namespace memory {
struct page_range_allocator {
    PROBED void* alloc(size_t size);
    void free(void* begin);
};
void wait_for_memory(sched::thread* t);
bool tiny_in_use(const void* begin);    /* whether a tiny syscall stack begins there */
}

namespace mmu {
PROBED void vm_fault(ulong addr, exception_frame* ef);
}

namespace osv {
PROBED void halt() __attribute__((noreturn));
PROBED void poweroff() __attribute__((noreturn));
PROBED void generate_signal(siginfo_t& siginfo, exception_frame* ef);
PROBED void handle_mmap_fault(ulong addr, int sig, exception_frame* ef);
}

namespace lapic {
unsigned id();
void start_others();
void stop_others();
}

namespace application {
void run(unsigned);
const fpu_state* other_state(unsigned number);
}

extern "C" {
PROBED void* malloc(size_t size);
PROBED void free(void* memory);
void* aligned_alloc(size_t alignment, size_t size);
void* memcpy(void* to, const void* from, size_t size);
void* memset(void* to, int byte, size_t size);
PROBED void abort() __attribute__((noreturn));
}
PROBED void abort(const char* format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Prints to the console; lines of several vCPUs do not mix. */
void debug(const char* format, ...) __attribute__((format(printf, 1, 2)));

#define assert(expression) \
    ((expression) ? (void)0 : abort("Assertion failed: %s (%s: %s: %d)\n", #expression, __FILE__, \
                                    __func__, __LINE__))

inline void outb(uint16_t port, uint8_t value)
{
    asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

inline void outw(uint16_t port, uint16_t value)
{
    asm volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

inline void wrmsr(uint32_t msr, uint64_t value)
{
    auto low = (uint32_t)value, high = (uint32_t)(value >> 32);
    asm volatile("wrmsr" : : "c"(msr), "a"(low), "d"(high) : "memory");
}

/* Waits, without a switch to another thread, until *condition* holds. */
template <typename Condition> void spin_until(Condition condition)
{
    while (!condition())
        asm volatile("pause" : : : "memory");
}

template <typename T> T load(const T& value) { return __atomic_load_n(&value, __ATOMIC_ACQUIRE); }
template <typename T> void store(T& to, T value) { __atomic_store_n(&to, value, __ATOMIC_RELEASE); }

#endif /* __ASSEMBLER__ */
#endif
