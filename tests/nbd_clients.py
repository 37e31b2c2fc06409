# SPDX-License-Identifier: Apache-2.0
"""Clients of the NBD server, for tests/test_nbd_server.c: nbd_clients.py CASE SOCKET [FOLDER].

libnbd, or a few lines of our own on the bare socket where no client of today goes. Each case exits
with 0 when what its name says is true.
"""
import os
import socket
import struct
import sys

OPT = 0x49484156454F5054
REP = 0x3E889045565A9


class Bare:
    """The protocol by hand."""

    def __init__(self, path, flags=3):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(20)
        self.s.connect(path)
        assert self.take(18) == b"NBDMAGICIHAVEOPT\0\3"
        self.s.sendall(struct.pack(">I", flags))

    def take(self, n):
        out = b""
        while len(out) < n:
            got = self.s.recv(n - len(out))
            if not got:
                raise EOFError
            out += got
        return out

    def option(self, number, data=b""):
        self.s.sendall(struct.pack(">QII", OPT, number, len(data)) + data)
        replies = []
        while True:
            magic, opt, kind, n = struct.unpack(">QIII", self.take(20))
            assert magic == REP and opt == number
            replies.append((kind, self.take(n)))
            if kind == 1 or kind >> 31:
                return replies

    def go(self, name=b""):
        return self.option(7, struct.pack(">I", len(name)) + name + b"\0\0")

    def contexts(self, *queries, name=b"", number=10):
        data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
        for query in queries:
            data += struct.pack(">I", len(query)) + query
        return self.option(number, data)

    def request(self, flags, kind, offset, length, payload=b"", cookie=7):
        self.s.sendall(struct.pack(">IHHQQQ", 0x21E41C71, flags, kind, cookie, offset, length) + payload)

    def chunk(self):
        magic, flags, kind, cookie, offset, n = struct.unpack(">IHHQQQ", self.take(32))
        assert magic == 0x6E8A278C and cookie == 7
        return flags, kind, self.take(n)


def handle(path, name="", contexts=()):
    import nbd

    h = nbd.NBD()
    h.set_export_name(name)
    for context in contexts:
        h.add_meta_context(context)
    h.connect_uri(f"nbd+unix:///{name}?socket={path}")
    return h


def status(h, length, offset=0):
    found = {}
    h.block_status(length, offset, lambda name, at, e, err: found.setdefault(name, list(e)) and 0)
    return found


def case_reads_what_was_written(path):
    import nbd

    h = handle(path)
    assert h.get_size() == 64 << 20 and not h.is_read_only() and h.can_multi_conn()
    assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20
    data = os.urandom(3 << 20)
    h.pwrite(data, 1 << 20)
    h.pwrite(b"abc", 12345)
    assert h.pread(3 << 20, 1 << 20) == data
    assert h.pread(5, 12344) == b"aabca"
    chunks = []
    h.pread_structured(3 << 20, 1 << 20, lambda b, at, st, err: chunks.append(len(b)) and 0,
                       flags=nbd.CMD_FLAG_DF)
    assert len(chunks) == 1, chunks
    h.zero(1 << 20, 1 << 20, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
    h.trim(1 << 20, 2 << 20, nbd.CMD_FLAG_FUA)
    h.cache(1 << 20, 0)
    h.flush()
    assert h.pread(3 << 20, 1 << 20) == bytes(2 << 20) + data[2 << 20:]
    h.shutdown()


def case_many_requests_are_in_flight(path):
    import nbd

    h = handle(path)
    blocks = [nbd.Buffer.from_bytearray(bytearray(os.urandom(65536))) for _ in range(300)]
    cookies = [h.aio_pwrite(b, i << 16) for i, b in enumerate(blocks)]
    while h.aio_in_flight():
        h.poll(-1)
    assert all(h.aio_command_completed(c) for c in cookies)
    back = [nbd.Buffer(65536) for _ in blocks]
    cookies = [h.aio_pread(b, i << 16) for i, b in enumerate(back)]
    while h.aio_in_flight():
        h.poll(-1)
    assert all(h.aio_command_completed(c) for c in cookies)
    assert [b.to_bytearray() for b in back] == [b.to_bytearray() for b in blocks]
    h.shutdown()


def case_bounds_have_their_errors(path):
    import errno
    import nbd

    h = handle(path)
    h.set_strict_mode(0)
    end = h.get_size()
    for call, want in [(lambda: h.pwrite(b"x" * 512, end), errno.ENOSPC),
                       (lambda: h.zero(512, end), errno.ENOSPC),
                       (lambda: h.pread(512, end), errno.EINVAL),
                       (lambda: h.trim(512, end), errno.EINVAL),
                       (lambda: h.pread(512, 0, 1 << 9), errno.EINVAL)]:
        try:
            call()
        except nbd.Error as error:
            assert error.errnum == want, (error, want)
        else:
            raise AssertionError(want)
    assert h.pread(512, end - 512) is not None
    h.shutdown()


def case_contexts_and_snapshots(path):
    import nbd

    names = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:one"]
    h = handle(path, contexts=names + ["qemu:dirty-bitmap:none"])
    assert [h.can_meta_context(n) for n in names] == [True] * 3
    assert not h.can_meta_context("qemu:dirty-bitmap:none")
    # The program wrote 8 MiB at 0, took the snapshot, and wrote 1 MiB at 4 MiB.
    found = status(h, 16 << 20)
    m = 1 << 20
    assert found[names[0]] == [8 * m, 0, 8 * m, 3], found
    assert found[names[1]] == [8 * m, 1, 8 * m, 0], found
    assert found[names[2]] == [4 * m, 0, m, 1, 11 * m, 0], found
    h.pwrite(b"y" * 4096, 12 * m)
    found = status(h, 16 << 20)
    assert found[names[2]] == [4 * m, 0, m, 1, 7 * m, 0, 4096, 1, 4 * m - 4096, 0], found
    # Of every beginning the first range is told when one is asked for.
    for at, first in [(0, [4 * m, 0]), (4 * m, [m, 1]), (4 * m + 5, [m - 5, 1]), (5 * m, [7 * m, 0])]:
        found = {}
        h.block_status(16 * m - at, at, lambda n, o, e, err: found.setdefault(n, list(e)) and 0,
                       nbd.CMD_FLAG_REQ_ONE)
        assert found[names[2]] == first, (at, found)
    s = handle(path, "@one")
    assert s.is_read_only()
    assert s.pread(4096, 4 * m) == b"a" * 4096 and h.pread(4096, 4 * m) == b"b" * 4096
    s.shutdown()
    h.shutdown()


def case_a_failed_set_clears_the_contexts(path):
    c = Bare(path)
    assert c.contexts(b"base:allocation")[-1][0] == 0x80000003  # before structured replies
    assert c.option(8)[-1][0] == 1
    assert len(c.contexts(b"base:allocation")) == 2
    assert c.contexts(b"base:allocation", name=b"no")[-1][0] == 0x80000006
    assert c.go()[-1][0] == 1
    c.s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 7, 1, 0, 4096))
    magic, flags, kind, cookie, n = struct.unpack(">IHHQI", c.take(20))
    assert kind == 0x8001 and struct.unpack(">I", c.take(n)[:4])[0] == 22


def case_extended_headers(path):
    c = Bare(path)
    assert c.option(11)[-1][0] == 1
    assert c.option(8)[-1][0] == 0x8000000A
    assert len(c.contexts(b"base:allocation", b"qemu:allocation-depth")) == 3
    replies = c.go()
    assert replies[-1][0] == 1
    flags = [struct.unpack(">HQH", d)[2] for k, d in replies if k == 3 and d[:2] == b"\0\0"][0]
    assert flags & 1 << 12
    c.request(1 << 5, 1, 8192, 5, b"hello")
    assert c.chunk() == (1, 0, b"")
    c.request(0, 0, 8192, 5)
    assert c.chunk() == (1, 1, struct.pack(">Q", 8192) + b"hello")
    c.request(0, 7, 0, 64 << 20)
    first, second = c.chunk(), c.chunk()
    assert (first[0], first[1], second[0], second[1]) == (0, 6, 1, 6)
    ident, count = struct.unpack(">II", first[2][:8])
    assert ident == 1 and len(first[2]) == 8 + 16 * count
    assert sum(x for x, _ in struct.iter_unpack(">QQ", first[2][8:])) == 64 << 20
    c.request(1 << 5, 7, 0, 12, struct.pack(">QI", 1 << 20, 2))
    only = c.chunk()
    assert only[0] == 1 and struct.unpack(">I", only[2][:4])[0] == 2
    c.request(1 << 5, 7, 0, 12, struct.pack(">QI", 1 << 20, 9))  # no such context
    assert c.chunk()[1] == 0x8001
    c.request(1 << 5, 0, 0, 4, b"junk")  # a payload nobody expects is passed over
    assert c.chunk()[1] == 0x8001
    c.request(0, 6, 0, 32 << 20)
    assert c.chunk()[:2] == (1, 0)


def error_of(c):
    flags, kind, data = c.chunk()
    assert flags == 1
    return struct.unpack(">I", data[:4])[0] if kind == 0x8001 else 0


def case_long_lengths_and_wrong_requests(path):
    c = Bare(path)
    assert c.option(11)[-1][0] == 1
    assert len(c.contexts(b"base:allocation")) == 2
    assert c.go()[-1][0] == 1
    end, far = 64 << 20, 1 << 40
    for flags, kind, offset, length, want in [
        (0, 6, 0, end, 0), (0, 4, 0, end, 0), (0, 5, 0, end, 0),  # all of the drive at once
        (0, 6, 0, far, 28), (0, 4, 0, far, 22), (0, 5, 0, far, 22), (0, 7, 0, far, 22),
        (0, 6, 2**64 - 4096, 8192, 28), (0, 0, 2**64 - 1, 2, 22),
        (0, 0, 0, (32 << 20) + 1, 22), (4, 0, 0, (32 << 20) + 1, 75),  # too much for a reply
        (0, 0, end - 4096, 4097, 22), (0, 6, end, 4096, 28), (0, 4, end - 1, 2, 22),
        (2, 4, 0, 4096, 22), (16, 0, 0, 4096, 22), (64, 0, 0, 4096, 22), (8, 6, 0, 4096, 22),
        (0, 3, 0, 4096, 22), (0, 3, 4096, 0, 22), (0, 8, 0, 4096, 22), (0, 77, 0, 0, 22),
        (16, 6, 4096, 4096, 0), (18, 6, 1, 5000, 0), (3, 6, 0, 4096, 0), (1, 4, 1, 1, 0),
        (0, 7, 0, 0, 22), (0, 0, 5, 0, 0), (0, 4, 5, 0, 0)]:
        c.request(flags, kind, offset, length)
        got = error_of(c)
        assert got == want, (flags, kind, offset, length, got)
    # A write past the end, and one without its flag, are passed over with their data.
    c.request(1 << 5, 1, end - 2, 4, b"past")
    assert error_of(c) == 28
    c.request(0, 1, 0, 4, b"flag")
    assert error_of(c) == 0
    # Only the contexts that are asked for; a length of 64 bits in the payload.
    c.request(1 << 5, 7, 0, 12, struct.pack(">QI", end, 1))
    flags, kind, data = c.chunk()
    assert (flags, kind) == (1, 6)
    assert sum(x for x, _ in struct.iter_unpack(">QQ", data[8:])) == end
    for payload in (struct.pack(">QI", far, 1), struct.pack(">QII", end, 1, 1), bytes(8), bytes(7)):
        c.request(1 << 5, 7, 0, len(payload), payload)
        assert error_of(c) == 22, payload
    # More payload than anything takes: the connection is of no use.
    c.request(1 << 5, 3, 0, 1 << 40)
    try:
        while c.s.recv(1 << 16):
            pass
    except ConnectionError:
        pass


def secure(path, folder, user="alice"):
    import nbd

    h = nbd.NBD()
    h.set_tls(nbd.TLS_REQUIRE)
    h.set_tls_psk_file(folder + "/keys.psk")
    h.set_tls_username(user)
    h.connect_unix(path)
    return h


def case_tls_is_optional(path, folder):
    import nbd

    h = handle(path)
    h.pwrite(b"plain", 0)
    s = secure(path, folder)
    assert s.get_tls_negotiated() and not h.get_tls_negotiated()
    assert s.pread(5, 0) == b"plain"
    h.shutdown()
    s.shutdown()
    try:
        secure(path, folder, "nobody")
        raise AssertionError("a user without a key")
    except nbd.Error:
        pass
    c = Bare(path)
    assert c.option(5, b"x")[-1][0] == 0x80000003  # STARTTLS has no payload
    assert c.option(8)[-1][0] == 1  # and it was not TLS that began
    # What is sent in plain text right behind it is not taken for what comes by TLS.
    c = Bare(path)
    c.s.sendall(struct.pack(">QII", OPT, 5, 0) + struct.pack(">QII", OPT, 3, 0))
    assert struct.unpack(">QIII", c.take(20))[2] == 1
    got = b""
    try:
        while piece := c.s.recv(4096):
            got += piece
    except ConnectionError:
        pass
    assert struct.pack(">Q", REP) not in got, "an option was answered"
    # Silence after STARTTLS does not last, and does not hold up others.
    c = Bare(path)
    assert c.option(5)[-1][0] == 1
    secure(path, folder).shutdown()
    assert c.s.recv(1) == b""


def certificate(folder, name, days=2, **subject):
    """A key, and a certificate by the authority in the folder (its own, for the authority)."""
    import subprocess

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, stderr=subprocess.DEVNULL)

    at = ["-keyout", f"{name}-key.pem", "-subj", f"/CN={subject.get('cn', name)}"]
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    if name == "ca":
        openssl("req", "-x509", *ec, *at, "-days", "2", "-out", "ca-cert.pem")
        return
    openssl("req", *ec, *at, "-out", f"{name}.csr")
    with open(f"{folder}/{name}.ext", "w", encoding="ascii") as file:
        file.write("subjectAltName=DNS:localhost\n")
    dates = ["-days", str(days)]
    if days < 0:  # x509 -days takes no past
        open(f"{folder}/index", "w", encoding="ascii").close()
        with open(f"{folder}/ca.conf", "w", encoding="ascii") as file:
            file.write("[ca]\ndefault_ca=d\n[d]\ndatabase=index\nnew_certs_dir=.\nserial=serial\n"
                       "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n")
        openssl("ca", "-batch", "-config", "ca.conf", "-create_serial", "-cert", "ca-cert.pem",
                "-keyfile", "ca-key.pem", "-in", f"{name}.csr", "-out", f"{name}-cert.pem",
                "-startdate", "20200101000000Z", "-enddate", "20210101000000Z", "-notext",
                "-extfile", f"{name}.ext")
        return
    openssl("x509", "-req", *dates, "-in", f"{name}.csr", "-CA", "ca-cert.pem", "-CAkey",
            "ca-key.pem", "-CAcreateserial", "-extfile", f"{name}.ext", "-out", f"{name}-cert.pem")


def case_make_certificates(path, folder):
    del path
    for name in ("ca", "server", "alice"):
        certificate(folder, name)
    certificate(folder, "expired", days=-1)
    other = folder + "/other"
    os.mkdir(other)
    certificate(other, "ca")
    certificate(other, "mallory")
    for client, source in [("alice", folder), ("expired", folder), ("mallory", other), (None, "")]:
        to = f"{folder}/client-{client}"
        os.mkdir(to)
        os.link(f"{folder}/ca-cert.pem", f"{to}/ca-cert.pem")
        for kind in ("cert", "key") if client else ():
            os.link(f"{source}/{client}-{kind}.pem", f"{to}/client-{kind}.pem")


def by_certificate(path, folder, client):
    import nbd

    h = nbd.NBD()
    h.set_tls(nbd.TLS_REQUIRE)
    h.set_tls_certificates(f"{folder}/client-{client}")
    h.set_tls_hostname("localhost") if hasattr(h, "set_tls_hostname") else h.set_tls_verify_peer(False)
    try:
        h.connect_unix(path)
        return h.pread(4, 0) == b"aaaa"
    except nbd.Error:
        return False


def case_certificates_are_asked_for(path, folder):
    found = [c for c in ("alice", "expired", "mallory", None) if by_certificate(path, folder, c)]
    assert found == ["alice"], found


def case_any_client_is_let_in(path, folder):
    found = [c for c in ("alice", None) if by_certificate(path, folder, c)]
    assert found == ["alice", None], found


def case_tls_is_required(path, folder):
    import nbd

    c = Bare(path)
    for number in (3, 6, 7, 8, 10, 11):
        assert c.option(number)[-1][0] == 0x80000005, number
    c = Bare(path)
    name = struct.pack(">QII", OPT, 1, 0)
    c.s.sendall(name)
    try:
        c.take(1)
        raise AssertionError("EXPORT_NAME in plain text")
    except (EOFError, ConnectionError):
        pass
    h = nbd.NBD()
    h.set_tls(nbd.TLS_REQUIRE)
    h.set_tls_psk_file(folder + "/keys.psk")
    h.set_tls_username("alice")
    h.connect_unix(path)
    data = os.urandom(2 << 20)
    h.pwrite(data, 512)
    assert h.pread(len(data), 512) == data
    h.shutdown()
    with open(folder + "/wrong.psk", "w", encoding="ascii") as file:
        file.write("alice:" + "00" * 32 + "\n")
    h = nbd.NBD()
    h.set_tls(nbd.TLS_REQUIRE)
    h.set_tls_psk_file(folder + "/wrong.psk")
    h.set_tls_username("alice")
    try:
        h.connect_unix(path)
        raise AssertionError("a wrong key")
    except nbd.Error:
        pass


def case_clients_over_the_cap_are_sent_away(path):
    kept = [Bare(path) for _ in range(4)]
    try:
        Bare(path)
        raise AssertionError("a fifth")
    except (EOFError, ConnectionError, BrokenPipeError):
        pass
    kept[0].s.close()


def case_who_does_not_read_stops_only_themselves(path):
    c = Bare(path)
    assert c.go()[-1][0] == 1
    c.s.settimeout(2)
    try:
        for i in range(100000):
            c.s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, i, 0, 8 << 20))
        raise AssertionError("everything was taken")
    except socket.timeout:
        pass
    h = handle(path)
    assert len(h.pread(1 << 20, 0)) == 1 << 20
    h.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "has_libnbd":
        import nbd  # noqa: F401
    else:
        globals()["case_" + sys.argv[1]](*sys.argv[2:])
