/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI Machine Language; see aml.h. Numbers of sections are those of ACPI 6.4. */
#include "aml.h"

#include <assert.h>
#include <string.h>

enum op {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_DUAL_NAME = 0x2e,
    OP_EXTENDED = 0x5b,
    OP_DEVICE = 0x82, /* after EXTENDED */
    OP_NOTIFY = 0x86,
};

#define NAME_CHARS         4u
#define METHOD_SERIALIZED  8u
#define LENGTH_MAX         0xfffffu /* in the three bytes that we write at most */

/* 6.4: the types of resources. */
#define RESOURCE_IRQ       0x22u
#define RESOURCE_IO        0x47u
#define RESOURCE_END       0x79u
#define RESOURCE_MEMORY    0x86u
#define RESOURCE_INTERRUPT 0x89u
#define DECODE_16          1u
#define READ_WRITE         1u
#define CONSUMER_EDGE      3u

void vm_aml_bytes(struct vm_aml *aml, const void *bytes, size_t length)
{
    if (aml->full || length > aml->room - aml->used) {
        aml->full = true;
        return;
    }
    memcpy(aml->bytes + aml->used, bytes, length);
    aml->used += length;
}

static void put(struct vm_aml *aml, unsigned byte)
{
    uint8_t value = (uint8_t)byte;

    vm_aml_bytes(aml, &value, 1);
}

static void put_number(struct vm_aml *aml, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        put(aml, (unsigned)(value >> 8 * i & 0xff));
}

/* Up to the next '.' or the end; where that is. */
static const char *put_segment(struct vm_aml *aml, const char *name)
{
    size_t length = strcspn(name, ".");

    assert(length >= 1 && length <= NAME_CHARS);
    vm_aml_bytes(aml, name, length);
    vm_aml_bytes(aml, "____", NAME_CHARS - length);
    return name + length;
}

void vm_aml_path(struct vm_aml *aml, const char *path)
{
    bool rooted = path[0] == '\\';

    if (rooted)
        put(aml, *path++);
    if (rooted && *path == 0) {
        put(aml, 0); /* no name */
        return;
    }
    if (strchr(path, '.'))
        put(aml, OP_DUAL_NAME);
    path = put_segment(aml, path);
    if (*path == '.')
        path = put_segment(aml, path + 1);
    assert(*path == 0);
}

void vm_aml_integer(struct vm_aml *aml, uint64_t value)
{
    if (value <= 1) {
        put(aml, value ? OP_ONE : OP_ZERO);
    } else if (value <= UINT8_MAX) {
        put(aml, OP_BYTE);
        put_number(aml, value, 1);
    } else if (value <= UINT16_MAX) {
        put(aml, OP_WORD);
        put_number(aml, value, 2);
    } else if (value <= UINT32_MAX) {
        put(aml, OP_DWORD);
        put_number(aml, value, 4);
    } else {
        put(aml, OP_QWORD);
        put_number(aml, value, 8);
    }
}

void vm_aml_string(struct vm_aml *aml, const char *text)
{
    put(aml, OP_STRING);
    vm_aml_bytes(aml, text, strlen(text) + 1);
}

void vm_aml_eisa_id(struct vm_aml *aml, const char *id)
{
    static const char digits[] = "0123456789ABCDEF";
    uint32_t value = 0;

    assert(strlen(id) == 7);
    for (unsigned i = 0; i < 3; i++)
        value = value << 5 | (uint32_t)(id[i] - '@');
    for (unsigned i = 3; i < 7; i++) {
        const char *digit = strchr(digits, id[i]);

        assert(digit != NULL);
        value = value << 4 | (uint32_t)(digit - digits);
    }
    /* The most significant byte comes first (19.3.4), and a DWORD has its least one there. */
    put(aml, OP_DWORD);
    put_number(aml, __builtin_bswap32(value), 4);
}

void vm_aml_name(struct vm_aml *aml, const char *path)
{
    put(aml, OP_NAME);
    vm_aml_path(aml, path);
}

void vm_aml_name_integer(struct vm_aml *aml, const char *path, uint64_t value)
{
    vm_aml_name(aml, path);
    vm_aml_integer(aml, value);
}

void vm_aml_name_string(struct vm_aml *aml, const char *path, const char *text)
{
    vm_aml_name(aml, path);
    vm_aml_string(aml, text);
}

void vm_aml_notify(struct vm_aml *aml, const char *path, uint64_t value)
{
    put(aml, OP_NOTIFY);
    vm_aml_path(aml, path);
    vm_aml_integer(aml, value);
}

size_t vm_aml_begin_scope(struct vm_aml *aml, const char *path)
{
    put(aml, OP_SCOPE);
    size_t mark = aml->used;

    vm_aml_path(aml, path);
    return mark;
}

size_t vm_aml_begin_device(struct vm_aml *aml, const char *path)
{
    put(aml, OP_EXTENDED);
    put(aml, OP_DEVICE);
    size_t mark = aml->used;

    vm_aml_path(aml, path);
    return mark;
}

size_t vm_aml_begin_method(struct vm_aml *aml, const char *path, unsigned arguments)
{
    put(aml, OP_METHOD);
    size_t mark = aml->used;

    vm_aml_path(aml, path);
    put(aml, arguments | METHOD_SERIALIZED);
    return mark;
}

size_t vm_aml_begin_package(struct vm_aml *aml, unsigned elements)
{
    put(aml, OP_PACKAGE);
    size_t mark = aml->used;

    put(aml, elements);
    return mark;
}

/* 20.2.4: a length counts its own bytes. Those are put where the mark is, before the rest. */
void vm_aml_end(struct vm_aml *aml, size_t mark)
{
    size_t body = aml->used - mark, total;
    uint8_t length[3];
    unsigned bytes;

    if (aml->full)
        return;
    if (body + 1 < 0x40) {
        bytes = 1;
        total = body + 1;
        length[0] = (uint8_t)total;
    } else {
        bytes = body + 2 < 0x1000 ? 2 : 3;
        total = body + bytes;
        assert(total <= LENGTH_MAX);
        length[0] = (uint8_t)((bytes - 1) << 6 | (total & 0xf));
        length[1] = (uint8_t)(total >> 4);
        length[2] = (uint8_t)(total >> 12);
    }
    vm_aml_bytes(aml, length, bytes); /* for the room */
    if (aml->full)
        return;
    memmove(aml->bytes + mark + bytes, aml->bytes + mark, body);
    memcpy(aml->bytes + mark, length, bytes);
}

size_t vm_aml_begin_resources(struct vm_aml *aml)
{
    vm_aml_name(aml, "_CRS");
    put(aml, OP_BUFFER);
    size_t mark = aml->used;

    put(aml, OP_BYTE);
    put(aml, 0); /* the size, at the end */
    return mark;
}

void vm_aml_ports(struct vm_aml *aml, uint16_t base, uint8_t count)
{
    put(aml, RESOURCE_IO);
    put(aml, DECODE_16);
    put_number(aml, base, 2); /* the least that it can be set to, and the most */
    put_number(aml, base, 2);
    put(aml, 1);
    put(aml, count);
}

void vm_aml_irq(struct vm_aml *aml, unsigned irq)
{
    assert(irq < 16);
    put(aml, RESOURCE_IRQ);
    put_number(aml, 1u << irq, 2);
}

void vm_aml_memory(struct vm_aml *aml, uint32_t base, uint32_t bytes)
{
    put(aml, RESOURCE_MEMORY);
    put_number(aml, 9, 2);
    put(aml, READ_WRITE);
    put_number(aml, base, 4);
    put_number(aml, bytes, 4);
}

void vm_aml_interrupt(struct vm_aml *aml, uint32_t pin)
{
    put(aml, RESOURCE_INTERRUPT);
    put_number(aml, 6, 2);
    put(aml, CONSUMER_EDGE);
    put(aml, 1);
    put_number(aml, pin, 4);
}

void vm_aml_end_resources(struct vm_aml *aml, size_t mark)
{
    put(aml, RESOURCE_END);
    put(aml, 0); /* no checksum */
    if (aml->full)
        return;
    size_t bytes = aml->used - mark - 2;

    assert(bytes < 240);
    aml->bytes[mark + 1] = (uint8_t)bytes;
    vm_aml_end(aml, mark);
}
