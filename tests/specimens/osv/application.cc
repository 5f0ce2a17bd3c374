/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The specimen's application: threads in waves, each with a pattern of its own in the FPU, that do
 * two syscalls and look at what these left.
 */
#include "specimen.hh"

extern "C" void application_round(const fpu_state* pattern, fpu_state seen[2], bool syscalls);

namespace application {

constexpr unsigned wave_size = 4, most_lines = 2, none = 100;

static struct worker {
    unsigned number, corrupt;
    sched::thread* thread;
    fpu_state pattern, seen[2];
} wave[wave_size];
static unsigned in_wave, done, corrupt_threads;
static fpu_state main_pattern;

/* Which thread's, and which register's, can be read in it: 5ec1, thread, register, half. */
static uint64_t word(unsigned number, unsigned reg, unsigned half)
{
    return 0x5ec1ull << 48 | (uint64_t)(number & 0xffff) << 32 | reg << 16 | half;
}

static void fill(fpu_state& state, unsigned number)
{
    memset(&state, 0, sizeof(state));
    state.fcw = 0x37f;
    state.ftw = 0xff;
    /* All masked, rounded up; never the bit that --clobber=sticky sets. */
    state.mxcsr = 0x5f80 | (number & 0x1f);
    state.xstate_bv = 7;
    for (unsigned i = 0; i < 8; i++) {
        state.st[i].mantissa = 1ull << 63 | word(number, 0x80 + i, 0);
        state.st[i].exponent = 0x3fff;
    }
    for (unsigned i = 0; i < 16; i++) {
        for (unsigned half = 0; half < 2; half++) {
            state.xmm[i][half] = word(number, i, half);
            state.ymm_high[i][half] = word(number, i, 2 + half);
        }
    }
}

static worker& worker_of(unsigned number)
{
    return wave[(number - 1) % wave_size];
}

/* What the next thread of the wave has in its registers; alone, it gets the main thread's. */
const fpu_state* other_state(unsigned number)
{
    return in_wave < 2 ? &main_pattern : &wave[number % wave_size % in_wave].pattern;
}

/* *bytes* of *value* in hexadecimal, the most significant first. */
static const char* hex(char* text, const void* value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        uint8_t byte = ((const uint8_t*)value)[bytes - 1 - i];
        text[2 * i] = "0123456789abcdef"[byte >> 4];
        text[2 * i + 1] = "0123456789abcdef"[byte & 15];
    }
    text[2 * bytes] = '\0';
    return text;
}

static void compare(worker& w, unsigned syscall, const char* name, unsigned index,
                    const void* expected, const void* seen, unsigned bytes)
{
    char left[65], right[65], number[] = { (char)('0' + index / 10), (char)('0' + index % 10), 0 };
    const char* suffix = index == none ? "" : number + (index < 10);
    bool same = true;
    for (unsigned i = 0; i < bytes; i++)
        same &= ((const char*)expected)[i] == ((const char*)seen)[i];
    if (!same && w.corrupt++ < most_lines)
        debug("osvtriage: corrupt thread=%u syscall=%u register=%s%s expected=%s seen=%s\n",
              w.number, syscall, name, suffix, hex(left, expected, bytes), hex(right, seen, bytes));
}

static void compare_all(worker& w, unsigned syscall)
{
    const fpu_state &pattern = w.pattern, &seen = w.seen[syscall - 1];
    for (unsigned i = 0; i < 16; i++) {
        const uint64_t *low = seen.xmm[i], *high = pattern.ymm_high[i], *now = seen.ymm_high[i];
        compare(w, syscall, "xmm", i, pattern.xmm[i], seen.xmm[i], 16);
        /* Whole, but its low half was compared: only a high half that differs makes a line. */
        const uint64_t left[] = { low[0], low[1], high[0], high[1] };
        const uint64_t right[] = { low[0], low[1], now[0], now[1] };
        if (specimen_avx)
            compare(w, syscall, "ymm", i, left, right, 32);
        if (i < 8)
            compare(w, syscall, "st", i, &pattern.st[i], &seen.st[i], 10);
    }
    compare(w, syscall, "mxcsr", none, &pattern.mxcsr, &seen.mxcsr, 4);
    compare(w, syscall, "fcw", none, &pattern.fcw, &seen.fcw, 2);
    compare(w, syscall, "fsw", none, &pattern.fsw, &seen.fsw, 2);
    compare(w, syscall, "ftw", none, &pattern.ftw, &seen.ftw, 1);
}

static void misbehave()
{
    const uint64_t not_canonical = 1ull << 63;
    if (specimen_switches.crash == switches::null)
        asm volatile("movl $0, (%0)" : : "r"(0ul) : "memory");
    if (specimen_switches.crash == switches::gp)
        asm volatile("movl $0, (%0)" : : "r"(not_canonical) : "memory");
    assert(specimen_switches.crash != switches::assertion);
}

static void thread_body(unsigned number)
{
    misbehave();
    worker& w = worker_of(number);
    application_round(&w.pattern, w.seen, !specimen_switches.no_syscall);
    compare_all(w, 1);
    compare_all(w, 2);
    /* All stay until the last is done: what other_state() says is a living thread's state. */
    __atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
    spin_until([] { return load(done) == in_wave; });
}

/* All are made before any runs: their tiny stacks are neighbours in the order of their numbers. */
static void run_wave(unsigned first, unsigned count)
{
    in_wave = count;
    done = 0;
    for (unsigned i = 0; i < count; i++) {
        worker& w = wave[i];
        w.number = first + i;
        w.corrupt = 0;
        fill(w.pattern, w.number);
        memset(w.seen, 0, sizeof(w.seen));
        char name[] = "worker-0000";
        for (unsigned at = sizeof(name) - 2, rest = w.number; at > 6; at--, rest /= 10)
            name[at] += rest % 10;
        w.thread = sched::thread::make(thread_body, w.number, name, true);
    }
    for (unsigned i = 0; i < count; i++)
        wave[i].thread->start();
    for (unsigned i = 0; i < count; i++) {
        wave[i].thread->join();
        corrupt_threads += wave[i].corrupt != 0;
        sched::thread::dispose(wave[i].thread);
    }
}

/* About a quarter of a second, in ticks of this vCPU's timer. */
static void rest()
{
    for (unsigned i = 0; i < 250; i++)
        asm volatile("hlt");
}

void run(unsigned)
{
    const auto& to_do = specimen_switches;
    if (to_do.cannot_load) {
        debug("Failed to load object: /app.so. Powering off.\n");
        osv::poweroff();
    }
    unsigned threads = to_do.threads;
    fill(main_pattern, 0);
    fpu_restore(&main_pattern);
    debug("osvtriage: start payload=specimen threads=%u\n", threads);
    /* A crash is one thread's: what others might print before it is left to no race. */
    if (to_do.crash)
        threads = 1;
    for (unsigned number = 1; number <= threads || to_do.forever; number += in_wave) {
        unsigned left = to_do.forever ? wave_size : threads - number + 1;
        run_wave(number, left < wave_size ? left : wave_size);
        if (to_do.forever)
            rest();
    }
    debug("osvtriage: end threads=%u corrupt=%u\n", threads, corrupt_threads);
    osv::poweroff();
}

}  // namespace application
