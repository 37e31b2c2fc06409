# SPDX-License-Identifier: Apache-2.0
"""Starts a command as a service manager would, or in a world that forbids something.

    daemon_start.py [--listen NAME=ADDRESS]... [--no-io-uring] COMMAND...
    daemon_start.py --notified SOCKET FILE     writes what a service says to its manager, line by line

ADDRESS is the path of a Unix socket, or a port of 127.0.0.1.
"""
import ctypes
import os
import socket
import sys

FIRST = 3


def listener(address):
    if address.isdigit():
        made = socket.socket(socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", int(address)))
    else:
        made = socket.socket(socket.AF_UNIX)
        made.bind(address)
    made.listen()
    return made


def hand_over(listen):
    made = [listener(address) for _, address in listen]
    high = [os.dup(each.fileno()) for each in made]
    high = [os.dup2(fd, 100 + i) for i, fd in enumerate(high)]
    for i, fd in enumerate(high):
        os.dup2(fd, FIRST + i)
        os.close(fd)
    for each in made:
        each.detach()
    os.environ.update(LISTEN_FDS=str(len(listen)), LISTEN_PID=str(os.getpid()),
                      LISTEN_FDNAMES=":".join(name for name, _ in listen))


def forbid_io_uring():
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    library.seccomp_rule_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint]
    rules = library.seccomp_init(0x7FFF0000)  # allow
    number = library.seccomp_syscall_resolve_name(b"io_uring_setup")
    assert library.seccomp_rule_add(rules, 0x00050001, number, 0) == 0  # EPERM
    assert library.seccomp_load(rules) == 0


def notified(path, name):
    here = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    here.bind(path)
    with open(name, "w", encoding="utf-8") as file:
        while True:
            file.write(here.recv(4096).decode() + "\n")
            file.flush()


def main():
    words, listen = sys.argv[1:], []
    if words[0] == "--notified":
        notified(words[1], words[2])
    while words[0].startswith("--"):
        if words[0] == "--listen":
            listen.append(words[1].split("=", 1))
            del words[:2]
        else:
            forbid_io_uring()
            del words[:1]
    if listen:
        hand_over(listen)
    os.execvp(words[0], words)


main()
