/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a guest can go on here: what it was told is from another host, or from this one under
 * another kernel. Only what it may rely on is compared, the rest is told again as it was.
 */
#include "cpu_features.h"
#include "report.h"

#include <errno.h>
#include <string.h>

enum {
    EAX,
    EBX,
    ECX,
    EDX
};

/* Where each bit is a feature. The names, in the order of the bits from 0, are those of Linux;
 * `-` and what is not listed have none. */
static const struct feature_word {
    uint32_t function, index;
    unsigned where;
    const char *names;
} words[] = {
    {1, 0, ECX,
     "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - "
     "pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c "
     "rdrand hypervisor"},
    {1, 0, EDX,
     "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - ds "
     "acpi mmx fxsr sse sse2 ss ht tm ia64 pbe"},
    {6, 0, EAX, ""},
    {7, 0, EBX,
     "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp smep bmi2 erms invpcid rtm cqm zero_fcs_fds mpx "
     "rdt_a avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel_pt avx512pf "
     "avx512er avx512cd sha_ni avx512bw avx512vl"},
    {7, 0, ECX,
     "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq "
     "avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57"},
    {7, 0, EDX, ""},
    {7, 1, EAX, "sha512 sm3 sm4 rao_int avx_vnni avx512_bf16"},
    {7, 1, EBX, ""},
    {7, 1, ECX, ""},
    {7, 1, EDX, ""},
    {7, 2, EDX, ""},
    {0xd, 0, EAX, "x87 sse avx bndregs bndcsr opmask zmm_hi256 hi16_zmm pt pkru"},
    {0xd, 0, EDX, ""},
    {0xd, 1, EAX, "xsaveopt xsavec xgetbv1 xsaves xfd"},
    {0xd, 1, ECX, ""},
    {0xd, 1, EDX, ""},
    {0x12, 0, EAX, ""},
    {0x14, 0, EBX, ""},
    {0x14, 0, ECX, ""},
    {0x19, 0, EBX, ""},
    {0x1e, 1, EAX, ""},
    {0x24, 0, EBX, ""},
    {0x40000001, 0, EAX, "kvmclock nop_io_delay mmu_op kvmclock2 async_pf steal_time pv_eoi"},
    {0x80000001, 0, ECX,
     "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop "
     "skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext"},
    {0x80000001, 0, EDX,
     "fpu vme de pse tsc msr pae mce cx8 apic - syscall mtrr pge mca cmov pat pse36 - mp nx - "
     "mmxext mmx fxsr fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow"},
    {0x80000007, 0, EDX, ""},
    {0x80000008, 0, EBX, "clzero irperf xsaveerptr"},
    {0x8000000a, 0, EDX, ""},
    {0x8000001f, 0, EAX, ""},
    {0x80000021, 0, EAX, ""},
};

static uint32_t register_of(const struct kvm_cpuid_entry2 *entry, unsigned where)
{
    const uint32_t values[] = {entry->eax, entry->ebx, entry->ecx, entry->edx};

    return values[where];
}

/* The nth word of `names`, with a space before it; nothing when it has none. */
static void name_of(const char *names, unsigned n, char *name, size_t size)
{
    size_t length;

    *name = '\0';
    for (; n > 0 && *names; n--) {
        names += strcspn(names, " ");
        names += strspn(names, " ");
    }
    length = strcspn(names, " ");
    if (length > 0 && *names != '-' && length + 2 <= size) {
        *name++ = ' ';
        memcpy(name, names, length);
        name[length] = '\0';
    }
}

static int missing(const struct feature_word *word, uint32_t bits, struct vdisk_error *error)
{
    static const char *const registers[] = {"EAX", "EBX", "ECX", "EDX"};
    unsigned bit = (unsigned)__builtin_ctz(bits);
    char name[32];

    name_of(word->names, bit, name, sizeof(name));
    return error_set(error, -ENOTSUP,
                     "this host's processor lacks the feature%s (CPUID 0x%x.%u, %s bit %u) that "
                     "the guest was told it has",
                     name, word->function, word->index, registers[word->where], bit);
}

/* As KVM looks for them: an entry whose index does not count is for all. */
static bool is_for(const struct kvm_cpuid_entry2 *entry, const struct feature_word *word)
{
    return entry->function == word->function &&
           (entry->index == word->index || !(entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX));
}

static int check_features(const struct kvm_cpuid_entry2 *told, const struct kvm_cpuid2 *here,
                          struct vdisk_error *error)
{
    for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        const struct feature_word *word = &words[i];
        const struct kvm_cpuid_entry2 *same = vm_cpuid_find(here, word->function, word->index);
        uint32_t bits = register_of(told, word->where);

        if (!is_for(told, word))
            continue;
        if (same)
            bits &= ~register_of(same, word->where);
        if (bits)
            return missing(word, bits, error);
    }
    return 0;
}

/* Addresses that the host's are too short for. */
static int check_widths(const struct kvm_cpuid_entry2 *told, const struct kvm_cpuid2 *here,
                        struct vdisk_error *error)
{
    const struct kvm_cpuid_entry2 *same = vm_cpuid_find(here, told->function, told->index);

    if (told->function != 0x80000008)
        return 0;
    if (!same || (told->eax & 0xff) > (same->eax & 0xff) ||
        (told->eax >> 8 & 0xff) > (same->eax >> 8 & 0xff))
        return error_set(error, -ENOTSUP,
                         "this host's processor has shorter addresses (CPUID 0x80000008, EAX) than "
                         "the guest was told it has");
    return 0;
}

static int check_vendor(const struct kvm_cpuid_entry2 *told, const struct kvm_cpuid2 *here,
                        struct vdisk_error *error)
{
    const struct kvm_cpuid_entry2 *same = vm_cpuid_find(here, told->function, told->index);

    if (told->function != 0)
        return 0;
    if (!same || told->ebx != same->ebx || told->ecx != same->ecx || told->edx != same->edx)
        return error_set(error, -ENOTSUP,
                         "this host's processor is another maker's (CPUID 0x0) than the guest was "
                         "told it has");
    return 0;
}

int vm_cpuid_check(const struct kvm_cpuid2 *told, const struct kvm_cpuid2 *here,
                   struct vdisk_error *error)
{
    int rc = 0;

    for (uint32_t i = 0; i < told->nent && rc == 0; i++) {
        rc = check_vendor(&told->entries[i], here, error);
        if (rc == 0)
            rc = check_features(&told->entries[i], here, error);
        if (rc == 0)
            rc = check_widths(&told->entries[i], here, error);
    }
    return rc;
}
