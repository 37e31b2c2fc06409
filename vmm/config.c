/* SPDX-License-Identifier: Apache-2.0 */
/* See config.h. */
#include "config.h"

#include "layout.h"
#include "memory.h"
#include "report.h"
#include "sizes.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_MEMORY (UINT64_C(512) << 20)

/* ---- words behind commas ---- */

/* Cuts the next word off at *at; in *value what is behind its `=`, or NULL. */
static char *next_word(char **at, char **value)
{
    char *word = strsep(at, ",");

    *value = word ? strchr(word, '=') : NULL;
    if (*value)
        *(*value)++ = 0;
    return word;
}

static bool parse_count(const char *text, uint64_t max, unsigned *out)
{
    uint64_t number;

    if (!text || !sizes_parse_number(text, &number) || number == 0 || number > max)
        return false;
    *out = (unsigned)number;
    return true;
}

static bool parse_mac(const char *text, uint8_t mac[6])
{
    static const char digits[] = "0123456789abcdefABCDEF";

    if (!text || strlen(text) != sizeof("00:00:00:00:00:00") - 1)
        return false;
    for (unsigned i = 0; i < 6; i++, text += 3) {
        if (strspn(text, digits) != 2 || text[2] != (i < 5 ? ':' : 0))
            return false;
        mac[i] = (uint8_t)strtoul(text, NULL, 16);
    }
    return !(mac[0] & 1); /* not that of a group */
}

static bool parse_rate(const char *text, struct limit_setting *out)
{
    return text && sizes_parse_rate(text, &out->rate, &out->burst) && out->rate > 0;
}

/* ---- devices ---- */

static int add_drive(struct vm_config *config, char *text)
{
    struct vm_config_drive *drive = &config->drive[config->drives];
    char *value, *word = next_word(&text, &value);

    if (config->drives == VM_DRIVES_MAX)
        return report_usage(NULL, "there are more drives than %u", VM_DRIVES_MAX);
    if (!word[0] || value)
        return report_usage(NULL, "--drive begins with the path of a socket");
    drive->socket = word;
    while ((word = next_word(&text, &value)) != NULL) {
        if (strcmp(word, "read-only") == 0 && !value)
            drive->read_only = true;
        else if (strcmp(word, "queues") != 0 || !parse_count(value, 16, &drive->queues))
            return report_usage(NULL, "--drive: `%s` is no word of a drive, or has no such value",
                                word);
    }
    config->drives++;
    return OPTIONS_GO_ON;
}

static bool take_net_word(struct vm_config_net *net, const char *word, const char *value)
{
    if (strcmp(word, "tap") == 0) {
        net->tap = value;
        return value && value[0];
    }
    if (strcmp(word, "socket") == 0) {
        net->socket = value;
        return value && value[0];
    }
    if (strcmp(word, "mac") == 0) {
        net->has_mac = true;
        return parse_mac(value, net->mac);
    }
    if (strcmp(word, "vlan") == 0)
        return parse_count(value, 4094, &net->vlan);
    if (strcmp(word, "in") == 0)
        return parse_rate(value, &net->in);
    return strcmp(word, "out") == 0 && parse_rate(value, &net->out);
}

static int add_net(struct vm_config *config, char *text)
{
    struct vm_config_net *net = &config->net[config->nets];
    char *value, *word;

    if (config->nets == VM_NETS_MAX)
        return report_usage(NULL, "there are more networks than %u", VM_NETS_MAX);
    while ((word = next_word(&text, &value)) != NULL) {
        if (!take_net_word(net, word, value))
            return report_usage(NULL, "--net: `%s` is no word of a network, or has no such value",
                                word);
    }
    if (!net->tap == !net->socket)
        return report_usage(NULL, "--net needs tap=NAME or socket=PATH");
    config->nets++;
    return OPTIONS_GO_ON;
}

static int set_console(struct vm_config *config, char *text)
{
    static const char *const kinds[] = {
        [VM_CONSOLE_NONE] = "none",     [VM_CONSOLE_STDIO] = "stdio", [VM_CONSOLE_PTY] = "pty",
        [VM_CONSOLE_SOCKET] = "socket", [VM_CONSOLE_FILE] = "file",
    };
    char *path = strchr(text, ':');

    if (path)
        *path++ = 0;
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        bool wants_path = i == VM_CONSOLE_SOCKET || i == VM_CONSOLE_FILE;

        if (strcmp(text, kinds[i]) == 0 && wants_path == (path && path[0])) {
            config->console = (enum vm_console_kind)i;
            config->console_path = path;
            return OPTIONS_GO_ON;
        }
    }
    return report_usage(NULL, "--console is stdio, pty, socket:PATH, file:PATH or none");
}

/* CID:FOLDER */
static int set_vsock(struct vm_config *config, char *text)
{
    char *folder = strchr(text, ':');

    if (folder)
        *folder++ = 0;
    if (!folder || !folder[0] || !parse_count(text, UINT32_MAX - 1, &config->vsock_cid) ||
        config->vsock_cid < 3)
        return report_usage(NULL, "--vsock is CID:FOLDER, the CID from 3");
    config->vsock = folder;
    return OPTIONS_GO_ON;
}

/* ---- all ---- */

static int settle_numbers(struct vm_config *config, const struct option_size *memory,
                          const struct option_size *cpus)
{
    config->memory = memory->given ? memory->value : DEFAULT_MEMORY;
    if (config->memory < VM_MEMORY_MIN || config->memory > VM_MEMORY_MAX || config->memory % 4096)
        return report_usage(NULL, "--memory is from 16M to 4T, in steps of 4K");
    if (cpus->given && (cpus->value == 0 || cpus->value > VM_CPUS_MAX))
        return report_usage(NULL, "--cpus is from 1 to %u", VM_CPUS_MAX);
    config->cpus = cpus->given ? (unsigned)cpus->value : 1;
    return OPTIONS_GO_ON;
}

static int settle_boot(struct vm_config *config, const struct option_size *restore)
{
    if (config->probe)
        return OPTIONS_GO_ON;
    if (restore->given && (restore->value == 0 || restore->value > INT_MAX ||
                           fcntl((int)restore->value, F_GETFD) < 0))
        return report_usage(NULL, "--restore is the number of an open descriptor");
    config->restore = restore->given ? (int)restore->value : 0;
    if (config->restore ? config->kernel && config->firmware : !config->kernel == !config->firmware)
        return report_usage(NULL, "give --kernel, or --firmware to boot from the first drive");
    if (!config->kernel && (config->initrd || config->command))
        return report_usage(NULL, "--initrd and --command go with --kernel");
    return OPTIONS_GO_ON;
}

/* Where argv has it; options.h hands out constant text, but it is argv's own, which is ours. */
static char *own(const char *text)
{
    return (char *)(uintptr_t)text;
}

int vm_config_parse(struct vm_config *config, int argc, char **argv)
{
    struct option_list drives = {.count = 0}, nets = {.count = 0};
    const char *console = NULL, *vsock = NULL;
    struct option_size memory = {.given = false}, cpus = {.given = false};
    struct option_size restore = {.given = false};
    const struct option_spec options[] = {
        {"name", OPTION_TEXT, &config->name, "NAME", "of the guest, for people (guest)"},
        {"kernel", OPTION_TEXT, &config->kernel, "FILE",
         "bzImage, or an ELF file with a PVH entry"},
        {"initrd", OPTION_TEXT, &config->initrd, "FILE", "its initial file system"},
        {"command", OPTION_TEXT, &config->command, "TEXT", "its command line"},
        {"firmware", OPTION_TEXT, &config->firmware, "FILE",
         "in place of a kernel: SeaBIOS's bios-microvm.bin boots the first drive"},
        {"memory", OPTION_SIZE, &memory, "SIZE", "of the guest (512M)"},
        {"cpus", OPTION_NUMBER, &cpus, "N", "its processors (1)"},
        {"drive", OPTION_LIST, &drives, "SOCKET[,...]",
         "a vhost-user-blk socket of vdiskd; read-only, queues=N"},
        {"net", OPTION_LIST, &nets, "tap=NAME[,...]",
         "or socket=PATH (passt); mac=, vlan=N, in=RATE[/BURST], out="},
        {"vsock", OPTION_TEXT, &vsock, "CID:FOLDER", "sockets between guest and host"},
        {"console", OPTION_TEXT, &console, "PLACE",
         "stdio (as without), pty, socket:PATH, file:PATH, none"},
        {"control", OPTION_TEXT, &config->control, "SOCKET", "for `vdisk ctl --socket`"},
        {"operator", OPTION_LIST, &config->operators, "USER", "or @GROUP: may use it"},
        {"viewer", OPTION_LIST, &config->viewers, "USER", "or @GROUP: may look"},
        {"audit-log", OPTION_TEXT, &config->audit_log, "FILE", "who asked for what, and when"},
        {"restore", OPTION_NUMBER, &restore, "FD",
         "goes on with what a guest like this wrote when it was suspended"},
        {"user", OPTION_TEXT, &config->user, "USER", "whom root becomes before the guest runs"},
        {"probe", OPTION_FLAG, &config->probe, NULL,
         "only says whether /dev/kvm runs Linux: exit status 0, 3 too slow, 1 not at all"},
        OPTION_QUIET(&config->quiet),
        {.kind = OPTION_END}};
    const struct usage usage = {
        .operands = "",
        .about = "Runs a virtual machine whose drives are served by vdiskd.",
        .groups = {options},
    };
    char **operands;
    int count, status = options_parse(&usage, argc, argv, &operands, &count);

    config->console = VM_CONSOLE_STDIO;
    if (status == OPTIONS_GO_ON && !config->name)
        config->name = "guest";
    if (status == OPTIONS_GO_ON)
        status = settle_numbers(config, &memory, &cpus);
    if (status == OPTIONS_GO_ON)
        status = settle_boot(config, &restore);
    for (unsigned i = 0; i < drives.count && status == OPTIONS_GO_ON; i++)
        status = add_drive(config, own(drives.value[i]));
    for (unsigned i = 0; i < nets.count && status == OPTIONS_GO_ON; i++)
        status = add_net(config, own(nets.value[i]));
    if (status == OPTIONS_GO_ON && console)
        status = set_console(config, own(console));
    if (status == OPTIONS_GO_ON && vsock)
        status = set_vsock(config, own(vsock));
    return status;
}
