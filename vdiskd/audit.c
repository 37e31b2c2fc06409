/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit log's file; see audit.h.
 *
 * Invariant: the file ends where the chain does. A line that could not be written whole is taken
 * back by truncation, and the chain with it.
 */
#include "audit.h"

#include "auditlog.h"
#include "report.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MINUTE       (INT64_C(60) * 1000000000)
#define TORN_MAX     (4 * (size_t)AUDITLOG_LINE_MAX)
#define COUNTERS_MAX 1024u /* exports of which integrity errors are counted apart */

struct counter {
    struct counter *next;
    int64_t since; /* when its minute began */
    uint64_t recorded, left_out;
    char export[256];
};

struct audit {
    pthread_mutex_t lock; /* over all that follows */
    int fd;
    uint64_t length; /* of the file */
    char *path;
    struct auditlog_chain chain;
    struct auditlog_line line;
    struct counter *counters;
    unsigned counter_count;
};

/* ---- writing ---- */

static int write_all(int fd, const char *bytes, size_t length)
{
    while (length) {
        ssize_t put = write(fd, bytes, length);

        if (put < 0 && errno != EINTR)
            return -errno;
        if (put > 0) {
            bytes += put;
            length -= (size_t)put;
        }
    }
    return 0;
}

/* Ends the line and puts it into the file. With the lock held. */
static int put_line(struct audit *audit, const void *torn, size_t torn_length, bool is_durable)
{
    struct auditlog_chain before = audit->chain;
    int rc;

    auditlog_end(&audit->line, &audit->chain, torn, torn_length);
    rc = write_all(audit->fd, audit->line.text, audit->line.length);
    if (rc) {
        if (ftruncate(audit->fd, (off_t)audit->length) == 0)
            audit->chain = before;
    } else {
        audit->length += audit->line.length;
        if (is_durable && fdatasync(audit->fd))
            rc = -errno;
    }
    sodium_memzero(&before, sizeof(before));
    return rc;
}

static int64_t wall_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void put_who(struct auditlog_line *line, const struct audit_who *who)
{
    if (!who)
        return;
    if (who->has_ids) {
        auditlog_number(line, "uid", who->uid);
        auditlog_number(line, "gid", who->gid);
        auditlog_number(line, "pid", who->pid);
    }
    auditlog_string(line, "tls_subject", who->tls_subject);
    auditlog_string(line, "peer", who->peer);
}

static void put_result(struct auditlog_line *line, int result, const char *error)
{
    auditlog_string(line, "result", result ? "failed" : "done");
    if (result)
        auditlog_string(line, "error", error ? error : vdisk_strerror(result));
}

int audit_record(struct audit *audit, const struct audit_event *event)
{
    int rc;

    if (!audit)
        return 0;
    pthread_mutex_lock(&audit->lock);
    auditlog_begin(&audit->line, &audit->chain, wall_clock());
    auditlog_string(&audit->line, "event", event->event);
    put_who(&audit->line, event->who);
    auditlog_string(&audit->line, "image", event->image);
    auditlog_string(&audit->line, "export", event->export);
    auditlog_string(&audit->line, "detail", event->detail);
    put_result(&audit->line, event->result, event->error);
    rc = put_line(audit, NULL, 0, !event->is_volatile);
    pthread_mutex_unlock(&audit->lock);
    return rc;
}

/* ---- integrity errors ---- */

/* The counter of the export; past the limit all exports share the first. With the lock held. */
static struct counter *find_counter(struct audit *audit, const char *export, int64_t now)
{
    struct counter *counter;

    for (counter = audit->counters; counter; counter = counter->next) {
        if (strcmp(counter->export, export) == 0)
            return counter;
    }
    if (audit->counter_count == COUNTERS_MAX)
        return audit->counters;
    counter = calloc(1, sizeof(*counter));
    if (!counter)
        return audit->counters;
    snprintf(counter->export, sizeof(counter->export), "%s", export);
    counter->since = now;
    counter->next = audit->counters;
    audit->counters = counter;
    audit->counter_count++;
    return counter;
}

static void put_left_out(struct audit *audit, struct counter *counter)
{
    if (counter->left_out == 0)
        return;
    auditlog_begin(&audit->line, &audit->chain, wall_clock());
    auditlog_string(&audit->line, "event", "integrity-errors-left-out");
    auditlog_string(&audit->line, "export", counter->export);
    auditlog_number(&audit->line, "count", (int64_t)counter->left_out);
    if (put_line(audit, NULL, 0, false) == 0)
        counter->left_out = 0;
}

void audit_integrity(struct audit *audit, const char *export, const char *image, uint64_t offset,
                     int result, int64_t now)
{
    if (!audit)
        return;
    pthread_mutex_lock(&audit->lock);
    struct counter *counter = find_counter(audit, export, now);
    if (counter && now - counter->since >= MINUTE) {
        put_left_out(audit, counter);
        counter->since = now;
        counter->recorded = 0;
    }
    if (counter && counter->recorded >= AUDIT_INTEGRITY_BURST) {
        counter->left_out++;
    } else {
        auditlog_begin(&audit->line, &audit->chain, wall_clock());
        auditlog_string(&audit->line, "event", "integrity-error");
        auditlog_string(&audit->line, "image", image);
        auditlog_string(&audit->line, "export", export);
        if (offset != UINT64_MAX)
            auditlog_number(&audit->line, "offset", (int64_t)offset);
        put_result(&audit->line, result, NULL);
        (void)put_line(audit, NULL, 0, false);
        if (counter)
            counter->recorded++;
    }
    pthread_mutex_unlock(&audit->lock);
}

/* ---- opening and closing ---- */

static const char *folder_of(const char *path, char folder[PATH_MAX])
{
    const char *slash = strrchr(path, '/');

    snprintf(folder, PATH_MAX, "%.*s", slash ? (int)(slash - path + 1) : 1, slash ? path : ".");
    return folder;
}

static void sync_folder_of(const char *path)
{
    char folder[PATH_MAX];

    folder_of(path, folder);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

static int make_key(const char *path, struct vdisk_error *error)
{
    uint8_t key[AUDITLOG_KEY_BYTES];
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600), rc;

    if (fd < 0) {
        rc = -errno;
        return error_set(error, rc, "the audit log's key %s cannot be made: %s", path,
                         vdisk_strerror(rc));
    }
    randombytes_buf(key, sizeof(key));
    rc = write_all(fd, (const char *)key, sizeof(key));
    if (rc == 0 && fsync(fd))
        rc = -errno;
    sodium_memzero(key, sizeof(key));
    close(fd);
    if (rc) {
        unlink(path);
        return error_set(error, rc, "the audit log's key %s cannot be written: %s", path,
                         vdisk_strerror(rc));
    }
    sync_folder_of(path);
    return 0;
}

/* A key is only made where there is no log yet, so that it never hides that one was taken away. */
static int load_key(struct audit *audit, const char *path, const char *key_path,
                    struct vdisk_error *error)
{
    char beside[PATH_MAX];
    struct stat status;
    int rc;

    if (!key_path) {
        int length = snprintf(beside, sizeof(beside), "%s.key", path);

        if (length < 0 || (size_t)length >= sizeof(beside))
            return error_set(error, -ENAMETOOLONG, "the name of the audit log is too long");
        if (fstat(audit->fd, &status))
            return error_set(error, -errno, "%s: %s", path, vdisk_strerror(-errno));
        if (status.st_size == 0 && access(beside, F_OK) && errno == ENOENT) {
            rc = make_key(beside, error);
            if (rc)
                return rc;
        }
        key_path = beside;
    }
    return auditlog_read_key(key_path, audit->chain.key, error);
}

/* A line that a crash cut short stays; the first record after it says so. */
static int keep_torn(struct audit *audit, const struct auditlog_result *result)
{
    char *torn = malloc(TORN_MAX);
    ssize_t length = torn ? pread(audit->fd, torn, TORN_MAX, (off_t)result->bytes) : -1;
    int rc;

    if (length < 0) {
        rc = torn ? -errno : -ENOMEM;
        goto out;
    }
    rc = write_all(audit->fd, "\n", 1);
    if (rc)
        goto out;
    audit->length++;
    if (result->is_whole_but_newline) { /* it is a good line, whose newline was missing */
        struct auditlog_result again;

        rc = auditlog_scan(audit->fd, &audit->chain, NULL, &again);
        goto out;
    }
    auditlog_begin(&audit->line, &audit->chain, wall_clock());
    auditlog_string(&audit->line, "event", "log-recovered");
    auditlog_string(&audit->line, "detail", "the line before was cut short by a crash");
    auditlog_number(&audit->line, "torn_bytes", length);
    rc = put_line(audit, torn, (size_t)length, true);
out:
    free(torn);
    return rc;
}

static int continue_chain(struct audit *audit, const char *path, struct vdisk_error *error)
{
    struct auditlog_result result;
    struct stat status;
    int rc = auditlog_scan(audit->fd, &audit->chain, NULL, &result);

    if (rc == 0 && fstat(audit->fd, &status))
        rc = -errno;
    if (rc)
        return error_set(error, rc, "the audit log %s cannot be read: %s", path,
                         vdisk_strerror(rc));
    audit->length = (uint64_t)status.st_size;
    if (result.damaged_line && !result.is_cut_short)
        return error_set(error, VDISK_E_DAMAGED,
                         "the audit log %s is damaged: line %llu: %s; move it away and keep it",
                         path, (unsigned long long)result.damaged_line, result.damage);
    if (result.is_cut_short) {
        rc = keep_torn(audit, &result);
        if (rc)
            return error_set(error, rc, "the audit log %s cannot be continued: %s", path,
                             vdisk_strerror(rc));
    }
    return 0;
}

int audit_open(const char *path, const char *key_path, struct audit **out,
               struct vdisk_error *error)
{
    struct audit *audit = calloc(1, sizeof(*audit));
    struct stat status;
    int rc;

    if (!audit)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    pthread_mutex_init(&audit->lock, NULL);
    audit->path = strdup(path);
    audit->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (!audit->path) {
        rc = error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
        goto fail;
    }
    if (audit->fd < 0) {
        rc = error_set(error, -errno, "the audit log %s cannot be opened: %s", path,
                       vdisk_strerror(-errno));
        goto fail;
    }
    if (fstat(audit->fd, &status) || !S_ISREG(status.st_mode)) {
        rc = error_set(error, -EINVAL, "the audit log %s is not a file", path);
        goto fail;
    }
    if (flock(audit->fd, LOCK_EX | LOCK_NB)) {
        rc = error_set(error, VDISK_E_IN_USE, "another process writes the audit log %s", path);
        goto fail;
    }
    rc = load_key(audit, path, key_path, error);
    if (rc == 0)
        rc = continue_chain(audit, path, error);
    if (rc)
        goto fail;
    sync_folder_of(path);
    *out = audit;
    return 0;
fail:
    audit_close(audit);
    return rc;
}

/* ---- another file ---- */

bool audit_has_own_folder(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char folder[PATH_MAX];
    DIR *entries = opendir(folder_of(path, folder));
    bool is_own = entries;

    for (struct dirent *entry; is_own && (entry = readdir(entries));) {
        struct stat status;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        is_own = strncmp(entry->d_name, name, strlen(name)) == 0 &&
                 fstatat(dirfd(entries), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
                 S_ISREG(status.st_mode);
    }
    if (entries)
        closedir(entries);
    return is_own;
}

/* An empty file at the path, which may be made: a descriptor, or -errno. */
static int open_next(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    struct stat status = {0};
    int rc = fd < 0 || fstat(fd, &status) ? -errno : 0;

    if (rc == 0 && (!S_ISREG(status.st_mode) || status.st_size > 0))
        rc = -EEXIST;
    if (rc == 0 && flock(fd, LOCK_EX | LOCK_NB))
        rc = -errno;
    if (rc && fd >= 0)
        close(fd);
    return rc ? rc : fd;
}

/* With the lock held: the chain goes on in `fd`, which is taken over; not after an error. */
static int go_on_in(struct audit *audit, int fd)
{
    int old_fd = audit->fd, rc;
    uint64_t old_length = audit->length;
    struct auditlog_chain before = audit->chain;

    audit->fd = fd;
    audit->length = 0;
    auditlog_begin(&audit->line, &audit->chain, wall_clock());
    auditlog_string(&audit->line, "event", "log-continued");
    auditlog_before(&audit->line, &audit->chain);
    rc = put_line(audit, NULL, 0, true);
    if (rc) {
        (void)!ftruncate(fd, 0);
        close(fd);
        audit->fd = old_fd;
        audit->length = old_length;
        audit->chain = before;
    } else {
        sync_folder_of(audit->path);
        (void)fdatasync(old_fd);
        close(old_fd);
    }
    sodium_memzero(&before, sizeof(before));
    return rc;
}

int audit_reopen(struct audit *audit, struct vdisk_error *error)
{
    struct stat open_file, at_path;
    int fd, rc = 0;

    if (!audit)
        return 0;
    pthread_mutex_lock(&audit->lock);
    if (fstat(audit->fd, &open_file)) {
        rc = -errno;
    } else if (stat(audit->path, &at_path) || at_path.st_ino != open_file.st_ino ||
               at_path.st_dev != open_file.st_dev) {
        fd = open_next(audit->path);
        rc = fd < 0 ? fd : go_on_in(audit, fd);
    }
    pthread_mutex_unlock(&audit->lock);
    if (rc == -EACCES)
        return error_set(error, rc,
                         "the audit log %s cannot be begun anew: the daemon's user must be allowed "
                         "to, and it must have had a folder of its own when the daemon started",
                         audit->path);
    return rc ? error_set(error, rc, "the audit log %s cannot be begun anew: %s", audit->path,
                          vdisk_strerror(rc))
              : 0;
}

void audit_close(struct audit *audit)
{
    if (!audit)
        return;
    while (audit->counters) {
        struct counter *counter = audit->counters;

        audit->counters = counter->next;
        put_left_out(audit, counter);
        free(counter);
    }
    if (audit->fd >= 0) {
        (void)fdatasync(audit->fd);
        close(audit->fd);
    }
    pthread_mutex_destroy(&audit->lock);
    free(audit->path);
    sodium_memzero(audit, sizeof(*audit));
    free(audit);
}
