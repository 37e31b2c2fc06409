/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Secrets from files and from the terminal; see secret.h.
 */
#include "secret.h"

#include "interrupt.h"
#include "report.h"
#include "sizes.h"

#include "vdisk/vdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#define FIRST_BYTES  4096u
#define PROMPT_BYTES 4096u

void secret_free(struct secret *secret)
{
    if (secret->bytes)
        vdisk_secret_free(secret->bytes);
    secret->bytes = NULL;
    secret->length = 0;
}

/* --- from a file -------------------------------------------------------------------------- */

static int grow(struct secret *secret, size_t *capacity)
{
    size_t wider = *capacity ? 2 * *capacity : FIRST_BYTES;
    uint8_t *bytes = vdisk_secret_alloc(wider);

    if (!bytes)
        return -ENOMEM;
    if (secret->bytes) {
        memcpy(bytes, secret->bytes, secret->length);
        vdisk_secret_free(secret->bytes);
    }
    secret->bytes = bytes;
    *capacity = wider;
    return 0;
}

/* The capacity ends at twice the limit, so a file that is too long is seen to be. */
static int read_all(int fd, struct secret *secret)
{
    size_t capacity = 0;

    for (;;) {
        ssize_t got;

        if (secret->length == capacity) {
            int result = grow(secret, &capacity);

            if (result)
                return result;
        }
        got = read(fd, secret->bytes + secret->length, capacity - secret->length);
        if (got < 0 && (errno != EINTR || interrupt_pending()))
            return errno == EINTR ? -ECANCELED : -errno;
        if (got == 0)
            return secret->length ? 0 : -ENODATA;
        if (got > 0)
            secret->length += (size_t)got;
        if (secret->length > SECRET_FILE_MAX)
            return -EFBIG;
    }
}

static void warn_if_shared(const char *name, int fd)
{
    struct stat status;

    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && (status.st_mode & 077))
        report_note(name, "warning: others than its owner may use this key; chmod 600 helps");
}

/*
 * /dev/fd/N, as in `--key-file <(command)`: a process that may not be traced cannot open that
 * itself, but it has the descriptor already.
 */
static int open_file(const char *path)
{
    static const char inherited[] = "/dev/fd/";
    uint64_t number;

    if (strncmp(path, inherited, sizeof(inherited) - 1) == 0 &&
        sizes_parse_number(path + sizeof(inherited) - 1, &number) && number <= INT_MAX)
        return fcntl((int)number, F_DUPFD_CLOEXEC, 3);
    return open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
}

int secret_read_file(const char *path, bool is_private, struct secret *secret)
{
    bool is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? "standard input" : path;
    int fd = is_stdin ? STDIN_FILENO : open_file(path);
    struct secret read_secret = {NULL, 0};
    int result;

    if (fd < 0)
        return report(name, -errno, NULL);
    if (is_private)
        warn_if_shared(name, fd);
    result = read_all(fd, &read_secret);
    if (!is_stdin)
        close(fd);
    if (result == 0) {
        *secret = read_secret;
        return STATUS_DONE;
    }
    secret_free(&read_secret);
    if (result == -ENODATA)
        return report_text(name, result, "is empty, a key cannot be");
    if (result == -EFBIG)
        return report_text(name, result, "is longer than 1 MiB, so it is hardly a key");
    return report(name, result, NULL);
}

/* --- from the terminal -------------------------------------------------------------------- */

static const int prompt_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP};

#define PROMPT_SIGNALS (sizeof(prompt_signals) / sizeof(prompt_signals[0]))

static volatile sig_atomic_t prompt_signal;

static void note_signal(int number)
{
    prompt_signal = number;
}

/*
 * The terminal and the process in the state they are given back in. The signals are blocked but
 * while we wait, so that none is missed between a look at prompt_signal and the wait.
 */
struct terminal {
    int fd;
    struct termios before;
    sigset_t mask;
    struct sigaction actions[PROMPT_SIGNALS];
};

static int terminal_silence(struct terminal *terminal)
{
    struct sigaction action = {.sa_handler = note_signal};
    struct termios silent;
    sigset_t blocked;

    if (tcgetattr(terminal->fd, &terminal->before) < 0)
        return -errno;
    sigemptyset(&action.sa_mask);
    sigemptyset(&blocked);
    prompt_signal = 0;
    for (size_t i = 0; i < PROMPT_SIGNALS; i++)
        sigaddset(&blocked, prompt_signals[i]);
    sigprocmask(SIG_BLOCK, &blocked, &terminal->mask);
    for (size_t i = 0; i < PROMPT_SIGNALS; i++)
        sigaction(prompt_signals[i], &action, &terminal->actions[i]);
    silent = terminal->before;
    silent.c_lflag &= ~(tcflag_t)(ECHO | ECHOE | ECHOK | ECHONL);
    silent.c_lflag |= ICANON | ISIG;
    /* EIO: the terminal has gone, which the read that follows will say. */
    tcsetattr(terminal->fd, TCSAFLUSH, &silent);
    return 0;
}

static void terminal_restore(struct terminal *terminal)
{
    tcsetattr(terminal->fd, TCSAFLUSH, &terminal->before);
    sigprocmask(SIG_SETMASK, &terminal->mask, NULL); /* one that came late is noted yet */
    for (size_t i = 0; i < PROMPT_SIGNALS; i++)
        sigaction(prompt_signals[i], &terminal->actions[i], NULL);
}

static void say(int fd, const char *text)
{
    ssize_t ignored = write(fd, text, strlen(text));

    (void)ignored; /* a terminal that takes no prompt may still give a line */
}

/* Names come from others: what would drive the terminal is shown as `?`. */
static void say_prompt(int fd, const char *what, const char *subject)
{
    char text[512];
    size_t length = strlen(subject);

    if (length > sizeof(text) - 1)
        length = sizeof(text) - 1;
    for (size_t i = 0; i < length; i++)
        text[i] = (unsigned char)subject[i] < 0x20 || subject[i] == 0x7f ? '?' : subject[i];
    text[length] = '\0';
    say(fd, what);
    say(fd, text);
    say(fd, ": ");
}

/* One line into `secret`, whose memory has PROMPT_BYTES. 0, -EINTR after a signal, -errno. */
static int read_line(const struct terminal *terminal, struct secret *secret)
{
    struct pollfd wanted = {.fd = terminal->fd, .events = POLLIN};

    secret->length = 0;
    for (;;) {
        ssize_t got;

        if (ppoll(&wanted, 1, NULL, &terminal->mask) < 0)
            return -errno;
        got = read(terminal->fd, secret->bytes + secret->length, PROMPT_BYTES - secret->length);
        if (got < 0)
            return -errno;
        if (got == 0)
            return secret->length ? 0 : -ENODATA;
        secret->length += (size_t)got;
        if (secret->bytes[secret->length - 1] == '\n') {
            secret->length--;
            return 0;
        }
        if (secret->length == PROMPT_BYTES)
            return -EFBIG;
    }
}

/* Asks until an answer comes; a signal takes its effect with the terminal as it was, and when it
 * was a stop, the question is asked again. */
static int ask(int fd, const char *what, const char *subject, struct secret *secret)
{
    struct terminal terminal = {.fd = fd};
    int result;

    do {
        result = terminal_silence(&terminal);
        if (result)
            return result;
        say_prompt(fd, what, subject);
        result = read_line(&terminal, secret);
        terminal_restore(&terminal);
        say(fd, "\n");
        if (prompt_signal)
            raise(prompt_signal);
    } while (result == -EINTR && prompt_signal == SIGTSTP);
    return result == -EINTR ? -ECANCELED : result;
}

bool secret_can_prompt(void)
{
    return isatty(STDIN_FILENO) || isatty(STDERR_FILENO);
}

static int ask_twice(int fd, const char *what, const char *subject, struct secret *secret)
{
    struct secret again = {vdisk_secret_alloc(PROMPT_BYTES), 0};
    int result;

    if (!again.bytes)
        return -ENOMEM;
    result = ask(fd, what, subject, secret);
    if (result == 0 && secret->length > 0)
        result = ask(fd, "Once more", "", &again);
    if (result == 0 &&
        (again.length != secret->length || memcmp(again.bytes, secret->bytes, secret->length) != 0))
        result = -EBADMSG;
    secret_free(&again);
    return result;
}

int secret_prompt(const char *what, const char *subject, bool twice, struct secret *secret)
{
    struct secret line = {NULL, 0};
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    int result;

    if (fd < 0)
        return report_text(subject, -errno, "there is no terminal to ask for a passphrase");
    line.bytes = vdisk_secret_alloc(PROMPT_BYTES);
    if (!line.bytes)
        result = -ENOMEM;
    else if (twice)
        result = ask_twice(fd, what, subject, &line);
    else
        result = ask(fd, what, subject, &line);
    close(fd);
    if (result == 0 && line.length == 0)
        result = -ENODATA;
    if (result == 0) {
        *secret = line;
        return STATUS_DONE;
    }
    secret_free(&line);
    if (result == -ENODATA)
        return report_text(subject, result, "the passphrase is empty");
    if (result == -EBADMSG)
        return report_text(subject, result, "the two passphrases differ; nothing was done");
    if (result == -EFBIG)
        return report_text(subject, result, "the passphrase is too long; use a key file");
    return report(subject, result, NULL);
}
