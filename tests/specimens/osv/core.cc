/* SPDX-License-Identifier: Apache-2.0 */
/* The specimen's beginning and ends: command line, console, abort, halt, power-off. */
#include "specimen.hh"

switches specimen_switches = { {}, {}, {}, false, false, false, false, 8 };
static char command_line[512];

static const struct {
    const char* text;
    void (*apply)(switches& to);
} words[] = {
    { "--clobber=xmm0", [](switches& to) { to.clobber = switches::xmm0; } },
    { "--clobber=all", [](switches& to) { to.clobber = switches::all; } },
    { "--clobber=sticky", [](switches& to) { to.clobber = switches::sticky; } },
    { "--clobber=control", [](switches& to) { to.clobber = switches::control; } },
    { "--clobber=ftw", [](switches& to) { to.clobber = switches::ftw; } },
    { "--overflow", [](switches& to) { to.overflow = switches::live; } },
    { "--overflow=dead", [](switches& to) { to.overflow = switches::dead; } },
    { "--crash=null", [](switches& to) { to.crash = switches::null; } },
    { "--crash=gp", [](switches& to) { to.crash = switches::gp; } },
    { "--crash=assert", [](switches& to) { to.crash = switches::assertion; } },
    { "--crash=kernel", [](switches& to) { to.crash = switches::kernel; } },
    { "--fixed", [](switches& to) { to.fixed = true; } },
    { "--no-syscall", [](switches& to) { to.no_syscall = true; } },
    { "--cannot-load", [](switches& to) { to.cannot_load = true; } },
    { "--forever", [](switches& to) { to.forever = true; } },
};

/* What follows *prefix* in *text*; nullptr where that begins otherwise. */
static const char* after(const char* prefix, const char* text)
{
    while (*prefix)
        if (*text++ != *prefix++)
            return nullptr;
    return text;
}

static bool parse(const char* word, switches& to)
{
    for (const auto& known : words) {
        const char* rest = after(known.text, word);
        if (rest && !*rest) {
            known.apply(to);
            return true;
        }
    }
    const char* digits = after("--threads=", word);
    if (!digits)
        return false;
    unsigned threads = 0;
    for (; *digits >= '0' && *digits <= '9' && threads < 1000; digits++)
        threads = threads * 10 + (*digits - '0');
    if (*digits || !threads)
        return false;
    to.threads = threads;
    return true;
}

static void parse_command_line()
{
    for (char* at = command_line; *at;) {
        const char* word = at;
        while (*at && *at != ' ')
            at++;
        if (*at)
            *at++ = '\0';
        if (*word && !parse(word, specimen_switches))
            debug("specimen: not understood and ignored: %s\n", word);
    }
    if (specimen_switches.overflow && specimen_switches.threads < 2)
        specimen_switches.threads = 2;  /* one that overflows, and its neighbour */
}

/* xen/include/public/arch-x86/hvm/start_info.h */
struct hvm_start_info {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist_paddr, cmdline_paddr;
};

/* The first C++ that runs. QEMU left what it points to in memory that is unmapped soon. */
extern "C" PROBED void premain(const hvm_start_info* info)
{
    auto from = (const char*)info->cmdline_paddr;
    for (size_t i = 0; from && from[i] && i + 1 < sizeof(command_line); i++)
        command_line[i] = from[i];
}

/* QEMU docs/specs/fw_cfg.txt: FW_CFG_NB_CPUS */
static unsigned number_of_cpus()
{
    outw(0x510, 5);
    unsigned low = inb(0x511);
    return low | inb(0x511) << 8;
}

extern "C" void specimen_main()
{
    debug("specimen: a test guest of osvtriage\n");
    parse_command_line();
    unsigned cpus = number_of_cpus();
    assert(cpus <= MAX_CPUS);
    sched::init(cpus);
}

/* A line, where an assertion that fails on a tiny stack has the room for it. */
static char line[1024];
static spinlock console;

static char* put(char* to, char c)
{
    if (to < line + sizeof(line))
        *to++ = c;
    return to;
}

/* %s, %u, %d and %x, with a width that is filled with zeros, and l; returns where it ended. */
static char* format_line(const char* format, va_list arguments)
{
    char* to = line;
    for (; *format; format++) {
        if (*format != '%') {
            to = put(to, *format);
            continue;
        }
        unsigned width = 0, n = 0;
        bool is_long = false;
        while ((*++format >= '0' && *format <= '9') || *format == 'l') {
            is_long |= *format == 'l';
            width = *format == 'l' ? width : width * 10 + (*format - '0');
        }
        if (*format == 's') {
            for (const char* text = va_arg(arguments, const char*); *text; text++)
                to = put(to, *text);
            continue;
        }
        ulong value = is_long ? va_arg(arguments, ulong) : va_arg(arguments, unsigned);
        ulong base = *format == 'x' ? 16 : 10;
        char digits[24];
        do {
            digits[n++] = "0123456789abcdef"[value % base];
            value /= base;
        } while (value || n < width);
        while (n)
            to = put(to, digits[--n]);
    }
    return to;
}

static void print(const char* format, va_list arguments)
{
    irq_lock guard(console);
    const char* end = format_line(format, arguments);
    for (const char* c = line; c < end; c++) {
        spin_until([] { return inb(0x3f8 + 5) & 0x20; });       /* COM1 can take a character */
        outb(0x3f8, *c);
    }
}

void debug(const char* format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print(format, arguments);
    va_end(arguments);
}

void abort()
{
    abort("Aborted\n");
}

void abort(const char* format, ...)
{
    static bool aborting;
    if (__atomic_exchange_n(&aborting, true, __ATOMIC_SEQ_CST))
        spin_until([] { return false; });
    asm volatile("cli");
    va_list arguments;
    va_start(arguments, format);
    print(format, arguments);
    va_end(arguments);
    osv::halt();
}

void osv::halt()
{
    lapic::stop_others();
    for (;;)
        asm volatile("cli; hlt");
}

/* QEMU's PC machines have PM1a_CNT here: SLP_EN, and SLP_TYP of S5, which is 0. */
void osv::poweroff()
{
    outw(0x604, 0x2000);
    halt();
}

void* memcpy(void* to, const void* from, size_t size)
{
    void* start = to;
    size_t words = size / 8;            /* each repetition is a step for who single-steps */
    size %= 8;
    asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    return start;
}

void* memset(void* to, int byte, size_t size)
{
    void* start = to;
    asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
    return start;
}
