/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk ctl: a request to a running vdiskd, over its management socket (docs/control.md).
 */
#include "commands.h"
#include "ctl_client.h"
#include "options.h"
#include "report.h"
#include "rundir.h"
#include "sizes.h"
#include "suspend.h"
#include "textformat.h"

#include "vdisk/vdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct ctl {
    const char *socket, *key_file, *passphrase_file, *identity, *recipient;
    const char *vm, *in, *out;
    const char *group, *vhost_user, *vhost_snapshot;
    const char *read_ops, *write_ops, *read_bytes, *write_bytes;
    bool read_only, shrink, wait_when_full, wait_when_failing, as_json, quiet;
};

static void set_text(json_t *root, const char *name, const char *value)
{
    if (value)
        json_object_set_new(root, name, json_string(value));
}

static void set_flag(json_t *root, const char *name, bool value)
{
    if (value)
        json_object_set_new(root, name, json_true());
}

static int set_limit(json_t *limits, const char *name, const char *text)
{
    uint64_t rate, burst;

    if (!text)
        return OPTIONS_GO_ON;
    if (!sizes_parse_rate(text, &rate, &burst))
        return report_usage("ctl", "%s: a limit is a rate, or RATE/BURST", text);
    json_object_set_new(
        limits, name,
        json_pack("{s:I, s:I}", "rate", (json_int_t)rate, "burst", (json_int_t)burst));
    return OPTIONS_GO_ON;
}

static int set_limits(const struct ctl *ctl, const char *command, json_t *root)
{
    json_t *limits = json_object();
    int status = set_limit(limits, "read_ops", ctl->read_ops);

    if (status == OPTIONS_GO_ON)
        status = set_limit(limits, "write_ops", ctl->write_ops);
    if (status == OPTIONS_GO_ON)
        status = set_limit(limits, "read_bytes", ctl->read_bytes);
    if (status == OPTIONS_GO_ON)
        status = set_limit(limits, "write_bytes", ctl->write_bytes);
    if (json_object_size(limits) || strstr(command, "limits-set"))
        json_object_set(root, "limits", limits);
    json_decref(limits);
    return status;
}

/* As the daemon must know it: from its root. A usage error or -1. */
static int set_socket(json_t *root, const char *path)
{
    char *folder, *whole = NULL;

    if (!path)
        return OPTIONS_GO_ON;
    folder = path[0] == '/' ? strdup("") : getcwd(NULL, 0);
    if (!folder || asprintf(&whole, "%s%s%s", folder, folder[0] ? "/" : "", path) < 0) {
        free(folder);
        return report(path, -ENOMEM, NULL);
    }
    set_text(root, "vhost_user", whole);
    free(whole);
    free(folder);
    return OPTIONS_GO_ON;
}

/* The word after the export: what it stands for depends on the command. A usage error or -1. */
static int set_argument(json_t *root, const char *command, const char *word)
{
    char path[PATH_MAX];
    uint64_t number;

    if (strncmp(command, "snapshot-", 9) == 0) {
        set_text(root, "snapshot", word);
    } else if (strcmp(command, "export-add") == 0) {
        if (!realpath(word, path))
            return report(word, -errno, NULL);
        set_text(root, "image", path);
    } else if (strcmp(command, "resize") == 0) {
        if (!sizes_parse(word, &number))
            return report_usage("ctl", "%s: not a size", word);
        json_object_set_new(root, "size", json_integer((json_int_t)number));
    } else if (strcmp(command, "key-remove") == 0) {
        if (!sizes_parse_number(word, &number) || number >= VDISK_KEYSLOTS)
            return report_usage("ctl", "%s: not a keyslot", word);
        json_object_set_new(root, "slot", json_integer((json_int_t)number));
    } else {
        return report_usage("ctl", "`%s` is one word too many", word);
    }
    return OPTIONS_GO_ON;
}

/* ---- a virtual machine ---- */

static bool is_for_machine(const char *command)
{
    static const char *const names[] = {"info", "metrics", "pause",  "resume",
                                        "stop", "balloon", "limits", "power-button"};

    for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (strcmp(command, names[i]) == 0)
            return true;
    }
    return false;
}

static int build_for_machine(const struct ctl *ctl, char **operands, int count, json_t *root)
{
    bool is_balloon = strcmp(operands[0], "balloon") == 0;
    bool is_limits = strcmp(operands[0], "limits") == 0;
    uint64_t number;
    int status;

    set_text(root, "command", operands[0]);
    if (count > 2 || (count > 1 && !is_balloon && !is_limits))
        return report_usage("ctl", "`%s` is one word too many", operands[count - 1]);
    if (count > 1 && is_balloon) {
        if (!sizes_parse(operands[1], &number))
            return report_usage("ctl", "%s: not a size", operands[1]);
        json_object_set_new(root, "size", json_integer((json_int_t)number));
    }
    if (count > 1 && is_limits) {
        if (!sizes_parse_number(operands[1], &number))
            return report_usage("ctl", "%s: not the number of a network", operands[1]);
        json_object_set_new(root, "net", json_integer((json_int_t)number));
    }
    status = set_limit(root, "in", ctl->in);
    return status == OPTIONS_GO_ON ? set_limit(root, "out", ctl->out) : status;
}

static int suspend(const struct ctl *ctl, char **operands, int count)
{
    const struct suspend_options options = {
        .guest = ctl->vm,
        .file = operands[1],
        .key = {.prefix = "",
                .key_file = ctl->key_file,
                .passphrase_file = ctl->passphrase_file,
                .identity = ctl->identity,
                .recipient = ctl->recipient},
        .quiet = ctl->quiet,
    };

    if (!ctl->vm)
        return report_usage("ctl", "suspend is for a guest of `vdisk run`: give --vm NAME");
    if (count != 2)
        return report_usage("ctl", "suspend wants a FILE, which it makes");
    return suspend_guest(&options);
}

/* Into `path`: of the machine itself, or of the vdiskd that its drives are on. */
static int find_machine(struct ctl *ctl, const char *command, char path[RUNDIR_BYTES + 16])
{
    struct vdisk_error error = {.code = 0};
    char folder[RUNDIR_BYTES];
    int rc = rundir_find(ctl->vm, folder, &error);

    if (rc)
        return report(NULL, rc, &error);
    (void)snprintf(path, RUNDIR_BYTES + 16, "%s/%s/socket", folder,
                   is_for_machine(command) ? "vmm" : "disks");
    ctl->socket = path;
    return OPTIONS_GO_ON;
}

/* A recipient is a file with a public key, or the key itself. */
static int open_recipient(const char *text)
{
    uint8_t public_key[VDISK_PUBLIC_KEY_BYTES];
    size_t length = strlen(text);
    int fd;

    if (!textformat_get_recipient(text, length, public_key))
        return open(text, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    fd = memfd_create("recipient", MFD_CLOEXEC);
    if (fd >= 0 && write(fd, text, length) != (ssize_t)length) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* The key's descriptor in *fd, or -1 without one. */
static int open_key(const struct ctl *ctl, const char *command, json_t *root, int *fd)
{
    const char *path = ctl->key_file          ? ctl->key_file
                       : ctl->passphrase_file ? ctl->passphrase_file
                       : ctl->identity        ? ctl->identity
                                              : ctl->recipient;
    const char *kind = ctl->passphrase_file ? "passphrase"
                       : ctl->identity      ? "identity"
                       : ctl->recipient     ? "recipient"
                                            : "key-file";

    *fd = -1;
    if (!!ctl->key_file + !!ctl->passphrase_file + !!ctl->identity + !!ctl->recipient > 1)
        return report_usage("ctl", "one key, please");
    if (!path && strcmp(command, "export-add") == 0)
        path = getenv("VDISK_KEY_FILE");
    if (!path)
        return OPTIONS_GO_ON;
    if (ctl->recipient)
        *fd = open_recipient(path);
    else
        *fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO)
                                     : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (*fd < 0)
        return report(path, -errno, NULL);
    set_text(root, "key_kind", kind);
    return OPTIONS_GO_ON;
}

static int build(const struct ctl *ctl, char **operands, int count, json_t *root)
{
    bool is_group = strncmp(operands[0], "group-", 6) == 0;
    int status = OPTIONS_GO_ON;

    set_text(root, "command", operands[0]);
    set_text(root, "group", ctl->group);
    if (count > 1)
        set_text(root, is_group ? "group" : "export", operands[1]);
    if (count > 2)
        status = set_argument(root, operands[0], operands[2]);
    if (status == OPTIONS_GO_ON)
        status = set_socket(root, ctl->vhost_user);
    set_text(root, "vhost_snapshot", ctl->vhost_snapshot);
    set_flag(root, "read_only", ctl->read_only);
    set_flag(root, "shrink", ctl->shrink);
    set_flag(root, "wait_when_full", ctl->wait_when_full);
    set_flag(root, "wait_when_failing", ctl->wait_when_failing);
    return status == OPTIONS_GO_ON ? set_limits(ctl, operands[0], root) : status;
}

/* ---- the reply ---- */

static int exit_status(const char *code)
{
    if (strcmp(code, "wrong-key") == 0 || strcmp(code, "not-authentic") == 0)
        return STATUS_KEY;
    return strcmp(code, "in-use") == 0 ? STATUS_BUSY : STATUS_FAILED;
}

static int conclude(const struct ctl *ctl, json_t *reply)
{
    const char *error = json_string_value(json_object_get(reply, "error"));
    const char *code = json_string_value(json_object_get(reply, "code"));
    json_t *result = json_object_get(reply, "result");
    int status = STATUS_DONE;

    if (!json_is_true(json_object_get(reply, "ok"))) {
        report_text(ctl->socket, -EIO, "%s", error ? error : "the reply makes no sense");
        status = exit_status(code ? code : "");
    }
    if (ctl->as_json || result) {
        char *text = json_dumps(ctl->as_json ? reply : result,
                                JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_ENSURE_ASCII);

        if (text)
            puts(text);
        free(text);
    }
    return status;
}

static int converse(const struct ctl *ctl, const json_t *root, int key)
{
    struct vdisk_error error = {.code = 0};
    int status, fd = ctl_send(ctl->socket, root, key, &error);
    json_t *reply;

    if (fd == -ENAMETOOLONG)
        return report_usage("ctl", "--socket: longer than the name of a socket may be");
    if (fd < 0)
        return report(fd == -EINVAL ? NULL : ctl->socket, fd, &error);
    reply = ctl_receive(fd);
    status = reply ? conclude(ctl, reply)
                   : report_text(ctl->socket, -EIO, "the daemon ended the connection");
    json_decref(reply);
    close(fd);
    return status;
}

static int run(struct ctl *ctl, char **operands, int count)
{
    char path[RUNDIR_BYTES + 16];
    int key = -1, status = OPTIONS_GO_ON;
    json_t *root;

    if (strcmp(operands[0], "suspend") == 0)
        return suspend(ctl, operands, count);
    if (ctl->vm)
        status = find_machine(ctl, operands[0], path);
    if (status != OPTIONS_GO_ON)
        return status;
    root = json_object();
    status = is_for_machine(operands[0]) ? build_for_machine(ctl, operands, count, root)
                                         : build(ctl, operands, count, root);
    if (status == OPTIONS_GO_ON)
        status = open_key(ctl, operands[0], root, &key);
    if (status == OPTIONS_GO_ON)
        status = converse(ctl, root, key);
    if (key >= 0)
        close(key);
    json_decref(root);
    return status;
}

#define ABOUT                                                                                      \
    "Asks a running vdiskd. Commands: export-list, export-add EXPORT IMAGE,\n"                     \
    "export-remove, stats, snapshot-list, snapshot-create EXPORT SNAPSHOT,\n"                      \
    "snapshot-delete EXPORT SNAPSHOT, resize EXPORT SIZE, compact, checkpoint,\n"                  \
    "limits-get, limits-set, group-list, group-limits-get GROUP, group-limits-set\n"               \
    "GROUP, key-list, key-add, key-remove EXPORT SLOT, nbd-list, reload, shutdown.\n"              \
    "Of a virtual machine: info, metrics, pause, resume, power-button, stop,\n"                    \
    "balloon SIZE, limits NET, suspend FILE (with --vm; `vdisk run --restore` goes\n"              \
    "on with it); its drives are the exports drive0, drive1, ..."

int cmd_ctl(int argc, char **argv)
{
    struct ctl ctl = {.socket = CTL_DEFAULT_SOCKET};
    const struct option_spec own[] = {
        {"socket", OPTION_TEXT, &ctl.socket, "PATH",
         "of the daemon (" CTL_DEFAULT_SOCKET "), or of vdisk-vmm"},
        {"vm", OPTION_TEXT, &ctl.vm, "NAME", "a guest of `vdisk run`, or its vdiskd"},
        {"key-file", OPTION_TEXT, &ctl.key_file, "FILE",
         "the key for export-add, key-add, suspend"},
        {"passphrase-file", OPTION_TEXT, &ctl.passphrase_file, "FILE", "likewise"},
        {"identity", OPTION_TEXT, &ctl.identity, "FILE", "likewise, of export-add"},
        {"recipient", OPTION_TEXT, &ctl.recipient, "PUBKEY", "likewise, of key-add and suspend"},
        {"read-only", OPTION_FLAG, &ctl.read_only, NULL, "export-add: nobody may write"},
        {"vhost-user", OPTION_TEXT, &ctl.vhost_user, "SOCKET",
         "export-add: also to a virtual machine"},
        {"vhost-snapshot", OPTION_TEXT, &ctl.vhost_snapshot, "NAME",
         "export-add: which gets that snapshot"},
        {"wait-when-full", OPTION_FLAG, &ctl.wait_when_full, NULL,
         "export-add: requests wait for space"},
        {"wait-when-failing", OPTION_FLAG, &ctl.wait_when_failing, NULL,
         "export-add: requests wait for a disk that fails"},
        {"group", OPTION_TEXT, &ctl.group, "NAME", "export-add: shares that group's limits"},
        {"shrink", OPTION_FLAG, &ctl.shrink, NULL, "resize: what lies beyond may be lost"},
        {"read-ops", OPTION_TEXT, &ctl.read_ops, "N[/BURST]",
         "export-add, limits: operations a second"},
        {"write-ops", OPTION_TEXT, &ctl.write_ops, "N[/BURST]", "likewise"},
        {"read-bytes", OPTION_TEXT, &ctl.read_bytes, "SIZE[/BURST]", "likewise: bytes a second"},
        {"write-bytes", OPTION_TEXT, &ctl.write_bytes, "SIZE[/BURST]", "likewise"},
        {"in", OPTION_TEXT, &ctl.in, "SIZE[/BURST]", "limits: bytes a second to the guest"},
        {"out", OPTION_TEXT, &ctl.out, "SIZE[/BURST]", "and from it"},
        OPTION_JSON(&ctl.as_json),
        OPTION_QUIET(&ctl.quiet),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "ctl",
        .operands = "COMMAND [EXPORT|GROUP [IMAGE|SNAPSHOT|SIZE|SLOT]]",
        .about = ABOUT,
        .min = 1,
        .max = 3,
        .groups = {own},
    };
    char **operands;
    int count, status = options_parse(&usage, argc, argv, &operands, &count);

    return status == OPTIONS_GO_ON ? run(&ctl, operands, count) : status;
}
