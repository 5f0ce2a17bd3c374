/*
 * The part of QEMU's plugin interface that probes.c uses, version 4 (QEMU 10.0), declared anew from
 * its documentation (docs/devel/tcg-plugins.rst): Debian ships no header of it.
 */
#ifndef OSVTRIAGE_QEMU_API_H
#define OSVTRIAGE_QEMU_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The version that QEMU is asked for. Version 4 brought qemu_plugin_read_memory_vaddr(). */
#define API_VERSION 4

typedef uint64_t plugin_id;

/* What qemu_plugin_install() is told; only the head of it is used. */
typedef struct {
    const char *target_name;
    struct {
        int min;
        int cur;
    } version;
    bool system_emulation;
} install_info;

typedef struct register_handle register_handle;
typedef struct block block;             /* struct qemu_plugin_tb */
typedef struct instruction instruction; /* struct qemu_plugin_insn */
typedef struct scoreboard scoreboard;   /* struct qemu_plugin_scoreboard */

typedef struct {
    register_handle *handle;
    const char *name;
    const char *feature;
} register_descriptor;

/* A uint64_t in every vCPU's entry of a scoreboard. */
typedef struct {
    scoreboard *score;
    size_t offset;
} vcpu_word;

enum { CALLBACK_READS_REGISTERS = 1 };
enum { CONDITION_NOT_EQUAL = 3 };

/* GLib's public structures, of which only the first two members are read. */
typedef struct {
    char *data;
    unsigned len;
} glib_array;
typedef struct {
    uint8_t *data;
    unsigned len;
} glib_bytes;

glib_bytes *g_byte_array_new(void);
glib_bytes *g_byte_array_set_size(glib_bytes *bytes, unsigned size);
char *g_array_free(glib_array *array, int free_segment);

typedef void (*vcpu_callback)(plugin_id id, unsigned vcpu);
typedef void (*block_callback)(plugin_id id, block *translated);
typedef void (*instruction_callback)(unsigned vcpu, void *userdata);

typedef void (*plain_callback)(plugin_id id);

void qemu_plugin_reset(plugin_id id, plain_callback callback);
void qemu_plugin_register_vcpu_resume_cb(plugin_id id, vcpu_callback callback);
void qemu_plugin_register_vcpu_init_cb(plugin_id id, vcpu_callback callback);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, block_callback callback);
void qemu_plugin_register_vcpu_insn_exec_cb(instruction *at, instruction_callback callback,
                                            int flags, void *userdata);
void qemu_plugin_register_vcpu_insn_exec_cond_cb(instruction *at, instruction_callback callback,
                                                 int flags, int condition, vcpu_word word,
                                                 uint64_t value, void *userdata);
size_t qemu_plugin_tb_n_insns(const block *translated);
instruction *qemu_plugin_tb_get_insn(const block *translated, size_t index);
uint64_t qemu_plugin_insn_vaddr(const instruction *at);

glib_array *qemu_plugin_get_registers(void);
int qemu_plugin_read_register(register_handle *handle, glib_bytes *into);
bool qemu_plugin_read_memory_vaddr(uint64_t address, glib_bytes *into, size_t size);

scoreboard *qemu_plugin_scoreboard_new(size_t size);
void qemu_plugin_u64_set(vcpu_word word, unsigned vcpu, uint64_t value);
int qemu_plugin_num_vcpus(void);
void qemu_plugin_outs(const char *text);

#endif
