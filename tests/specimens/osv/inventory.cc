/* SPDX-License-Identifier: Apache-2.0 */
/* What a debugger shows of such a kernel beside its threads: areas, callouts, waiters. The specimen
 * has no use for them: they are here to be looked at, and never change. */
#include "specimen.hh"

/* boost's compact nodes have their colour in the lowest bit of the pointer to the parent. */
#define BLACK(node) ((sched::tree_node*)((char*)(node) + 1))

struct dentry { const char* d_path; };
struct file { struct { dentry* px; } f_dentry; };

namespace memory {

size_t phys_mem_size = 128ul << 20;
struct atomic_size { size_t _M_i; } free_memory = { 96ul << 20 };

struct list_node { list_node *next_, *prev_; };
struct reclaimer_waiters {
    struct wait_node {
        list_node hook;
        sched::thread* owner;
        size_t bytes;
    };
    list_node _waiters;
};
struct reclaimer { reclaimer_waiters _oom_blocked; };
extern reclaimer reclaimer_thread;
static reclaimer_waiters::wait_node waiter = {
    { &reclaimer_thread._oom_blocked._waiters, &reclaimer_thread._oom_blocked._waiters },
    nullptr, 12345,
};
reclaimer reclaimer_thread = { { { &waiter.hook, &waiter.hook } } };

void wait_for_memory(sched::thread* t) { waiter.owner = t; }

}  // namespace memory

namespace mmu {

enum { perm_read = 1, perm_write = 2, perm_exec = 4 };
enum { mmap_fixed = 1, mmap_small = 32, mmap_file = 128, mmap_stack = 256 };

struct vma {
    void* _vptr;
    struct { ulong _start, _end; } _range;
    unsigned _perm, _flags;
    sched::tree_node _vma_list_hook;
};
struct file_vma : vma {
    struct { struct file* px; } _file;
    ulong _offset;
};
struct list_of_areas { struct { sched::tree_node header_; } tree_; };
extern list_of_areas vma_list;
extern vma stack_area;
extern file_vma file_area;
static dentry entry = { "/specimen.so" };
static struct file mapped = { { &entry } };

/* In their order: the file, an edge of the address space, the stack. */
static vma edge = { nullptr, { 0x200000000, 0x200000000 }, 0, 0,
                    { BLACK(&vma_list), &file_area._vma_list_hook, &stack_area._vma_list_hook } };
file_vma file_area = { { nullptr, { 0x100000000, 0x100003000 }, perm_read | perm_exec,
                         mmap_fixed | mmap_small | mmap_file,
                         { BLACK(&edge._vma_list_hook), nullptr, nullptr } },
                       { &mapped }, 0x1000 };
vma stack_area = { nullptr, { 0x300000000, 0x300100000 }, perm_read | perm_write, mmap_stack,
                   { BLACK(&edge._vma_list_hook), nullptr, nullptr } };
list_of_areas vma_list = { { { &edge._vma_list_hook, nullptr, nullptr } } };

}  // namespace mmu

struct callout {
    int c_flags;
    long c_to_ns;
    void (*c_fn)(void*);
    void* c_arg;
};

/* As libstdc++ lays out a std::set<callout*>. */
namespace std {
struct _Rb_tree_node_base {
    int _M_color;
    _Rb_tree_node_base *_M_parent, *_M_left, *_M_right;
};
}

namespace callouts {

struct node : std::_Rb_tree_node_base { callout* value; };
struct set_of_callouts { struct { std::_Rb_tree_node_base _M_header; size_t _M_node_count; } _M_t; };
extern set_of_callouts _callouts;
static callout soon = { 6, 1500000000, free, &soon }, late = { 0x24, 300000000001, free, nullptr };
extern node late_node;
static node soon_node = { { 1, &_callouts._M_t._M_header, nullptr, &late_node }, &soon };
node late_node = { { 0, &soon_node, nullptr, nullptr }, &late };
set_of_callouts _callouts = { { { 0, &soon_node, &soon_node, &late_node }, 2 } };

}  // namespace callouts
