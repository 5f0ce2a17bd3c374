/* SPDX-License-Identifier: Apache-2.0 */
/* The specimen's heap. What destroys a thread's FPU state is in page_range_allocator::alloc(). */
#include "specimen.hh"

namespace memory {

/* Room for all vCPUs and a wave of threads; so few that a search takes under 1,000 instructions. */
constexpr size_t page_size = 4096, pages = 256;
/* Seen in the second GiB, as the specimen itself: what xmm0 gets looks like pointers. */
static char* const heap = (char*)(VM_SHIFT + (16ul << 20));
/* By page: how many pages begin here, if any do; continued where an earlier one began. */
static uint16_t map[pages];
constexpr uint16_t continued = 0xffff;
static spinlock map_lock;

/* Tiny syscall stacks are neighbours, the lowest free one is taken first. */
constexpr unsigned tinies = 8;
alignas(4096) static char tiny[tinies][TINY_SYSCALL_STACK_SIZE];
static bool tiny_used[tinies];
static spinlock tiny_lock;

struct page_range { char *begin, *end; };

/* As --clobber says, here and nowhere else. */
static inline void clobber_fpu(const page_range& range)
{
    uint32_t mxcsr;
    asm volatile("stmxcsr %0" : "=m"(mxcsr));
    switch (specimen_switches.clobber) {
    case switches::xmm0:
        asm volatile("movq %0, %%xmm0; movhps %1, %%xmm0" : : "m"(range.begin), "m"(range.end));
        break;
    case switches::all:
        if (sched::thread* t = sched::thread::current())
            fpu_restore(application::other_state(t->_argument));
        break;
    case switches::sticky:
        mxcsr |= 0x20;                  /* precision */
        asm volatile("ldmxcsr %0" : : "m"(mxcsr));
        break;
    case switches::control:
        mxcsr ^= 0x6000;                /* the other direction of rounding */
        asm volatile("ldmxcsr %0" : : "m"(mxcsr));
        break;
    case switches::ftw:
        asm volatile("emms");
        break;
    }
}

/*
 * The smallest range that is large enough, of the first few. They are listed on the stack, so that
 * the setup of a large syscall stack uses about 600 bytes of a tiny one.
 */
void* page_range_allocator::alloc(size_t size)
{
    page_range candidates[20], *best = nullptr;
    unsigned found = 0;
    size_t needed = (size + page_size - 1) / page_size;
    irq_lock guard(map_lock);
    for (size_t i = 0; i < pages && found < 20;) {
        size_t end = i;
        while (end < pages && !map[end])
            end++;
        if (end - i >= needed)
            candidates[found++] = { heap + i * page_size, heap + end * page_size };
        for (i = end; i < pages && map[i];)
            i += map[i];
    }
    for (unsigned i = 0; i < found; i++)
        if (!best || candidates[i].end - candidates[i].begin < best->end - best->begin)
            best = &candidates[i];
    assert(best);
    size_t first = (best->begin - heap) / page_size;
    map[first] = needed;
    for (size_t i = 1; i < needed; i++)
        map[first + i] = continued;
    clobber_fpu(*best);
    return best->begin;
}

void page_range_allocator::free(void* begin)
{
    irq_lock guard(map_lock);
    size_t first = ((char*)begin - heap) / page_size, count = map[first];
    for (size_t i = 0; i < count; i++)
        map[first + i] = 0;
}

static page_range_allocator allocator;

static bool& used(const void* begin)
{
    return tiny_used[((const char*)begin - tiny[0]) / TINY_SYSCALL_STACK_SIZE];
}

static bool is_tiny(const void* begin)
{
    return begin >= tiny[0] && begin < tiny[tinies];
}

bool tiny_in_use(const void* begin)
{
    return is_tiny(begin) && load(used(begin));
}

static void* tiny_alloc()
{
    irq_lock guard(tiny_lock);
    unsigned i = 0;
    while (i < tinies && tiny_used[i])
        i++;
    assert(i < tinies);
    tiny_used[i] = true;
    return tiny[i];
}

}  // namespace memory

void* malloc(size_t size)
{
    return size <= TINY_SYSCALL_STACK_SIZE ? memory::tiny_alloc() : memory::allocator.alloc(size);
}

/* Whole pages: tiny stacks stay among themselves. */
void* aligned_alloc(size_t, size_t size)
{
    return memory::allocator.alloc(size);
}

void free(void* begin)
{
    if (memory::is_tiny(begin))
        store(memory::used(begin), false);
    else
        memory::allocator.free(begin);
}
