/* SPDX-License-Identifier: Apache-2.0 */
/* The specimen's threads: round robin from one queue, so that they migrate between vCPUs. */
#include "specimen.hh"

extern "C" {
extern char tls_start[], tls_file_size[], tls_size[];   /* the sizes are the symbols' addresses */
extern uint64_t ident_pt_l2[];
void thread_main();
}

namespace sched {

__thread thread* s_current;

/* As libstdc++ lays out a std::unordered_map<unsigned, thread*>; with a single bucket. */
struct map_of_threads {
    struct {
        void* _M_buckets;
        size_t _M_bucket_count;
        struct { thread::map_node* _M_nxt; } _M_before_begin;
        size_t _M_element_count;
        float _M_max_load_factor;
        size_t _M_next_resize;
        void* _M_single_bucket;
    } _M_h;
} thread_map = { { &thread_map._M_h._M_single_bucket, 1, { nullptr }, 0, 1.0f, 0,
                   &thread_map._M_h._M_before_begin } };
static_assert(sizeof(thread_map) == 56);
static spinlock thread_map_lock;

/* As libstdc++ lays out a std::vector<cpu*>. */
static cpu cpu_objects[MAX_CPUS];
static cpu* cpu_pointers[MAX_CPUS];
struct vector_of_cpus {
    struct { cpu **_M_start, **_M_finish, **_M_end_of_storage; } _M_impl;
} cpus = { { cpu_pointers, cpu_pointers, cpu_pointers + MAX_CPUS } };

/* Held across a switch: who switches takes it, who is switched to gives it back. */
static spinlock queue_lock;
/* All CPUs take from the first one's queue: a tree in which everything is to the right. */
static auto& queue = cpu_objects[0].runqueue.tree_.header_;
static tree_node* queue_last;
static unsigned cpus_up;
static bool started;

static void enqueue(thread* t)
{
    t->st() = thread::status::queued;
    tree_node* link = &t->_runqueue_link;
    t->_realtime._priority = t->_id;
    *link = { queue_last ? queue_last : &queue, nullptr, nullptr };
    (queue_last ? queue_last->right_ : queue.parent_) = link;
    queue_last = link;
}

static thread* dequeue()
{
    tree_node* first = queue.parent_;
    if (!first)
        return nullptr;
    if ((queue.parent_ = first->right_))
        queue.parent_->parent_ = &queue;
    else
        queue_last = nullptr;
    return (thread*)((char*)first - offsetof(thread, _runqueue_link));
}

/* With queue_lock held. */
void cpu::reschedule_from_interrupt()
{
    thread* old = thread::current();
    cpu* here = old->_cpu();
    if (old == here->idle_thread)
        old->st() = thread::status::queued;
    else if (old->st() == thread::status::running)
        enqueue(old);
    thread* next = dequeue();
    if (!next)
        next = here->idle_thread;
    next->st() = thread::status::running;
    next->_cpu() = here;
    if (next != old)
        next->switch_to();
}

void preempt()
{
    irq_lock guard(queue_lock);
    thread::current()->_cpu()->reschedule_from_interrupt();
}

static void set_fsbase(const void* base)
{
    wrmsr(0xc0000100, (uint64_t)base);
}

static void set_stacks(cpu* here, thread* t)
{
    here->arch.tss.ist[0] = (uint64_t)t->_state.exception_stack;
    here->arch.tss.ist[1] = (uint64_t)(t->_arch.interrupt_stack + sizeof(t->_arch.interrupt_stack));
}

/* By convention, no caller expects vector or x87 registers to be as they were. */
inline void thread::switch_to()
{
    static_assert(offsetof(thread_state, rsp) == 8 && offsetof(thread_state, rip) == 24);
    thread_state *from = &current()->_state, *to = &_state;
    set_stacks(_cpu(), this);
    set_fsbase(_tcb);
    asm volatile("mov %%rsp, 8(%0)\n\t"
                 "mov %%rbp, 16(%0)\n\t"
                 "movq $1f, 24(%0)\n\t"
                 "mov 8(%1), %%rsp\n\t"
                 "mov 16(%1), %%rbp\n\t"
                 "jmp *24(%1)\n"
                 "1:"
                 : "+D"(from), "+S"(to)
                 :
                 : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
                   "memory", "cc");
}

/* From a boot stack, for good. */
void thread::switch_to_first()
{
    queue_lock.lock();
    st() = status::running;
    set_stacks(_cpu(), this);
    set_fsbase(_tcb);
    asm volatile("mov %0, %%rsp; mov %1, %%rbp; jmp *%2"
                 : : "a"(_state.rsp), "b"(_state.rbp), "c"(_state.rip) : "memory");
    __builtin_unreachable();
}

extern "C" void thread_main_c(thread* t)
{
    queue_lock.unlock();
    asm volatile("sti; fninit");
    const uint32_t mxcsr = 0x1f80;
    asm volatile("ldmxcsr %0" : : "m"(mxcsr));
    t->main();
    t->complete();
}

void thread::main()
{
    _function(_argument);
}

void thread::complete()
{
    asm volatile("cli");
    queue_lock.lock();
    st() = status::terminated;
    if (_joiner)
        enqueue(_joiner);
    _cpu()->reschedule_from_interrupt();
    __builtin_unreachable();
}

void thread::start()
{
    irq_lock guard(queue_lock);
    enqueue(this);
}

void thread::join()
{
    irq_lock guard(queue_lock);
    if (st() == status::terminated)
        return;
    _joiner = current();
    current()->st() = status::waiting;
    current()->_cpu()->reschedule_from_interrupt();
}

void thread::init_stack()
{
    auto& stack = _attr._stack;
    stack.size = 8 * 4096;
    stack.begin = malloc(stack.size);
    _state.rsp = (char*)stack.begin + stack.size;
    _state.rbp = this;
    _state.rip = (void*)thread_main;
    _state.exception_stack = _arch.exception_stack + sizeof(_arch.exception_stack);
}

/* Thread-local variables, with the linker's initial values, directly below their TCB. */
void thread::setup_tcb()
{
    auto size = (size_t)tls_size, file_size = (size_t)tls_file_size;
    char* p = (char*)aligned_alloc(64, size + sizeof(*_tcb));
    memcpy(p, tls_start, file_size);
    memset(p + file_size, 0, size - file_size);
    _tcb = (thread_control_block*)(p + size);
    _tcb->self = _tcb;
    _tcb->tls_base = p;
    *(thread**)((char*)_tcb + ((char*)&s_current - (char*)__builtin_thread_pointer())) = this;
    _tcb->syscall_stack_top = nullptr;
    if (_app) {
        char* tiny = (char*)malloc(TINY_SYSCALL_STACK_SIZE);
        _tcb->syscall_stack_top = tiny + TINY_SYSCALL_STACK_DEPTH;
        *(long*)_tcb->syscall_stack_top = 0;
    }
}

void thread::free_tcb()
{
    if (char* top = (char*)_tcb->syscall_stack_top) {
        bool large = *(long*)top;
        ::free(top - (large ? LARGE_SYSCALL_STACK_DEPTH : TINY_SYSCALL_STACK_DEPTH));
    }
    ::free(_tcb->tls_base);
}

thread* thread::make(void (*function)(unsigned), unsigned argument, const char* name, bool app)
{
    static unsigned ids;
    auto t = (thread*)aligned_alloc(64, sizeof(thread));
    memset(t, 0, sizeof(*t));
    t->_function = function;
    t->_argument = argument;
    t->_app = app;
    for (unsigned i = 0; name[i] && i < sizeof(t->_attr._name) - 1; i++)
        t->_attr._name._M_elems[i] = name[i];
    t->_detached_storage.t = t;
    t->_detached_state._M_head_impl = &t->_detached_storage;
    t->st() = status::unstarted;
    t->init_stack();
    t->setup_tcb();
    irq_lock guard(thread_map_lock);
    auto& map = thread_map._M_h;
    t->_id = ++ids;
    t->_map_node = { map._M_before_begin._M_nxt, t->_id, t };
    map._M_before_begin._M_nxt = &t->_map_node;
    map._M_element_count++;
    return t;
}

/* Of a thread that was joined. */
void thread::dispose(thread* t)
{
    {
        irq_lock guard(thread_map_lock);
        auto& map = thread_map._M_h;
        auto link = &map._M_before_begin._M_nxt;
        while (*link != &t->_map_node)
            link = &(*link)->_M_nxt;
        *link = t->_map_node._M_nxt;
        map._M_element_count--;
    }
    t->free_tcb();
    ::free(t->_attr._stack.begin);
    ::free(t);
}

static void idle(unsigned)
{
    for (;;)
        asm volatile("sti; hlt");
}

static void run_on(cpu* here)
{
    asm volatile("mov %%cr3, %%rax; mov %%rax, %%cr3" : : : "rax", "memory");
    here->idle_thread->switch_to_first();
}

extern "C" void smp_main()
{
    cpu* here = cpu_pointers[lapic::id()];
    here->init_on_cpu();
    __atomic_add_fetch(&cpus_up, 1, __ATOMIC_SEQ_CST);
    spin_until([] { return load(started); });
    run_on(here);
}

void init(unsigned number)
{
    /* thread::current() is asked for before there is one. */
    alignas(64) static char boot_tls[256];
    assert((size_t)tls_size + sizeof(thread_control_block) <= sizeof(boot_tls));
    auto tcb = (thread_control_block*)(boot_tls + (size_t)tls_size);
    tcb->self = tcb;
    set_fsbase(tcb);

    for (unsigned i = 0; i < number; i++) {
        cpu* c = *cpus._M_impl._M_finish++ = cpu_objects + i;
        char name[] = { 'i', 'd', 'l', 'e', (char)('0' + i), '\0' };
        c->id = c->arch.apic_id = c->arch.acpi_id = i;
        c->idle_thread = thread::make(idle, 0, name, false);
        c->idle_thread->_attr._pinned_cpu = c;
        c->idle_thread->_cpu() = c;
    }
    outb(0x21, 0xff);                   /* no interrupts from the old controllers */
    outb(0xa1, 0xff);
    memory::wait_for_memory(cpu_objects[0].idle_thread);
    cpus_up = 1;
    cpu_objects[0].init_on_cpu();
    if (number > 1)
        lapic::start_others();
    spin_until([=] { return load(cpus_up) == number; });
    ident_pt_l2[0] = 0;                 /* null pointers and the address 6 fault from now on */
    thread::make(application::run, 0, "/app.so", true)->start();
    store(started, true);
    run_on(&cpu_objects[0]);
}

}  // namespace sched
