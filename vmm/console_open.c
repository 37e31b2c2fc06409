/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The descriptors of a console.
 *
 * All but a regular file do not block. That is a property of what is open, and shared with others
 * who have it open (of standard input and output the shell, and standard error): so these are
 * opened anew, by way of /proc. Where that is not allowed the property is changed, and restored at
 * the end.
 */
#include "console_impl.h"

#include "report.h"
#include "terminal.h"
#include "unix_listen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

/* ---- standard input and output ---- */

/* A descriptor of our own for what `fd` is, -1 when it is nothing; -errno. */
static int open_anew(struct vm_console *console, int fd, bool is_output)
{
    char name[64];
    struct stat status;
    int own, flags;

    if (fd < 0 || fstat(fd, &status) < 0)
        return -1;
    if (!S_ISREG(status.st_mode) && !S_ISSOCK(status.st_mode)) {
        (void)snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
        own = open(name, (is_output ? O_WRONLY : O_RDONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (own >= 0)
            return own;
    }
    own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (own < 0 || S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode))
        return own < 0 ? -errno : own;
    flags = fcntl(own, F_GETFL);
    if (flags >= 0 && !(flags & O_NONBLOCK) && fcntl(own, F_SETFL, flags | O_NONBLOCK) == 0)
        console->flags[is_output] = flags;
    return own;
}

static bool is_socket(int fd)
{
    struct stat status;

    return fd >= 0 && fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

static int open_stdio(struct vm_console *console, const struct vm_console_options *options,
                      struct vdisk_error *error)
{
    int result;

    console->input = open_anew(console, options->input, false);
    console->output = open_anew(console, options->output, true);
    if (console->input < -1 || console->output < -1) {
        result = console->input < -1 ? console->input : console->output;
        return error_set(error, result, "standard input and output cannot be used: %s",
                         strerror(-result));
    }
    console->is_socket = is_socket(console->output);
    console->present = console->output >= 0;
    if (!isatty(options->input))
        return 0;
    result = vm_terminal_raw(options->input);
    if (result)
        return error_set(error, result, "the terminal cannot be used for the console: %s",
                         strerror(-result));
    console->is_terminal = true;
    return 0;
}

/* ---- a terminal for others ---- */

/* The other side is kept open, and so in the mode that it has: without anybody there it would be
 * as hung up. */
static int open_pty(struct vm_console *console, struct vdisk_error *error)
{
    struct termios mode;
    char name[64];

    console->input = console->output = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (console->input < 0 || grantpt(console->input) || unlockpt(console->input) ||
        ptsname_r(console->input, name, sizeof(name)))
        goto fail;
    console->slave = ioctl(console->input, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (console->slave < 0 || tcgetattr(console->slave, &mode))
        goto fail;
    cfmakeraw(&mode);
    if (tcsetattr(console->slave, TCSANOW, &mode))
        goto fail;
    console->path = strdup(name);
    if (!console->path)
        return error_set(error, -ENOMEM, "there is no memory");
    console->present = true;
    return 0;
fail:
    return error_set(error, -errno, "no terminal can be made for the console: %s", strerror(errno));
}

/* ---- a file, a socket ---- */

static int keep_path(struct vm_console *console, const struct vm_console_options *options,
                     struct vdisk_error *error)
{
    if (!options->path || !*options->path)
        return error_set(error, -EINVAL, "the console has no path");
    console->path = strdup(options->path);
    return console->path ? 0 : error_set(error, -ENOMEM, "there is no memory");
}

static int open_file(struct vm_console *console, const struct vm_console_options *options,
                     struct vdisk_error *error)
{
    struct stat status;
    int fd, result = keep_path(console, options, error);

    if (result)
        return result;
    fd = open(console->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
              S_IRUSR | S_IWUSR);
    if (fd < 0 || fstat(fd, &status) < 0) {
        result = -errno;
        if (fd >= 0)
            close(fd);
        return error_set(error, result, "%s cannot be opened for the console: %s", console->path,
                         strerror(-result));
    }
    console->output = fd;
    console->is_regular = S_ISREG(status.st_mode);
    console->present = true;
    return 0;
}

static int open_socket(struct vm_console *console, const struct vm_console_options *options,
                       struct vdisk_error *error)
{
    int result = keep_path(console, options, error);

    if (result)
        return result;
    console->is_socket = true;
    console->listener = unix_listen(console->path);
    if (console->listener < 0)
        return error_set(error, console->listener, "the console cannot listen at %s: %s",
                         console->path, strerror(-console->listener));
    return 0;
}

/* ---- all ---- */

int console_open(struct vm_console *console, const struct vm_console_options *options,
                 struct vdisk_error *error)
{
    console->input = console->output = console->slave = console->listener = console->next = -1;
    console->flags[0] = console->flags[1] = -1;
    switch (options->kind) {
    case VM_CONSOLE_STDIO:
        return open_stdio(console, options, error);
    case VM_CONSOLE_PTY:
        return open_pty(console, error);
    case VM_CONSOLE_SOCKET:
        return open_socket(console, options, error);
    case VM_CONSOLE_FILE:
        return open_file(console, options, error);
    default:
        return 0;
    }
}

static void close_one(int fd)
{
    if (fd >= 0)
        close(fd);
}

void console_close(struct vm_console *console)
{
    if (console->is_terminal)
        vm_terminal_restore();
    if (console->flags[0] >= 0)
        (void)fcntl(console->input, F_SETFL, console->flags[0]);
    if (console->flags[1] >= 0)
        (void)fcntl(console->output, F_SETFL, console->flags[1]);
    close_one(console->input);
    if (console->output != console->input)
        close_one(console->output);
    close_one(console->slave);
    close_one(console->next);
    if (console->listener >= 0) {
        close(console->listener);
        (void)unlink(console->path);
    }
    free(console->path);
}
