/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's audit log: who did what to which image, in lines that hold together (auditlog.h).
 *
 * There are no secrets in it: what is recorded are names, numbers and results. Every function may
 * be called from any thread, and those that record wait for the disk.
 */
#ifndef VDISKD_AUDIT_H
#define VDISKD_AUDIT_H

#include "vdisk/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct audit;

/* Of one export this many integrity errors in a minute are recorded; the rest is counted. */
#define AUDIT_INTEGRITY_BURST 10u

/* Whose doing it is; what is not known is left out. */
struct audit_who {
    bool has_ids;
    uid_t uid;
    gid_t gid;
    pid_t pid;
    const char *tls_subject; /* may be NULL */
    const char *peer;        /* may be NULL: an address, a socket */
};

struct audit_event {
    const struct audit_who *who; /* NULL: the daemon itself */
    const char *event;           /* "export-add", "connect", ... */
    const char *image, *export;  /* may be NULL */
    const char *detail;          /* may be NULL: one line */
    int result;                  /* 0 or an error code */
    const char *error;           /* NULL: the code's own words */
    bool is_volatile;            /* no fsync for it: connections and the like */
};

/*
 * Opens the log, making it (mode 0600) if there is none, and takes it for this process. `key_path`
 * NULL: `path` with `.key`, made at the log's first start. What a crash left half-written stays,
 * and a record says so. -errno; VDISK_E_IN_USE; VDISK_E_DAMAGED when the log was tampered with or
 * the key is another: it must be moved away and kept.
 */
int audit_open(const char *path, const char *key_path, struct audit **out,
               struct vdisk_error *error);
/*
 * When the file has been moved away, makes a new one at the same path, in which the chain goes on;
 * its first line has the hash of the last one of the old. -errno, also when there is another file
 * that is not empty: then the old one is still written to.
 */
int audit_reopen(struct audit *audit, struct vdisk_error *error);
/* Whether the log's folder is its own: nothing in it but files whose names begin with the log's. */
bool audit_has_own_folder(const char *path);
/* Records what is still counted. NULL is allowed. */
void audit_close(struct audit *audit);

/* 0, or -errno: then the line is not in the log (or, after a failed fsync, may not last). `audit`
 * NULL: nothing is recorded. */
int audit_record(struct audit *audit, const struct audit_event *event);

/* Data of an export failed to authenticate; `offset` is the request's, UINT64_MAX where it was
 * none; `now` in nanoseconds of CLOCK_MONOTONIC. */
void audit_integrity(struct audit *audit, const char *export, const char *image, uint64_t offset,
                     int result, int64_t now);

#endif
