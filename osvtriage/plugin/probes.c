/*
 * Probes that do not stop the guest: a plugin for QEMU's TCG.
 *
 * It knows no processor, no kernel and no recipe. What it looks at stands in a file that osvtriage
 * wrote and both have mapped (shared.py): a table of probes, a counter for everything that happens,
 * and a ring of records. A probe is code addresses of two sides, what to capture there (registers,
 * memory found through pointers, areas of memory), which captures tell one passage from all others
 * (its key), and which must be equal at both sides. Every passage is counted; only one whose sides
 * differ, and a few samples, are put into the ring. A record that does not fit is dropped and
 * counted: the guest never waits.
 *
 * The counters are in the file, not in this process, so that they outlive a QEMU that is killed.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qemu_api.h"

#define EXPORTED __attribute__((visibility("default")))

/* The numbers below are those of shared.py. */
#define MAGIC 0x31474c505654534fULL /* "OSTVPLG1" */
#define LAYOUT 1

enum { STATE_IDLE, STATE_ARMED };
enum { CAPTURE_REGISTER, CAPTURE_PATH, CAPTURE_AREA, CAPTURE_CHAIN, CAPTURE_BLOCK };
#define NOWHERE 0xffffffffu /* a base: none */
enum { /* when a capture is taken, and what for */
    AT_ENTRY = 1,
    AT_EXIT = 2,
    WHEN_SENT_ENTRY = 4, /* with the entry's registers, but only if a record is sent */
    WHEN_SENT_EXIT = 8,
    COMPARED = 16,
    KEY = 32,
    WITH_KEY = 64,    /* what a key, or what is compared, is reached from */
    FROM_ENTRY = 128, /* at the exit, too, it starts from what its base was at the entry */
};
enum { /* flags of a probe */
    RETURNS = 1, /* what is entered returns to its exit */
    HOLDS = 2,   /* only a value that holds a status word counts */
    STREAMED = 4, /* every entry and every exit is a record of its own, in their order */
    MASKED = 8,   /* only passages count at whose both sides a value has one of some bits */
    AGAIN = 16,   /* a value that tells a second hit of the same passage's entry */
};
enum { RECORD_SKIP, RECORD_ENTRY, RECORD_SPAN, RECORD_CHANGE, RECORD_WATCHED, RECORD_EXIT };
enum { /* counters of a probe */
    HITS, PASSAGES, SAME, DIFFERING, SENT, UNSENT, DROPPED, LOST, UNPAIRED, FOREIGN, OTHERS,
    N_COUNTERS = 16,
};

typedef struct {
    uint64_t magic, layout, state, loaded;
    uint64_t table_at, table_words, counters_at;
    uint64_t ring_at, ring_size, head, tail;
    uint64_t dropped, interface;
    char error[256];
} shared_header;

typedef struct {
    char name[24];
    register_handle *handle;
} guest_register;

typedef struct {
    unsigned kind, when, base, size;
    unsigned n_offsets;
    const uint64_t *offsets;
    unsigned n_more;
    const uint64_t *more; /* of a chain: link, start, size, clear; of a block: own, other, mask */
    unsigned at; /* where its value is in a buffer of captures */
} capture;

typedef struct probe probe;

#define MOST_CODE 32
#define MOST_GUARD 16
#define MOST_GUARDS 4
#define PAGE 4096

typedef struct {
    uint64_t address;
    uint64_t code_size, before;
    uint8_t code[MOST_CODE]; /* what must be there, from `before` bytes before the address on */
    bool shared;             /* the page may be elsewhere in other processes */
    probe *owner;
    bool is_exit;
} site;

/* What the value of a capture must begin with. */
typedef struct {
    unsigned place, size;
    uint8_t bytes[MOST_GUARD];
} guard;

struct probe {
    unsigned number, flags;
    unsigned n_captures, n_keys;
    capture *captures;
    unsigned keys[2];
    uint64_t examples, samples;
    unsigned value, status;
    unsigned masked;
    uint64_t mask;
    guard guards[MOST_GUARDS];
    unsigned n_guards, again;
    /* Which captures the clobbered register is (twice the same, or two halves), and the thread. */
    bool watched;
    unsigned halves[2], thread;
    bool has_exits;
    unsigned buffer_size;
    uint64_t *counters;
};

/* A passage that was entered and not left yet. */
typedef struct {
    bool used;
    unsigned probe, vcpu;
    uint64_t key[2], order, address;
    uint8_t *values;
} passage;

#define MOST_REGISTERS 1024
#define WAYS 8
#define LOCKS 64

static shared_header *shared;
static uint8_t *base_of_file;
static bool failed;

static bool big_endian;
static guest_register *registers;
static unsigned n_registers;
static probe *probes;
static unsigned n_probes;
static site *sites;
static unsigned n_sites;
static site **shared_sites;
static unsigned n_shared_sites;
static unsigned largest_buffer;

static passage *passages;
static uint64_t n_sets;
static pthread_mutex_t set_locks[LOCKS];
static uint64_t order;

static pthread_mutex_t ring_lock = PTHREAD_MUTEX_INITIALIZER;

/* The span in which every instruction is looked at, where one register's clobber is searched. */
static struct {
    bool wanted;
    uint64_t most_spans, most_changes;
    vcpu_word active;
    pthread_mutex_t lock;
    probe *running; /* NULL between spans */
    uint64_t spans, thread_value, key[2], last, instructions, changes;
    bool changed;
    unsigned vcpu;             /* where the thread ran last, and whether it has left since */
    bool away;
    uint8_t *before;           /* the values at the span's entry */
    uint8_t *now;
} watch = { .lock = PTHREAD_MUTEX_INITIALIZER };

static __thread glib_bytes *scratch;
static __thread uint8_t *exit_values;

static void prepare_thread(void)
{
    if (!scratch) {
        scratch = g_byte_array_new();
        exit_values = calloc(1, largest_buffer + 8);
    }
}

static void complain(const char *text)
{
    failed = true;
    snprintf(shared->error, sizeof shared->error, "%s", text);
}

static void count(probe *p, unsigned counter)
{
    __atomic_fetch_add(&p->counters[counter], 1, __ATOMIC_RELAXED);
}

/* Guest values. */

static uint64_t number(const uint8_t *bytes, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size && i < 8; i++) {
        value |= (uint64_t)bytes[big_endian ? size - 1 - i : i] << (8 * i);
    }
    return value;
}

static uint8_t *value_of(const capture *c, uint8_t *values, uint32_t **size)
{
    *size = (uint32_t *)(values + c->at);
    return values + c->at + 8;
}

static bool read_memory(uint64_t address, unsigned size, uint8_t *into)
{
    if (!qemu_plugin_read_memory_vaddr(address, scratch, size)) {
        return false;
    }
    memcpy(into, scratch->data, size);
    return true;
}

static void put_number(uint64_t value, uint8_t *into)
{
    for (unsigned i = 0; i < 8; i++) {
        into[big_endian ? 7 - i : i] = value >> (8 * i);
    }
}

/* The value of another capture, as an address; false where it was not taken. */
static bool address_of(const probe *p, unsigned place, uint8_t *values, uint64_t *address)
{
    uint32_t *size;
    uint8_t *bytes = value_of(&p->captures[place], values, &size);
    *address = number(bytes, 8);
    return *size == 8;
}

/* Whether a block of memory has its own address in it, where nobody else can make one. */
static bool holds_itself(const capture *c, uint64_t address)
{
    uint8_t held[8];
    uint64_t at = address + c->more[0];
    return (at & c->more[2]) == c->more[2] && read_memory(at, 8, held) &&
           number(held, 8) == address;
}

/* The nodes of a list; how many bytes of the value that takes. The guest may have damaged it: it
 * ends where a node comes a second time, or where there is no memory. */
static unsigned take_chain(const capture *c, uint64_t node, uint8_t *into)
{
    uint64_t link = c->more[0], start = c->more[1];
    unsigned bytes = c->more[2], step = 8 + ((bytes + 7) & ~7u), at = 8;
    uint64_t full = 0;

    for (;;) {
        for (unsigned seen = 8; seen < at; seen += step) {
            if (!memcmp(into + seen, &node, 8)) {
                goto ended;
            }
        }
        if (at + step > c->size) {
            full = 1;
            break;
        }
        uint8_t pointer[8];
        if (!read_memory(node + start, bytes, into + at + 8) ||
            !read_memory(node + link, 8, pointer)) {
            break;
        }
        memcpy(into + at, &node, 8);
        at += step;
        node = number(pointer, 8);
    }
ended:
    memcpy(into, &full, 8);
    return at;
}

/* Take one capture into a buffer that has the captures it starts from already; those of `entry` are
 * what was there at the entry. */
static void take(const probe *p, const capture *c, uint8_t *values, uint8_t *entry)
{
    uint32_t *size;
    uint8_t *into = value_of(c, values, &size);

    *size = 0;
    if (c->kind == CAPTURE_REGISTER) {
        register_handle *handle = registers[c->base].handle;
        g_byte_array_set_size(scratch, 0);
        int got = handle ? qemu_plugin_read_register(handle, scratch) : 0;
        if (got > 0 && (unsigned)got <= c->size) {
            memcpy(into, scratch->data, got);
            *size = got;
        }
        return;
    }
    uint64_t address = 0;
    if (c->base != NOWHERE && !address_of(p, c->base, c->when & FROM_ENTRY ? entry : values,
                                          &address)) {
        return;
    }
    if (c->kind == CAPTURE_BLOCK) {
        uint64_t other;
        if (!holds_itself(c, address)) {
            if (!address_of(p, c->more[1], values, &other) || !holds_itself(c, other)) {
                return;
            }
            address = other;
        }
        put_number(address, into);
        *size = 8;
        return;
    }
    for (unsigned i = 0; i < c->n_offsets; i++) {
        address += c->offsets[i];
        if (i + 1 < c->n_offsets) {
            uint8_t pointer[8];
            if (!read_memory(address, 8, pointer)) {
                return;
            }
            address = number(pointer, 8);
        }
    }
    if (c->kind == CAPTURE_PATH) {
        *size = read_memory(address, c->size, into) ? c->size : 0;
        return;
    }
    if (c->kind == CAPTURE_CHAIN) {
        *size = take_chain(c, address & ~c->more[3], into);
        return;
    }
    /* An area: its address, then as many bytes as can be read, page by page. */
    memcpy(into, &address, 8);
    *size = 8;
    for (unsigned have = 0, room = c->size - 8; have < room;) {
        uint64_t at = address + have;
        unsigned part = 4096 - (at & 4095);
        part = part < room - have ? part : room - have;
        if (!read_memory(at, part, into + 8 + have)) {
            return;
        }
        have += part;
        *size = 8 + have;
    }
}

static void take_all(const probe *p, unsigned any, unsigned none, uint8_t *values, uint8_t *entry)
{
    for (unsigned i = 0; i < p->n_captures; i++) {
        const capture *c = &p->captures[i];
        if ((c->when & any) && !(c->when & none)) {
            take(p, c, values, entry);
        }
    }
}

static void forget(const probe *p, unsigned when, uint8_t *values)
{
    for (unsigned i = 0; i < p->n_captures; i++) {
        if (p->captures[i].when & when) {
            uint32_t *size;
            value_of(&p->captures[i], values, &size);
            *size = 0;
        }
    }
}

static bool differ(const probe *p, uint8_t *entry, uint8_t *left)
{
    for (unsigned i = 0; i < p->n_captures; i++) {
        const capture *c = &p->captures[i];
        if (!(c->when & COMPARED)) {
            continue;
        }
        uint32_t *before, *after;
        uint8_t *a = value_of(c, entry, &before), *b = value_of(c, left, &after);
        /* What cannot be read is not known to be equal. */
        if (!*before || *before != *after || memcmp(a, b, *before)) {
            return true;
        }
    }
    return false;
}

/* Whether a doubleword of the value is, at the exit, the status word that was there at the entry. */
static bool holds(const probe *p, uint8_t *entry, uint8_t *left)
{
    uint32_t *status_size, *size;
    uint8_t *status = value_of(&p->captures[p->status], entry, &status_size);
    uint8_t *value = value_of(&p->captures[p->value], left, &size);
    if (!*status_size || !*size) {
        return true;
    }
    uint32_t word = number(status, *status_size);
    for (unsigned at = 0; word && at + 8 <= *size; at += 8) {
        if (number(value + at, 8) == word) {
            return true;
        }
    }
    return false;
}

static bool has_bits(const probe *p, uint8_t *values)
{
    uint32_t *size;
    uint8_t *bytes = value_of(&p->captures[p->masked], values, &size);
    return number(bytes, *size) & p->mask;
}

/* Whether a hit is of whom the probe is for; what tells it was taken with the key. */
static bool is_meant(const probe *p, uint8_t *values)
{
    for (unsigned i = 0; i < p->n_guards; i++) {
        const guard *one = &p->guards[i];
        uint32_t *size;
        uint8_t *bytes = value_of(&p->captures[one->place], values, &size);
        if (*size < one->size || memcmp(bytes, one->bytes, one->size)) {
            return false;
        }
    }
    return true;
}

/* Whether the code at a site is there in the memory of the process that runs: QEMU translates a page
 * once, for all addresses at which processes have it. */
static bool is_mapped(const site *at)
{
    uint8_t there[MOST_CODE];
    return !at->shared || (read_memory(at->address - at->before, at->code_size, there) &&
                           !memcmp(there, at->code, at->code_size));
}

static bool is_again(const probe *p, uint8_t *entered, uint8_t *now)
{
    uint32_t *before, *after;
    uint8_t *a = value_of(&p->captures[p->again], entered, &before);
    uint8_t *b = value_of(&p->captures[p->again], now, &after);
    return *before && *before == *after && !memcmp(a, b, *before);
}

static void key_of(const probe *p, uint8_t *values, uint64_t key[2])
{
    key[0] = key[1] = 0;
    for (unsigned i = 0; i < p->n_keys; i++) {
        uint32_t *size;
        uint8_t *bytes = value_of(&p->captures[p->keys[i]], values, &size);
        key[i] = number(bytes, *size);
    }
}

/* The ring. Several vCPUs write, osvtriage alone reads. */

static unsigned padded(unsigned size)
{
    return (size + 7) & ~7u;
}

static bool put(uint64_t kind, const probe *p, const uint64_t words[4], uint8_t *entry,
                uint8_t *left)
{
    uint64_t size = 8 * 6;
    for (unsigned i = 0; i < p->n_captures; i++) {
        uint32_t *a, *b;
        value_of(&p->captures[i], entry, &a);
        size += 8 + padded(*a);
        if (left) {
            value_of(&p->captures[i], left, &b);
            size += padded(*b);
        }
    }
    pthread_mutex_lock(&ring_lock);
    uint8_t *ring = base_of_file + shared->ring_at;
    uint64_t room = shared->ring_size, head = shared->head;
    uint64_t used = head - __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE);
    uint64_t to_end = room - head % room;
    uint64_t skip = to_end < size ? to_end : 0;
    bool fits = used + skip + size <= room;
    if (fits) {
        if (skip) {
            uint64_t *marker = (uint64_t *)(ring + head % room);
            *marker = RECORD_SKIP << 8;
            head += skip;
        }
        uint8_t *to = ring + head % room;
        uint64_t first[6] = { size << 8 | kind, p->number, words[0], words[1], words[2], words[3] };
        memcpy(to, first, sizeof first);
        to += sizeof first;
        for (unsigned i = 0; i < p->n_captures; i++) {
            uint32_t *a, *b = NULL, none = 0;
            uint8_t *before = value_of(&p->captures[i], entry, &a), *after = NULL;
            if (left) {
                after = value_of(&p->captures[i], left, &b);
            }
            memcpy(to, a, 4);
            memcpy(to + 4, left ? b : &none, 4);
            to += 8;
            memcpy(to, before, *a);
            to += padded(*a);
            if (left) {
                memcpy(to, after, *b);
                to += padded(*b);
            }
        }
        __atomic_store_n(&shared->head, head + size, __ATOMIC_RELEASE);
    } else {
        __atomic_fetch_add(&shared->dropped, 1, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&ring_lock);
    return fits;
}

static void send(uint64_t kind, probe *p, const uint64_t words[4], uint8_t *entry, uint8_t *left)
{
    count(p, put(kind, p, words, entry, left) ? SENT : DROPPED);
}

/* One of the first `most`: counts itself, so that two vCPUs do not both believe to be the last. */
static bool claim(probe *p, unsigned counter, uint64_t most)
{
    return __atomic_fetch_add(&p->counters[counter], 1, __ATOMIC_RELAXED) < most;
}

/* Watching every instruction of a span. */

static void set_active(bool active)
{
    for (int vcpu = 0; vcpu < qemu_plugin_num_vcpus(); vcpu++) {
        qemu_plugin_u64_set(watch.active, vcpu, active);
    }
}

static void begin_watch(probe *p, const uint64_t key[2], unsigned vcpu, uint64_t address,
                        uint8_t *values)
{
    if (!watch.wanted || !p->watched) {
        return;
    }
    pthread_mutex_lock(&watch.lock);
    if (!watch.running && watch.spans < watch.most_spans) {
        uint32_t *size;
        uint8_t *bytes = value_of(&p->captures[p->thread], values, &size);
        watch.thread_value = number(bytes, *size);
        memcpy(watch.key, key, sizeof watch.key);
        memcpy(watch.before, values, p->buffer_size);
        watch.spans++;
        watch.last = address;
        watch.instructions = watch.changes = 0;
        watch.changed = watch.away = false;
        watch.vcpu = vcpu;
        watch.running = p;
        set_active(true);
    }
    pthread_mutex_unlock(&watch.lock);
}

static void end_watch(probe *p, const uint64_t key[2], unsigned vcpu, uint8_t *left)
{
    if (!watch.wanted || !p->watched) {
        return;
    }
    pthread_mutex_lock(&watch.lock);
    if (watch.running == p && !memcmp(key, watch.key, sizeof watch.key)) {
        watch.running = NULL;
        set_active(false);
        take_all(p, AT_EXIT | WHEN_SENT_EXIT, 0, left, watch.before);
        const uint64_t words[4] = { vcpu, watch.spans, watch.instructions, watch.changes };
        put(RECORD_WATCHED, p, words, watch.before, left);
    }
    pthread_mutex_unlock(&watch.lock);
}

static bool is_changed(const probe *p)
{
    for (unsigned i = 0; i < 2; i++) {
        const capture *c = &p->captures[p->halves[i]];
        uint32_t *size, *before_size;
        take(p, c, watch.now, watch.before);
        uint8_t *now = value_of(c, watch.now, &size);
        uint8_t *before = value_of(c, watch.before, &before_size);
        if (*size != *before_size || memcmp(now, before, *size)) {
            return true;
        }
    }
    return false;
}

static bool is_watched_thread(const probe *p)
{
    const capture *thread = &p->captures[p->thread];
    uint32_t *size;
    if (thread->kind != CAPTURE_REGISTER) {
        take(p, &p->captures[thread->base], watch.now, watch.before);
    }
    take(p, thread, watch.now, watch.before);
    uint8_t *bytes = value_of(thread, watch.now, &size);
    return *size && number(bytes, *size) == watch.thread_value;
}

/* Before an instruction, while a span is watched: did the one before it change the register? A
 * change that is taken back is told as well as the one that follows it, and whether it came with a
 * switch of threads, whose kernel gives a thread its registers back some instructions later;
 * osvtriage chooses. */
static void on_watched(unsigned vcpu, void *userdata)
{
    uint64_t address = (uint64_t)(uintptr_t)userdata;

    prepare_thread();
    pthread_mutex_lock(&watch.lock);
    probe *p = watch.running;
    if (p && !is_watched_thread(p)) {
        watch.away |= vcpu == watch.vcpu;
    } else if (p) {
        uint64_t switched = watch.away || vcpu != watch.vcpu;
        bool changed = is_changed(p);
        if (changed && !watch.changed && watch.changes < watch.most_changes) {
            take_all(p, AT_EXIT | WHEN_SENT_EXIT | KEY | WITH_KEY, 0, watch.now, watch.before);
            const uint64_t words[4] = {
                vcpu | switched << 32, watch.spans, watch.last, address,
            };
            watch.changes++;
            put(RECORD_CHANGE, p, words, watch.before, watch.now);
        }
        watch.changed = changed;
        watch.away = false;
        watch.vcpu = vcpu;
        watch.last = address;
        watch.instructions++;
    }
    pthread_mutex_unlock(&watch.lock);
}

/* Passages. */

static passage *set_of(const probe *p, const uint64_t key[2], pthread_mutex_t **lock)
{
    uint64_t hash = (key[0] ^ (key[1] << 1) ^ ((uint64_t)p->number << 48)) * 0x9e3779b97f4a7c15ULL;
    uint64_t set = (hash >> 32) % n_sets;
    *lock = &set_locks[set % LOCKS];
    return &passages[set * WAYS];
}

static passage *find(passage *set, const probe *p, const uint64_t key[2])
{
    for (unsigned i = 0; i < WAYS; i++) {
        passage *one = &set[i];
        if (one->used && one->probe == p->number && !memcmp(one->key, key, sizeof one->key)) {
            return one;
        }
    }
    return NULL;
}

static passage *room_in(passage *set)
{
    passage *oldest = set;
    for (unsigned i = 0; i < WAYS; i++) {
        if (!set[i].used) {
            return &set[i];
        }
        if (set[i].order < oldest->order) {
            oldest = &set[i];
        }
    }
    /* A passage that never ended, or one of too many at once: either way it is not seen to its
     * end. */
    count(&probes[oldest->probe], LOST);
    return oldest;
}

static void on_entry(unsigned vcpu, void *userdata)
{
    const site *at = userdata;
    probe *p = at->owner;

    prepare_thread();
    take_all(p, KEY | WITH_KEY, 0, exit_values, exit_values);
    if (!is_meant(p, exit_values) || !is_mapped(at)) {
        count(p, OTHERS);
        return;
    }
    if (!p->has_exits) {
        count(p, HITS);
        if (claim(p, DIFFERING, p->examples)) {
            const uint64_t words[4] = { vcpu, at->address, 0, 0 };
            take_all(p, AT_ENTRY | WHEN_SENT_ENTRY | KEY | WITH_KEY, 0, exit_values, exit_values);
            send(RECORD_ENTRY, p, words, exit_values, NULL);
        } else {
            count(p, UNSENT);
        }
        return;
    }
    uint64_t key[2];
    pthread_mutex_t *lock;
    key_of(p, exit_values, key);
    passage *set = set_of(p, key, &lock);
    pthread_mutex_lock(lock);
    passage *one = find(set, p, key);
    if (one && ((p->flags & RETURNS) ||
                ((p->flags & AGAIN) && is_again(p, one->values, exit_values)))) {
        /* The instruction that enters is executed anew, after a fault or an interrupt: what was
         * entered has not returned, for then its passage would have ended. */
        pthread_mutex_unlock(lock);
        return;
    }
    one = one ? one : room_in(set);
    count(p, HITS);
    one->used = true;
    one->probe = p->number;
    one->vcpu = vcpu;
    memcpy(one->key, key, sizeof key);
    one->order = __atomic_fetch_add(&order, 1, __ATOMIC_RELAXED);
    one->address = at->address;
    forget(p, WHEN_SENT_ENTRY | WHEN_SENT_EXIT | AT_EXIT, one->values);
    take_all(p, AT_ENTRY | KEY | WITH_KEY, 0, one->values, one->values);
    if (p->flags & STREAMED) {
        const uint64_t words[4] = { vcpu, at->address, 0, 0 };
        send(RECORD_ENTRY, p, words, one->values, NULL);
    }
    begin_watch(p, key, vcpu, at->address, one->values);
    pthread_mutex_unlock(lock);
}

static void on_exit_side(unsigned vcpu, void *userdata)
{
    const site *at = userdata;
    probe *p = at->owner;

    prepare_thread();
    uint64_t key[2];
    pthread_mutex_t *lock;
    take_all(p, KEY | WITH_KEY, 0, exit_values, exit_values);
    if (!is_meant(p, exit_values) || !is_mapped(at)) {
        count(p, OTHERS);
        return;
    }
    key_of(p, exit_values, key);
    passage *set = set_of(p, key, &lock);
    pthread_mutex_lock(lock);
    passage *one = find(set, p, key);
    if (!one) {
        /* The guest was in the middle of it when the probes were armed, or the code at the exit is
         * reached on other ways, too. */
        pthread_mutex_unlock(lock);
        count(p, UNPAIRED);
        return;
    }
    take_all(p, COMPARED, KEY | WITH_KEY, exit_values, one->values);
    bool same = !differ(p, one->values, exit_values) ||
                ((p->flags & HOLDS) && !holds(p, one->values, exit_values)) ||
                ((p->flags & MASKED) && !(has_bits(p, one->values) && has_bits(p, exit_values)));
    bool sample = claim(p, PASSAGES, p->samples) || (p->flags & STREAMED);
    bool wanted = same ? sample : claim(p, DIFFERING, p->examples) || (p->flags & STREAMED);
    if (same) {
        count(p, SAME);
    }
    if (wanted) {
        forget(p, AT_ENTRY | WHEN_SENT_ENTRY, exit_values);
        take_all(p, AT_EXIT | WHEN_SENT_EXIT | KEY | WITH_KEY, 0, exit_values, one->values);
        take_all(p, WHEN_SENT_ENTRY, 0, one->values, one->values);
        const uint64_t words[4] = {
            one->vcpu | (uint64_t)vcpu << 32, one->address, at->address, !same,
        };
        send(p->flags & STREAMED ? RECORD_EXIT : RECORD_SPAN, p, words, one->values, exit_values);
    } else if (!same) {
        count(p, UNSENT);
    }
    end_watch(p, key, vcpu, exit_values);
    one->used = false;
    pthread_mutex_unlock(lock);
}

/* Translation: where the probes are put into the guest's code. */

static int by_address(const void *a, const void *b)
{
    const site *x = a, *y = b;
    if (x->address != y->address) {
        return x->address < y->address ? -1 : 1;
    }
    /* An exit that is another passage's entry is left first. */
    return (int)y->is_exit - (int)x->is_exit;
}

static const uint64_t *word_at, *words_end;

static uint64_t next(void)
{
    if (word_at == words_end) {
        complain("the table of probes ends too early");
        return 0;
    }
    return *word_at++;
}

static void next_bytes(uint8_t *into, unsigned size)
{
    for (unsigned i = 0; i < size; i += 8) {
        uint64_t part = next();
        memcpy(into + i, &part, 8);
    }
}

static void read_probe(probe *p, unsigned number_, unsigned *site_at)
{
    p->number = number_;
    p->flags = next();
    p->examples = next();
    p->samples = next();
    p->value = next();
    p->status = next();
    p->masked = next();
    p->mask = next();
    p->watched = next();
    p->halves[0] = next();
    p->halves[1] = next();
    p->thread = next();
    p->again = next();
    p->n_guards = next();
    if (p->n_guards > MOST_GUARDS) {
        complain("a probe has too many guards");
        return;
    }
    for (unsigned i = 0; i < p->n_guards; i++) {
        guard *one = &p->guards[i];
        one->place = next();
        one->size = next();
        next_bytes(one->bytes, MOST_GUARD);
    }
    unsigned entries = next(), exits = next();
    p->has_exits = exits > 0;
    for (unsigned i = 0; i < entries + exits && !failed; i++) {
        site *s = &sites[(*site_at)++];
        s->address = next();
        s->code_size = next();
        s->before = next();
        s->shared = next();
        next_bytes(s->code, MOST_CODE);
        s->owner = p;
        s->is_exit = i >= entries;
    }
    p->n_captures = next();
    p->captures = calloc(p->n_captures + 1, sizeof *p->captures);
    for (unsigned i = 0; i < p->n_captures && !failed; i++) {
        capture *c = &p->captures[i];
        c->kind = next();
        c->when = next();
        c->base = next();
        c->size = next();
        c->n_offsets = next();
        c->offsets = word_at;
        c->at = p->buffer_size;
        p->buffer_size += 8 + padded(c->size);
        if ((c->when & KEY) && p->n_keys < 2) {
            p->keys[p->n_keys++] = i;
        }
        for (unsigned j = 0; j < c->n_offsets && !failed; j++) {
            next();
        }
        c->n_more = next();
        c->more = word_at;
        for (unsigned j = 0; j < c->n_more && !failed; j++) {
            next();
        }
    }
    p->counters = (uint64_t *)(base_of_file + shared->counters_at) + number_ * N_COUNTERS;
    if (p->buffer_size > 1 << 22) {
        complain("a probe captures more than 4 MiB");
    }
}

static void load(void)
{
    word_at = (const uint64_t *)(base_of_file + shared->table_at);
    words_end = word_at + shared->table_words;
    big_endian = next();
    uint64_t wanted_passages = next();
    unsigned wanted_registers = next();
    if (wanted_registers > MOST_REGISTERS) {
        complain("too many registers are asked for");
        return;
    }
    n_probes = next();
    unsigned wanted_sites = next();
    for (unsigned i = 0; i < wanted_registers && !failed; i++) {
        char name[24];
        next_bytes((uint8_t *)name, sizeof name);
        /* The first of a name: ppc64 has lr and ctr once more among the SPRs, always 0 there. */
        for (unsigned j = n_registers; j-- > 0;) {
            if (!strncmp(registers[j].name, name, sizeof name)) {
                registers[i + n_registers].handle = registers[j].handle;
            }
        }
        if (!registers[i + n_registers].handle) {
            char text[80];
            snprintf(text, sizeof text, "this QEMU shows no register %.23s to plugins", name);
            complain(text);
        }
    }
    /* Captures name registers by their place in the table. */
    registers += n_registers;
    n_registers = wanted_registers;
    probes = calloc(n_probes + 1, sizeof *probes);
    sites = calloc(wanted_sites + 1, sizeof *sites);
    unsigned largest = 0;
    for (unsigned i = 0; i < n_probes && !failed; i++) {
        read_probe(&probes[i], i, &n_sites);
        largest = probes[i].buffer_size > largest ? probes[i].buffer_size : largest;
    }
    largest_buffer = largest;
    watch.wanted = next();
    if (watch.wanted) {
        watch.most_spans = next();
        watch.most_changes = next();
        watch.before = calloc(1, largest);
        watch.now = calloc(1, largest);
        watch.active.score = qemu_plugin_scoreboard_new(sizeof(uint64_t));
    }
    n_sets = wanted_passages / WAYS + 1;
    passages = calloc(n_sets * WAYS, sizeof *passages);
    uint8_t *values = calloc(n_sets * WAYS, largest + 8);
    if (failed || !passages || !values) {
        complain(failed ? shared->error : "there is no memory for the passages");
        return;
    }
    for (uint64_t i = 0; i < n_sets * WAYS; i++) {
        passages[i].values = values + i * ((largest + 7) & ~7u);
    }
    for (unsigned i = 0; i < LOCKS; i++) {
        pthread_mutex_init(&set_locks[i], NULL);
    }
    qsort(sites, n_sites, sizeof *sites, by_address);
    shared_sites = calloc(n_sites + 1, sizeof *shared_sites);
    for (unsigned i = 0; i < n_sites; i++) {
        if (sites[i].shared) {
            shared_sites[n_shared_sites++] = &sites[i];
        }
    }
}

static site *first_at(uint64_t address)
{
    unsigned low = 0, high = n_sites;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (sites[middle].address < address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < n_sites && sites[low].address == address ? &sites[low] : NULL;
}

static void put_probe(instruction *insn, uint64_t address, site *s)
{
    uint8_t there[MOST_CODE];

    prepare_thread();
    if (s->code_size && (!read_memory(address - s->before, s->code_size, there) ||
                         memcmp(there, s->code, s->code_size))) {
        if (!s->shared) {
            /* Another address space's code, or the kernel has changed its own. */
            count(s->owner, FOREIGN);
        }
        return;
    }
    qemu_plugin_register_vcpu_insn_exec_cb(insn, s->is_exit ? on_exit_side : on_entry,
                                           CALLBACK_READS_REGISTERS, s);
}

static void on_translation(plugin_id id, block *translated)
{
    (void)id;
    size_t n = qemu_plugin_tb_n_insns(translated);
    for (size_t i = 0; i < n; i++) {
        instruction *insn = qemu_plugin_tb_get_insn(translated, i);
        uint64_t address = qemu_plugin_insn_vaddr(insn);
        /* Before the exit ends the watch: the last instruction of a span is one of it. */
        if (watch.wanted) {
            qemu_plugin_register_vcpu_insn_exec_cond_cb(
                insn, on_watched, CALLBACK_READS_REGISTERS, CONDITION_NOT_EQUAL, watch.active, 0,
                (void *)(uintptr_t)address);
        }
        site *s = first_at(address);
        for (; s && s < sites + n_sites && s->address == address; s++) {
            if (!s->shared) {
                put_probe(insn, address, s);
            }
        }
        for (unsigned j = 0; j < n_shared_sites; j++) {
            if (!((shared_sites[j]->address ^ address) & (PAGE - 1))) {
                put_probe(insn, address, shared_sites[j]);
            }
        }
    }
}

/* All vCPUs have stopped, and all code that was translated before is gone. */
static void on_armed(plugin_id id)
{
    load();
    if (!failed) {
        qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    }
    __atomic_store_n(&shared->loaded, 1, __ATOMIC_RELEASE);
}

/* Until osvtriage arms the plugin nothing is instrumented. Then everything has to be translated
 * anew, which a reset sees to; it has to be asked for by a vCPU. */
static void look_whether_armed(plugin_id id)
{
    static bool asked;
    if (__atomic_load_n(&shared->state, __ATOMIC_ACQUIRE) == STATE_ARMED &&
        !__atomic_exchange_n(&asked, true, __ATOMIC_ACQ_REL)) {
        qemu_plugin_reset(id, on_armed);
    }
}

static void on_resume(plugin_id id, unsigned vcpu)
{
    (void)vcpu;
    look_whether_armed(id);
}

static void before_armed(plugin_id id, block *translated)
{
    (void)translated;
    look_whether_armed(id);
}

/* All vCPUs of a guest are alike: the first tells which registers there are. */
static void on_vcpu(plugin_id id, unsigned vcpu)
{
    (void)id;
    (void)vcpu;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    if (!registers) {
        glib_array *found = qemu_plugin_get_registers();
        const register_descriptor *all = (const register_descriptor *)found->data;
        registers = calloc(found->len + MOST_REGISTERS, sizeof *registers);
        for (unsigned i = 0; i < found->len; i++) {
            strncpy(registers[i].name, all[i].name, sizeof registers[i].name - 1);
            registers[i].handle = all[i].handle;
        }
        n_registers = found->len;
        g_array_free(found, 1);
    }
    pthread_mutex_unlock(&lock);
}

EXPORTED int qemu_plugin_version = API_VERSION;

EXPORTED int qemu_plugin_install(plugin_id id, const install_info *info, int argc, char **argv)
{
    const char *path = NULL;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "shared=", 7)) {
            path = argv[i] + 7;
        }
    }
    if (!info->system_emulation || !path) {
        fprintf(stderr, "osvtriage's plugin needs shared=FILE, and a whole guest\n");
        return 1;
    }
    int file = open(path, O_RDWR | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status)) {
        perror(path);
        return 1;
    }
    base_of_file = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    shared = (shared_header *)base_of_file;
    if (base_of_file == MAP_FAILED || shared->magic != MAGIC || shared->layout != LAYOUT) {
        fprintf(stderr, "%s is not a file of osvtriage's plugin\n", path);
        return 1;
    }
    shared->interface = info->version.cur;
    qemu_plugin_register_vcpu_init_cb(id, on_vcpu);
    qemu_plugin_register_vcpu_resume_cb(id, on_resume);
    qemu_plugin_register_vcpu_tb_trans_cb(id, before_armed);
    return 0;
}
