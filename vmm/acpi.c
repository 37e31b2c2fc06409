/* SPDX-License-Identifier: Apache-2.0 */
/* The ACPI tables but the DSDT's contents; see acpi.h. Numbers of sections are those of ACPI 6.4.
 */
#include "acpi.h"
#include "acpi_impl.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define HEADER_BYTES 36u /* 5.2.6 */
#define SUM_AT       9u
#define TABLE_ALIGN  16u
#define FACS_BYTES   64u
#define FADT_BYTES   276u
#define OEM          "VDISK "
#define OEM_TABLE    "VDISKVMM"
#define CREATOR      "VDSK"
#define RTC_CENTURY  0x32u /* in the clock's memory */

/* 5.2.9 */
enum fadt_field {
    FADT_FACS = 36,
    FADT_DSDT = 40,
    FADT_SCI = 46,
    FADT_PM1_EVENT = 56,
    FADT_PM1_CONTROL = 64,
    FADT_PM_TIMER = 76,
    FADT_PM1_EVENT_BYTES = 88,
    FADT_PM1_CONTROL_BYTES = 89,
    FADT_PM_TIMER_BYTES = 91,
    FADT_C2_LATENCY = 96,
    FADT_C3_LATENCY = 98,
    FADT_CENTURY = 108,
    FADT_BOOT_ARCH = 109,
    FADT_FLAGS = 112,
    FADT_RESET = 116,
    FADT_RESET_VALUE = 128,
    FADT_MINOR = 131,
    FADT_X_DSDT = 140,
    FADT_X_PM1_EVENT = 148,
    FADT_X_PM1_CONTROL = 172,
    FADT_X_PM_TIMER = 208,
};

enum fadt_flag { /* the power button is a fixed feature, for its flag is not set */
    FLAG_WBINVD = 1 << 0,
    FLAG_C1 = 1 << 2,
    FLAG_NO_SLEEP_BUTTON = 1 << 5,
    FLAG_NO_RTC_WAKE = 1 << 6,
    FLAG_RESET_REGISTER = 1 << 10,
};

enum boot_arch {
    BOOT_LEGACY_DEVICES = 1 << 0,
    BOOT_8042 = 1 << 1,
    BOOT_NO_VGA = 1 << 2,
    BOOT_NO_RTC = 1 << 5,
};

enum access {
    ACCESS_BYTE = 1,
    ACCESS_WORD = 2,
    ACCESS_DWORD = 3,
};

/* Little-endian, as we are. */
static void put(uint8_t *at, uint64_t value, unsigned bytes)
{
    memcpy(at, &value, bytes);
}

/* Without its NUL. */
static void put_text(uint8_t *at, const char *text)
{
    while (*text)
        *at++ = (uint8_t)*text++;
}

/* ---- lists ---- */

static void add_pointer(struct vm_acpi *acpi, bool in_rsdp, uint32_t at, uint32_t to,
                        uint32_t bytes)
{
    assert(acpi->pointers < VM_ACPI_POINTERS);
    acpi->pointer[acpi->pointers++] = (struct vm_acpi_pointer){{in_rsdp, at}, bytes};
    put((in_rsdp ? acpi->rsdp : acpi->tables) + at, to, bytes);
}

static void add_sum(struct vm_acpi *acpi, bool in_rsdp, uint32_t at, uint32_t from, uint32_t length)
{
    assert(acpi->sums < VM_ACPI_SUMS);
    acpi->sum[acpi->sums++] = (struct vm_acpi_sum){{in_rsdp, at}, from, length};
}

/* ---- tables ---- */

static uint32_t room(struct vm_acpi *acpi, uint32_t bytes, uint32_t align)
{
    uint32_t at = (acpi->size + align - 1) / align * align;

    assert(at + bytes <= sizeof(acpi->tables));
    acpi->size = at + bytes;
    return at;
}

static uint32_t begin_table(struct vm_acpi *acpi, const char *signature, uint8_t revision,
                            uint32_t bytes)
{
    uint32_t at = room(acpi, bytes, TABLE_ALIGN);
    uint8_t *table = acpi->tables + at;

    put_text(table, signature);
    put(table + 4, bytes, 4);
    table[8] = revision;
    put_text(table + 10, OEM);
    put_text(table + 16, OEM_TABLE);
    put(table + 24, 1, 4);
    put_text(table + 28, CREATOR);
    put(table + 32, 1, 4);
    add_sum(acpi, false, at + SUM_AT, at, bytes);
    return at;
}

/* 5.2.10: nothing in it is of use here, but its absence is complained of. */
static uint32_t make_facs(struct vm_acpi *acpi)
{
    uint32_t at = room(acpi, FACS_BYTES, 64);

    put_text(acpi->tables + at, "FACS");
    put(acpi->tables + at + 4, FACS_BYTES, 4);
    acpi->tables[at + 32] = 2;
    return at;
}

static uint32_t make_dsdt(struct vm_acpi *acpi, const struct vm_acpi_config *config)
{
    uint8_t code[VM_ACPI_TABLES_MAX / 2];
    struct vm_aml aml = {.bytes = code, .room = sizeof(code)};

    vm_acpi_dsdt(config, &aml);
    assert(!aml.full);
    uint32_t at = begin_table(acpi, "DSDT", 2, HEADER_BYTES + (uint32_t)aml.used);

    memcpy(acpi->tables + at + HEADER_BYTES, code, aml.used);
    return at;
}

/* 5.2.3.2: an address of ports. */
static void put_ports(uint8_t *at, unsigned port, unsigned bytes, enum access access)
{
    at[0] = 1; /* I/O space */
    at[1] = (uint8_t)(8 * bytes);
    at[3] = (uint8_t)access;
    put(at + 4, port, 8);
}

static void put_power(uint8_t *table)
{
    put(table + FADT_SCI, VM_IRQ_SCI, 2);
    put(table + FADT_PM1_EVENT, VM_PORT_PM1_EVENT, 4);
    put(table + FADT_PM1_CONTROL, VM_PORT_PM1_CTRL, 4);
    put(table + FADT_PM_TIMER, VM_PORT_PM_TIMER, 4);
    table[FADT_PM1_EVENT_BYTES] = 4;
    table[FADT_PM1_CONTROL_BYTES] = 2;
    table[FADT_PM_TIMER_BYTES] = 4;
    put(table + FADT_C2_LATENCY, 101, 2); /* so long that there is none */
    put(table + FADT_C3_LATENCY, 1001, 2);
    put_ports(table + FADT_RESET, VM_PORT_RESET, 1, ACCESS_BYTE);
    table[FADT_RESET_VALUE] = VM_RESET_VALUE;
    put_ports(table + FADT_X_PM1_EVENT, VM_PORT_PM1_EVENT, 4, ACCESS_WORD);
    put_ports(table + FADT_X_PM1_CONTROL, VM_PORT_PM1_CTRL, 2, ACCESS_WORD);
    put_ports(table + FADT_X_PM_TIMER, VM_PORT_PM_TIMER, 4, ACCESS_DWORD);
}

static uint32_t make_fadt(struct vm_acpi *acpi, const struct vm_acpi_config *config, uint32_t facs,
                          uint32_t dsdt)
{
    uint32_t at = begin_table(acpi, "FACP", 6, FADT_BYTES);
    uint8_t *table = acpi->tables + at;
    unsigned boot = BOOT_NO_VGA;

    if (config->serial)
        boot |= BOOT_LEGACY_DEVICES;
    if (config->keyboard)
        boot |= BOOT_8042;
    if (config->rtc)
        table[FADT_CENTURY] = RTC_CENTURY;
    else
        boot |= BOOT_NO_RTC;
    table[FADT_MINOR] = 4;
    put(table + FADT_BOOT_ARCH, boot, 2);
    put(table + FADT_FLAGS,
        FLAG_WBINVD | FLAG_C1 | FLAG_NO_SLEEP_BUTTON | FLAG_NO_RTC_WAKE | FLAG_RESET_REGISTER, 4);
    put_power(table);
    add_pointer(acpi, false, at + FADT_FACS, facs, 4);
    add_pointer(acpi, false, at + FADT_DSDT, dsdt, 4);
    add_pointer(acpi, false, at + FADT_X_DSDT, dsdt, 8);
    return at;
}

/* 5.2.12 */
static uint32_t make_madt(struct vm_acpi *acpi, unsigned cpus)
{
    enum {
        LAPIC = 8,
        IOAPIC = 12,
        OVERRIDE = 10,
        NMI = 6
    };
    uint32_t bytes = HEADER_BYTES + 8 + cpus * LAPIC + IOAPIC + OVERRIDE + NMI;
    uint32_t at = begin_table(acpi, "APIC", 5, bytes);
    uint8_t *to = acpi->tables + at + HEADER_BYTES;

    put(to, VM_LAPIC, 4);
    put(to + 4, 1, 4); /* there are two 8259, too */
    to += 8;
    for (unsigned i = 0; i < cpus; i++, to += LAPIC) {
        const uint8_t entry[LAPIC] = {0, LAPIC, (uint8_t)i, (uint8_t)i, 1 /* enabled */};

        memcpy(to, entry, sizeof(entry));
    }
    to[0] = 1;
    to[1] = IOAPIC;
    put(to + 4, VM_IOAPIC, 4); /* id 0, pins from 0 on */
    to += IOAPIC;
    /* The SCI is a level, active high. The timer's line is at pin 0, where KVM has it unless it is
     * told otherwise, and not at 2 as on PCs: there is no override for it. */
    const uint8_t sci[OVERRIDE] = {2, OVERRIDE, 0, VM_IRQ_SCI, VM_IRQ_SCI, 0, 0, 0, 0x0d};
    const uint8_t nmi[NMI] = {4, NMI, 0xff /* all processors */, 0, 0, 1 /* LINT1 */};

    memcpy(to, sci, OVERRIDE);
    memcpy(to + OVERRIDE, nmi, NMI);
    assert(to + OVERRIDE + NMI == acpi->tables + acpi->size);
    return at;
}

static uint32_t make_xsdt(struct vm_acpi *acpi, uint32_t fadt, uint32_t madt)
{
    uint32_t at = begin_table(acpi, "XSDT", 1, HEADER_BYTES + 2 * 8);

    add_pointer(acpi, false, at + HEADER_BYTES, fadt, 8);
    add_pointer(acpi, false, at + HEADER_BYTES + 8, madt, 8);
    return at;
}

/* 5.2.5.3 */
static void make_rsdp(struct vm_acpi *acpi, uint32_t xsdt)
{
    uint8_t *rsdp = acpi->rsdp;

    put_text(rsdp, "RSD PTR ");
    put_text(rsdp + 9, OEM);
    rsdp[15] = 2;
    put(rsdp + 20, VM_ACPI_RSDP_BYTES, 4);
    add_pointer(acpi, true, 24, xsdt, 8);
    /* The second sum has the first one in it. */
    add_sum(acpi, true, 8, 0, 20);
    add_sum(acpi, true, 32, 0, VM_ACPI_RSDP_BYTES);
}

int vm_acpi_make(const struct vm_acpi_config *config, struct vm_acpi *out)
{
    if (config->cpus < 1 || config->cpus > VM_CPUS_MAX || config->virtio_slots >> VM_VIRTIO_MAX)
        return -EINVAL;
    memset(out, 0, sizeof(*out));
    uint32_t facs = make_facs(out);
    uint32_t dsdt = make_dsdt(out, config);
    uint32_t fadt = make_fadt(out, config, facs, dsdt);
    uint32_t madt = make_madt(out, config->cpus);

    make_rsdp(out, make_xsdt(out, fadt, madt));
    return 0;
}

/* ---- placing ---- */

void vm_acpi_place(const struct vm_acpi *acpi, uint64_t at, uint8_t *to)
{
    uint8_t *tables = to + VM_ACPI_TABLES_ALIGN;
    uint64_t address = at + VM_ACPI_TABLES_ALIGN;

    static_assert(VM_ACPI_RSDP_BYTES <= VM_ACPI_TABLES_ALIGN &&
                      VM_ACPI_TABLES_ALIGN + VM_ACPI_TABLES_MAX <= VM_ACPI_MAX,
                  "the RSDP is before the tables");
    assert(at % VM_ACPI_TABLES_ALIGN == 0 && address + acpi->size <= UINT32_MAX);
    memset(to, 0, VM_ACPI_MAX);
    memcpy(to, acpi->rsdp, sizeof(acpi->rsdp));
    memcpy(tables, acpi->tables, acpi->size);
    for (unsigned i = 0; i < acpi->pointers; i++) {
        const struct vm_acpi_pointer *pointer = &acpi->pointer[i];
        uint8_t *spot = (pointer->spot.in_rsdp ? to : tables) + pointer->spot.at;
        uint64_t value = 0;

        memcpy(&value, spot, pointer->bytes);
        put(spot, value + address, pointer->bytes);
    }
    for (unsigned i = 0; i < acpi->sums; i++) {
        const struct vm_acpi_sum *sum = &acpi->sum[i];
        uint8_t *base = sum->spot.in_rsdp ? to : tables, total = 0;

        for (uint32_t k = 0; k < sum->length; k++)
            total = (uint8_t)(total + base[sum->from + k]);
        base[sum->spot.at] = (uint8_t)(base[sum->spot.at] - total);
    }
}

int vm_acpi_build(const struct vm_acpi_config *config, uint8_t *to)
{
    struct vm_acpi acpi;
    int rc = vm_acpi_make(config, &acpi);

    if (rc == 0)
        vm_acpi_place(&acpi, VM_ACPI_AT, to);
    return rc;
}
