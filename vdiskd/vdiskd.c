/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `vdiskd`: main. The daemon's life is in daemon.h, what it can be told in settings.h.
 */
#include "daemon.h"

#include "descriptors.h"
#include "lockedmem.h"
#include "log.h"
#include "options.h"
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* QEMU's docs/interop/vhost-user.rst, "Backend program conventions". */
static int print_capabilities(void)
{
    puts("{\n  \"type\": \"block\",\n  \"features\": [\n    \"read-only\",\n    \"blk-file\"\n"
         "  ]\n}");
    return fflush(stdout) ? STATUS_FAILED : STATUS_DONE;
}

/* Something must come of it. */
static int check_purpose(const struct settings *settings)
{
    bool has_vhost = false;

    for (unsigned i = 0; i < settings->export_count; i++)
        has_vhost |= settings->exports[i].vhost_user != NULL;
    if (!has_vhost && settings->nbd.count == 0 && !settings->socket && !getenv("LISTEN_FDS"))
        return report_usage(NULL, "nobody could reach it: give --nbd, --socket or vhost-user=");
    return STATUS_DONE;
}

static int run(const struct settings_start *start)
{
    struct daemon daemon = {
        .start = start,
        .control_socket = {.fd = -1},
        .metrics_socket = {.fd = -1},
        .signal_fd = -1,
    };
    struct vdisk_error error = {.code = 0};
    int status, rc = settings_load(start->config, start->options, &daemon.settings, &error);

    if (rc)
        return report(start->config, rc, &error);
    status = check_purpose(daemon.settings);
    if (status == STATUS_DONE)
        status = daemon_prepare(&daemon);
    if (status == STATUS_DONE)
        status = daemon_confine(&daemon);
    if (status == STATUS_DONE)
        status = daemon_run(&daemon);
    daemon_free(&daemon);
    return status;
}

int main(int argc, char **argv)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    struct settings_start start;
    int status;

    if (!descriptors_open_standard())
        return STATUS_FAILED;
    /* `vdisk serve` becomes this program and keeps its name. */
    report_set_program(slash ? slash + 1 : argc > 0 ? argv[0] : "vdiskd");
    status = vd_process_harden();
    if (status < 0)
        return report_text(NULL, status, "the process cannot be protected: %s",
                           vdisk_strerror(status));
    if (vdisk_init() < 0)
        return report_text(NULL, -EIO, "the cryptographic libraries do not start");
    status = settings_command_line(argc, argv, &start);
    if (status == OPTIONS_GO_ON) {
        log_open(start.quiet);
        status = start.print_capabilities ? print_capabilities() : run(&start);
    }
    json_decref(start.options);
    return status;
}
