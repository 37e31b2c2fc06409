/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See suspend.h. In this order: the file is made (deriving its key may take a second), the guest
 * paused, a snapshot made of each drive that it can write, its state written behind what the drives
 * are, all of it made durable, the guest ended. A snapshot is durable when it is made.
 */
#include "suspend.h"

#include "ctl_client.h"
#include "interrupt.h"
#include "progress.h"
#include "report.h"
#include "rundir.h"
#include "statefile.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define DRIVES_MAX   12u
#define SOCKET_BYTES (RUNDIR_BYTES + 16)
#define END_SECONDS  30

struct suspend {
    const struct suspend_options *options;
    char folder[RUNDIR_BYTES];
    char vmm[SOCKET_BYTES], disks[SOCKET_BYTES];
    char snapshot[32];
    bool made[DRIVES_MAX]; /* that snapshot, of these */
    unsigned drives;
    bool is_paused; /* by us */
    json_t *info;   /* what the VMM tells of the guest */
    json_t *manifest;
    struct statefile_writer *writer;
};

/* ---- asking ---- */

static json_t *command(const char *name)
{
    return json_pack("{s:s}", "command", name);
}

static json_t *on_drive(const char *name, unsigned drive)
{
    char export[16];

    (void)snprintf(export, sizeof(export), "drive%u", drive);
    return json_pack("{s:s, s:s}", "command", name, "export", export);
}

static json_t *on_snapshot(const struct suspend *suspend, const char *name, unsigned drive)
{
    json_t *request = on_drive(name, drive);

    json_object_set_new(request, "snapshot", json_string(suspend->snapshot));
    return request;
}

static int ask(const struct suspend *suspend, const char *socket, json_t *request, json_t **result)
{
    struct vdisk_error error = {.code = 0};
    int rc = ctl_ask(socket, request, result, &error);

    if (rc == -ENOENT || rc == -ECONNREFUSED)
        return report_text(suspend->options->guest, rc, "no guest of this name is running");
    return rc ? report(suspend->options->guest, rc, &error) : STATUS_DONE;
}

static int fail_senseless(const struct suspend *suspend)
{
    return report_text(suspend->options->guest, -EIO, "what its programs tell makes no sense");
}

/* ---- what the guest is ---- */

static void copy_text(json_t *to, const json_t *from, const char *name)
{
    json_t *text = json_object_get(from, name);

    if (json_is_string(text))
        json_object_set(to, name, text);
}

/* What follows in *at, which has room for all that there can be. */
static void add_limit(char **at, const char *name, const json_t *limit)
{
    json_int_t rate = json_integer_value(json_object_get(limit, "rate"));
    json_int_t burst = json_integer_value(json_object_get(limit, "burst"));

    if (rate > 0)
        *at += sprintf(*at, ",%s=%lld", name, (long long)rate);
    if (rate > 0 && burst > 0)
        *at += sprintf(*at, "/%lld", (long long)burst);
}

/* As --net has it. */
static json_t *net_text(const json_t *net)
{
    const char *tap = json_string_value(json_object_get(net, "tap"));
    const char *socket = json_string_value(json_object_get(net, "socket"));
    const char *mac = json_string_value(json_object_get(net, "mac"));
    json_int_t vlan = json_integer_value(json_object_get(net, "vlan"));
    char text[512], *at = text;

    if (!tap == !socket || strlen(tap ? tap : socket) > 256 || !mac || strlen(mac) > 32)
        return NULL;
    at += sprintf(at, "%s=%s,mac=%s", tap ? "tap" : "socket", tap ? tap : socket, mac);
    if (vlan > 0)
        at += sprintf(at, ",vlan=%lld", (long long)vlan);
    add_limit(&at, "in", json_object_get(net, "in"));
    add_limit(&at, "out", json_object_get(net, "out"));
    return json_string(text);
}

static int describe(struct suspend *suspend)
{
    static const char *const texts[] = {"name", "kernel", "initrd", "command", "firmware"};
    const json_t *info = suspend->info, *vsock = json_object_get(info, "vsock");
    json_t *nets = json_array(), *net;
    size_t i;
    int bad = 0;

    json_array_foreach(json_object_get(info, "networks"), i, net) bad |=
        json_array_append_new(nets, net_text(net));
    suspend->manifest = json_pack(
        "{s:O, s:O, s:I, s:o, s:[]}", "memory", json_object_get(info, "memory_bytes"), "cpus",
        json_object_get(info, "cpus"), "suspended", (json_int_t)time(NULL), "nets", nets, "drives");
    if (bad || !suspend->manifest)
        return fail_senseless(suspend);
    for (i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        copy_text(suspend->manifest, info, texts[i]);
    if (vsock)
        json_object_set_new(
            suspend->manifest, "vsock",
            json_sprintf("%lld:%s", (long long)json_integer_value(json_object_get(vsock, "cid")),
                         json_string_value(json_object_get(vsock, "folder"))));
    return STATUS_DONE;
}

static int find_guest(struct suspend *suspend)
{
    struct vdisk_error error = {.code = 0};
    const char *state;
    int rc = rundir_find(suspend->options->guest, suspend->folder, &error), status;

    if (rc)
        return report(NULL, rc, &error);
    (void)snprintf(suspend->vmm, sizeof(suspend->vmm), "%s/vmm/socket", suspend->folder);
    (void)snprintf(suspend->disks, sizeof(suspend->disks), "%s/disks/socket", suspend->folder);
    status = ask(suspend, suspend->vmm, command("info"), &suspend->info);
    if (status != STATUS_DONE)
        return status;
    state = json_string_value(json_object_get(suspend->info, "state"));
    suspend->drives = (unsigned)json_array_size(json_object_get(suspend->info, "drives"));
    if (!state || suspend->drives > DRIVES_MAX)
        return fail_senseless(suspend);
    if (strcmp(state, "suspending") == 0)
        return report_text(suspend->options->guest, VDISK_E_IN_USE, "is being suspended already");
    suspend->is_paused = strcmp(state, "running") == 0;
    return describe(suspend);
}

/* ---- what its drives are ---- */

static const json_t *find_named(const json_t *list, const char *name)
{
    const json_t *one;
    size_t i;

    json_array_foreach((json_t *)(uintptr_t)list, i, one)
    {
        const char *is = json_string_value(json_object_get(one, "name"));

        if (is && strcmp(is, name) == 0)
            return one;
    }
    return NULL;
}

/* The snapshot of a drive, with its id, into what the manifest says of it. */
static int note_snapshot(struct suspend *suspend, unsigned drive, const char *name, bool is_live,
                         json_t *about)
{
    json_t *list = NULL, *id = NULL;
    int status = ask(suspend, suspend->disks, on_drive("snapshot-list", drive), &list);

    if (status == STATUS_DONE) {
        id = json_object_get(find_named(list, name), "id");
        if (!json_is_integer(id))
            status = fail_senseless(suspend);
    }
    if (status == STATUS_DONE && (json_object_set(about, "snapshot_id", id) ||
                                  json_object_set_new(about, "snapshot", json_string(name)) ||
                                  json_object_set_new(about, "is_live", json_boolean(is_live))))
        status = report(NULL, -ENOMEM, NULL);
    json_decref(list);
    return status;
}

static int take_snapshot(struct suspend *suspend, unsigned drive, json_t *about)
{
    int status = ask(suspend, suspend->disks, on_snapshot(suspend, "snapshot-create", drive), NULL);

    if (status != STATUS_DONE)
        return status;
    suspend->made[drive] = true;
    return note_snapshot(suspend, drive, suspend->snapshot, true, about);
}

static int keep_drive(struct suspend *suspend, unsigned drive, const json_t *exports)
{
    json_t *about = json_object(), *id, *tag;
    const json_t *export;
    const char *snapshot;
    char name[16];

    (void)snprintf(name, sizeof(name), "drive%u", drive);
    export = find_named(exports, name);
    id = json_object_get(export, "image_id");
    tag = json_object_get(export, "root_tag");
    snapshot = json_string_value(json_object_get(export, "vhost_snapshot"));
    if (json_array_append_new(json_object_get(suspend->manifest, "drives"), about) ||
        !json_is_string(id) || json_object_set(about, "image_id", id))
        return fail_senseless(suspend);
    if (snapshot)
        return note_snapshot(suspend, drive, snapshot, false, about);
    if (!json_is_true(json_object_get(export, "read_only")))
        return take_snapshot(suspend, drive, about);
    return json_is_string(tag) && json_object_set(about, "root_tag", tag) == 0
               ? STATUS_DONE
               : fail_senseless(suspend);
}

static int keep_drives(struct suspend *suspend)
{
    json_t *exports = NULL;
    uint32_t number;
    int status = ask(suspend, suspend->disks, command("export-list"), &exports);

    if (getrandom(&number, sizeof(number), 0) != sizeof(number))
        status = report(NULL, -EIO, NULL);
    (void)snprintf(suspend->snapshot, sizeof(suspend->snapshot), "suspend-%08x", number);
    for (unsigned i = 0; i < suspend->drives && status == STATUS_DONE; i++)
        status = interrupt_pending() ? report(suspend->options->guest, -ECANCELED, NULL)
                                     : keep_drive(suspend, i, exports);
    json_decref(exports);
    return status;
}

/* ---- its state ---- */

/* Fills the buffer, unless the end comes before: how much there is, or -errno. */
static ssize_t fill(int fd, uint8_t *buffer)
{
    size_t have = 0;

    while (have < STATEFILE_PIECE) {
        int rc = interrupt_wait_fd(fd, POLLIN, -1);
        ssize_t got = rc ? 0 : read(fd, buffer + have, STATEFILE_PIECE - have);

        if (rc || (got < 0 && errno != EINTR))
            return rc ? rc : -errno;
        if (got == 0)
            break;
        have += got > 0 ? (size_t)got : 0;
    }
    return (ssize_t)have;
}

static int pump(struct suspend *suspend, int fd)
{
    uint64_t memory = (uint64_t)json_integer_value(json_object_get(suspend->info, "memory_bytes")),
             done = 0;
    struct progress progress;
    ssize_t got = STATEFILE_PIECE;
    int status = STATUS_DONE;

    progress_begin(&progress, "suspend", suspend->options->quiet);
    while (got == STATEFILE_PIECE && status == STATUS_DONE) {
        uint8_t *buffer;

        status = statefile_buffer(suspend->writer, &buffer);
        if (status != STATUS_DONE)
            break;
        got = fill(fd, buffer);
        if (got < 0)
            break;
        if (got > 0)
            statefile_append(suspend->writer, (uint32_t)got);
        done += (uint64_t)got;
        progress_update(&progress, done < memory ? done : memory, memory);
    }
    progress_clear(&progress);
    return got < 0 ? report(suspend->options->guest, (int)got, NULL) : status;
}

/* The VMM writes into a pipe, which is read until it has ended; the answer says whether that was
 * all. It is waited for in any case: until then the guest cannot go on. */
static int write_state(struct suspend *suspend)
{
    struct vdisk_error error = {.code = 0};
    json_t *request = command("suspend"), *reply;
    int ends[2], fd, rc, status;

    if (pipe2(ends, O_CLOEXEC)) {
        json_decref(request);
        return report(NULL, -errno, NULL);
    }
    (void)fcntl(ends[1], F_SETPIPE_SZ, (int)STATEFILE_PIECE);
    fd = ctl_send(suspend->vmm, request, ends[1], &error);
    json_decref(request);
    close(ends[1]);
    status = fd < 0 ? report(suspend->options->guest, fd, &error) : pump(suspend, ends[0]);
    close(ends[0]);
    if (fd < 0)
        return status;
    reply = ctl_receive(fd);
    close(fd);
    rc = ctl_conclude(reply, NULL, &error);
    json_decref(reply);
    return status == STATUS_DONE && rc ? report(suspend->options->guest, rc, &error) : status;
}

/* ---- all ---- */

/* As if nothing had been; what does not work is told. */
static void undo(struct suspend *suspend)
{
    statefile_discard(suspend->writer);
    suspend->writer = NULL;
    for (unsigned i = 0; i < suspend->drives; i++) {
        if (suspend->made[i])
            (void)ask(suspend, suspend->disks, on_snapshot(suspend, "snapshot-delete", i), NULL);
    }
    if (suspend->is_paused)
        (void)ask(suspend, suspend->vmm, command("resume"), NULL);
}

static int write_all(struct suspend *suspend)
{
    int status = STATUS_DONE;

    if (suspend->is_paused)
        status = ask(suspend, suspend->vmm, command("pause"), NULL);
    if (status == STATUS_DONE)
        status = keep_drives(suspend);
    if (status == STATUS_DONE)
        status = statefile_put_manifest(suspend->writer, suspend->manifest);
    if (status == STATUS_DONE)
        status = write_state(suspend);
    if (status == STATUS_DONE) {
        struct statefile_writer *writer = suspend->writer;

        suspend->writer = NULL;
        status = statefile_finish(writer);
    }
    if (status != STATUS_DONE)
        undo(suspend);
    return status;
}

/* From here on the file is what there is of the guest, whatever becomes of its programs. */
static int end_guest(const struct suspend *suspend)
{
    struct vdisk_error error = {.code = 0};
    int rc = ctl_ask(suspend->vmm, command("stop"), NULL, &error);

    if (rc)
        return report_text(suspend->options->guest, rc,
                           "is suspended in %s, and could not be ended: %s", suspend->options->file,
                           error.text);
    if (!rundir_await(suspend->folder, END_SECONDS))
        report_note(suspend->options->guest, "is suspended, and its programs have not ended yet");
    return STATUS_DONE;
}

int suspend_guest(const struct suspend_options *options)
{
    struct suspend suspend = {.options = options};
    struct held_key held = {.prompted = false};
    int status = find_guest(&suspend);

    if (status == STATUS_DONE)
        status = keyopt_load(&options->key, KEYOPT_MAKE, "ctl", options->file, &held);
    if (status == STATUS_DONE) {
        json_int_t memory = json_integer_value(json_object_get(suspend.manifest, "memory"));

        interrupt_catch();
        status = statefile_create(options->file, &held.key, (uint64_t)memory, &suspend.writer);
    }
    if (status == STATUS_DONE)
        status = write_all(&suspend);
    if (status == STATUS_DONE)
        status = end_guest(&suspend);
    keyopt_release(&held);
    json_decref(suspend.manifest);
    json_decref(suspend.info);
    return status;
}
