# SPDX-License-Identifier: Apache-2.0
"""Tools for drives over NBD, for the scenarios: nbd_tool.py COMMAND URI ...

    strict URI FILE              the drive, read in structured replies, each checked, is the file
    backup URI FILE              all of the drive
    backup URI FILE SNAPSHOT     only what changed since the snapshot, by its dirty bitmap, over an
                                 earlier backup; prints how many bytes that was
    writer URI LOG SEED          writes with flushes until it is killed or the server is; the log
                                 says what was asked for and what was flushed
    verify URI LOG               nothing that was flushed is lost: each block holds its last
                                 flushed content or a later one
"""
import random
import struct
import sys

import nbd

BLOCK = 4096
REQUEST = 1 << 20
STATUS_REQUEST = 1 << 30
HEADER = struct.Struct("<QQ")  # where the block lies, and its number


def connect(uri, *contexts):
    handle = nbd.NBD()
    for context in contexts:
        handle.add_meta_context(context)
    handle.connect_uri(uri)
    for context in contexts:
        assert handle.can_meta_context(context), context
    return handle


def ranges(size, step=REQUEST):
    return ((at, min(step, size - at)) for at in range(0, size, step))


def command_strict(uri, path):
    handle = connect(uri)
    assert handle.get_structured_replies_negotiated()
    handle.set_strict_mode(handle.get_strict_mode() | nbd.STRICT_BOUNDS | nbd.STRICT_ALIGN)
    with open(path, "rb") as file:
        for at, length in ranges(handle.get_size()):
            whole, seen = bytearray(length), bytearray(length)

            def chunk(data, offset, status, error):
                assert error.value == 0 and status in (nbd.READ_DATA, nbd.READ_HOLE)
                begin = offset - at
                assert 0 <= begin and begin + len(data) <= length and not any(seen[begin:begin + len(data)])
                seen[begin:begin + len(data)] = b"\1" * len(data)
                if status == nbd.READ_DATA:
                    whole[begin:begin + len(data)] = data
                return 0

            data = handle.pread_structured(length, at, chunk)
            assert all(seen) and data == whole == file.read(length), f"at {at}"
    handle.shutdown()


def dirty(handle, context):
    """Ranges of which the context's first bit is set, as a backup program asks for them."""
    size, at = handle.get_size(), 0
    while at < size:
        found = []

        def extents(name, _offset, entries, _error):
            found.extend(entries if name == context else [])

        handle.block_status(min(STATUS_REQUEST, size - at), at, extents)
        assert found, "no progress"
        for length, flags in zip(found[::2], found[1::2]):
            assert length > 0
            length = min(length, size - at)
            if flags & 1:
                yield at, length
            at += length


def command_backup(uri, path, since=None):
    context = f"qemu:dirty-bitmap:{since}"
    handle = connect(uri, *([context] if since else []))
    copied = 0
    with open(path, "r+b" if since else "wb") as file:
        file.truncate(handle.get_size())
        for begin, length in dirty(handle, context) if since else [(0, handle.get_size())]:
            for at, part in ranges(length):
                file.seek(begin + at)
                file.write(handle.pread(part, begin + at))
            copied += length
    print(copied)
    handle.shutdown()


def content(at, number):
    return (HEADER.pack(at, number) + random.Random(at ^ number << 40).randbytes(48)) * (BLOCK // 64)


def command_writer(uri, log_path, seed):
    rng = random.Random(seed)
    handle = connect(uri)
    blocks = min(handle.get_size() // BLOCK, 2048)
    first = int(seed) << 32
    with open(log_path, "a", encoding="ascii") as log:
        log.write("begin\n")
        for number in range(first, first + (1 << 31)):
            places = sorted(rng.sample(range(blocks), 16))
            log.writelines(f"w {at} {number}\n" for at in places)
            log.flush()
            try:
                in_flight = []
                for at in places:
                    data = nbd.Buffer.from_bytearray(bytearray(content(at, number)))
                    in_flight.append(handle.aio_pwrite(data, at * BLOCK))
                while handle.aio_in_flight():
                    handle.poll(-1)
                for cookie in in_flight:
                    assert handle.aio_command_completed(cookie)
                handle.flush()
            except nbd.Error:
                return
            log.write(f"f {number}\n")
            log.flush()


def command_verify(uri, log_path):
    flushed, later, pending = {}, {}, {}
    with open(log_path, encoding="ascii") as log:
        for line in log:
            word, *numbers = line.split()
            if word == "w":
                at, number = map(int, numbers)
                later.setdefault(at, set()).add(number)
                pending[at] = number
            elif word == "begin":
                pending = {}  # what was not flushed by then may be lost, also later
            else:
                for at, number in pending.items():
                    flushed[at] = number
                    later[at] = {number}
                pending = {}
    handle = connect(uri)
    for at, allowed in later.items():
        data = handle.pread(BLOCK, at * BLOCK)
        if at not in flushed and data == bytes(BLOCK):
            continue
        assert any(data == content(at, number) for number in allowed), f"block {at}: not one of {allowed}"
    assert flushed
    handle.shutdown()
    print(len(flushed))


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    globals()["command_" + sys.argv[1]](*sys.argv[2:])
