#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests vdisk_decoder.py with a tiny encoder made from SPEC.md.

The encoder has its own XTS and GMAC in Python over plain AES, and libsodium's own KDF, so that the
decoder's primitives are compared with something else than themselves. Section numbers (§) are those of
SPEC.md."""

import base64
import copy
import ctypes
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import vdisk_crypto as vc  # noqa: E402
import vdisk_decoder as vd  # noqa: E402

B = 4096
SODIUM = ctypes.CDLL("libsodium.so.23")
CRYPTO = vc.CRYPTO
ZSTD = ctypes.CDLL("libzstd.so.1")
ZSTD.ZSTD_compress.restype = ctypes.c_size_t
ZSTD.ZSTD_compress.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


# -- primitives


class Aes:
    def __init__(self, key):
        self.context = CRYPTO.EVP_CIPHER_CTX_new()
        CRYPTO.EVP_EncryptInit_ex(self.context, CRYPTO.EVP_aes_256_ecb(), None, key, None)

    def __call__(self, data):
        out, length = ctypes.create_string_buffer(len(data) + 16), ctypes.create_string_buffer(8)
        assert CRYPTO.EVP_EncryptUpdate(self.context, out, length, data, len(data)) == 1
        return out.raw[:len(data)]


def xor(a, b):
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).to_bytes(len(a), "little")


def xts_encrypt(key, tweak, data):
    """IEEE 1619, whole blocks."""
    t, tweaks = int.from_bytes(Aes(key[32:])(tweak), "little"), []
    for _ in range(len(data) // 16):
        tweaks.append(t.to_bytes(16, "little"))
        t = t << 1 ^ (0x87 | 1 << 128 if t >> 127 else 0)
    mask = b"".join(tweaks)
    return xor(Aes(key[:32])(xor(data, mask)), mask)


class Gmac:
    """AES-GCM with IV 0^12 and additional data only (SP 800-38D)."""

    def __init__(self, key):
        aes = Aes(key)
        self.mask = int.from_bytes(aes(bytes(15) + b"\x01"), "big")
        powers, v = [], int.from_bytes(aes(bytes(16)), "big")
        for _ in range(128):                        # H times x^i, bit 0 being the highest
            powers.append(v)
            v = v >> 1 ^ (0xe1 << 120 if v & 1 else 0)
        self.table = []
        for byte in range(16):
            row = [0] * 256
            for value in range(256):
                for bit in range(8):
                    if value >> 7 - bit & 1:
                        row[value] ^= powers[8 * byte + bit]
            self.table.append(row)

    def __call__(self, data):
        y = 0
        for at in range(0, len(data), 16):
            y = self._times(y ^ int.from_bytes(data[at:at + 16], "big"))
        y = self._times(y ^ 8 * len(data) << 64)
        return (y ^ self.mask).to_bytes(16, "big")

    def _times(self, y):
        z = 0
        for row, byte in zip(self.table, y.to_bytes(16, "big")):
            z ^= row[byte]
        return z


def kdf(key, length, number, context):
    out = ctypes.create_string_buffer(length)
    assert SODIUM.crypto_kdf_derive_from_key(out, ctypes.c_size_t(length), ctypes.c_uint64(number), context, key) == 0
    return out.raw


def blake(key, message):
    out = ctypes.create_string_buffer(32)
    assert SODIUM.crypto_generichash_blake2b(out, ctypes.c_size_t(32), message, ctypes.c_ulonglong(len(message)),
                                             key, ctypes.c_size_t(len(key or b""))) == 0
    return out.raw


class Sealer:
    """§5, the writing side."""

    def __init__(self, secret, image_id):
        self.xts, self.prf = kdf(secret, 64, 1, b"vdiskxts"), Aes(kdf(secret, 32, 3, b"vdiskprf"))
        self.gmac, self.image_id = Gmac(kdf(secret, 32, 2, b"vdiskmac")), image_id

    def __call__(self, data, stamp, address, kind, detail=0, extra=0):
        if kind != 6:
            data = xts_encrypt(self.xts, struct.pack("<QQ", stamp, 0), data)
        context = (self.image_id + struct.pack("<QQIBBH", stamp, address, len(data), kind, detail, 0)
                   + struct.pack("<Q", extra) + bytes(16))
        assert len(context) == 64
        return data, self.prf(self.gmac(context + data))


def compress(data):
    out = ctypes.create_string_buffer(len(data) + 1024)
    length = ZSTD.ZSTD_compress(out, len(out), data, len(data), 3)
    return out.raw[:length]


def pad(data, unit):
    return data + bytes(-len(data) % unit)


# -- a tiny encoder


class Encoder:
    def __init__(self, seed, key, secrets, journal_log2=5, split=0, part_set=0, first_data=0):
        self.random = random.Random(seed)
        self.vk, self.image_id = key, self.random.randbytes(16)
        self.j = 1 << journal_log2
        self.journal_log2, self.split, self.part_set = journal_log2, split, part_set
        self.blocks, self.counts = {}, {}
        self.next = self.j + 4
        for block in range(self.next):
            self.counts[block] = 1
        self.next = max(self.next, first_data)
        self.salt, self.epoch, self.counter, self.extra_salts = self.random.randbytes(32), 1, 0, {}
        self.table = Sealer(blake(kdf(key, 32, 3, b"vdisk_v1"), b"table" + self.image_id), self.image_id)
        self._start_epoch()
        self._header(secrets)
        self.packed = None

    def _start_epoch(self):
        self.extra_salts[self.epoch] = self.salt
        master = kdf(self.vk, 32, 3, b"vdisk_v1")
        self.seal = Sealer(blake(master, b"epoch" + self.image_id + struct.pack("<I", self.epoch) + self.salt),
                           self.image_id)

    def new_epoch(self):
        self.epoch, self.counter, self.salt = self.epoch + 1, 0, self.random.randbytes(32)
        self._start_epoch()

    def stamp(self, count=1):
        self.counter += count
        return self.epoch << 40 | self.counter - count + 1

    @property
    def last(self):
        return self.epoch << 40 | self.counter

    def allocate(self, count):
        self.next += count
        return self.next - count

    def use(self, block, count=1, change=1):
        for number in range(block, block + count):
            self.counts[number] = self.counts.get(number, 0) + change

    def write(self, block, data, offset=0):
        start = block * B + offset
        while data:
            number, at = divmod(start, B)
            page = self.blocks.setdefault(number, bytearray(B))
            length = min(B - at, len(data))
            page[at:at + length] = data[:length]
            data, start = data[length:], start + length

    def _header(self, secrets):
        slots = b"".join(pad(self._slot(*secret), 256) for secret in secrets)
        commitment = blake(self.vk, b"vdisk key commitment" + self.image_id)
        raw = bytearray(struct.pack("<8sII16sQQQBBHIQ32s", b"\x89VDISK\r\n", 1, 8192, self.image_id, 1, 0, 0, 14,
                                    self.journal_log2, 0, self.part_set, self.split, commitment))
        raw = bytearray(pad(pad(bytes(raw), B) + slots, 2 * B))
        raw[4032:4064] = blake(kdf(self.vk, 32, 1, b"vdisk_v1"), bytes(raw))
        raw[4064:4096] = blake(None, bytes(raw))
        self.write(0, bytes(raw))
        self.write(self.j, bytes(raw))

    def _slot(self, kind, secret):
        salt, nonce = self.random.randbytes(16), self.random.randbytes(24)
        passes, memory = (1, 64) if kind == 1 else (0, 0)
        if kind == 3:
            public, sealed = ctypes.create_string_buffer(32), ctypes.create_string_buffer(80)
            SODIUM.crypto_scalarmult_base(public, secret)
            SODIUM.crypto_box_seal(sealed, self.vk, ctypes.c_ulonglong(32), public)
            return bytes([3]) + bytes(55) + bytes(8) + sealed.raw + public.raw
        head = struct.pack("<B3xIII", kind, passes, memory, 0) + salt
        if kind == 1:
            kek = ctypes.create_string_buffer(32)
            assert SODIUM.crypto_pwhash(kek, ctypes.c_ulonglong(32), secret, ctypes.c_ulonglong(len(secret)), salt,
                                        ctypes.c_ulonglong(passes), ctypes.c_size_t(memory * 1024), 2) == 0
            kek = kek.raw
        else:
            kek = blake(None, b"vdisk key file" + salt + secret)
        out, data = ctypes.create_string_buffer(48), b"vdisk keyslot" + self.image_id + head
        SODIUM.crypto_aead_xchacha20poly1305_ietf_encrypt(out, None, self.vk, ctypes.c_ulonglong(32), data,
                                                          ctypes.c_ulonglong(len(data)), None, nonce, kek)
        return head + nonce + bytes(8) + out.raw

    # §10: extents, as what a leaf says of them

    def raw(self, guest, blocks):
        host, stamp = self.allocate(len(blocks)), self.stamp(len(blocks))
        tags = b""
        for i, data in enumerate(blocks):
            sealed, tag = self.seal(data, stamp + i, guest + i, 1)
            self.write(host + i, sealed)
            tags += tag
        self.use(host, len(blocks))
        return guest, len(blocks), host, stamp, tags

    def zstd(self, guest, data):
        """One packed close after the last where it fits in the same block."""
        packed, stamp = compress(data), self.stamp()
        sealed, tag = self.seal(pad(packed, 16), stamp, guest, 2, 1, len(packed))
        if self.packed and self.packed[1] + len(sealed) <= B:
            host, offset = self.packed
        else:
            host, offset = self.allocate(-(-len(sealed) // B)), 0
        self.use(host, -(-(offset + len(sealed)) // B))
        self.write(host, sealed, offset)
        self.packed = (host, offset + len(sealed)) if offset + len(sealed) < B else None
        return guest, offset // 16, len(packed), host, stamp, tag

    @staticmethod
    def leaf(extents, runs):
        """`runs`: raw ones as raw() gives them, or (guest, count) of zeros."""
        data = struct.pack("<HHI", len(extents), len(runs), 0)
        for guest, offset, length, host, stamp, tag in sorted(extents):
            data += struct.pack("<HBBIQQ", guest % 512 // 4, 1, offset, length, host, stamp) + tag
        for guest, count, *raw in sorted(runs, key=lambda r: r[0]):
            data += struct.pack("<HHB3x", guest % 512, count, 1 if raw else 2)
            if raw:
                data += struct.pack("<QQ", *raw[:2]) + raw[2]
        return data

    def node(self, tree, level, index, data, block=None, hint=0):
        data = pad(data, B)
        if block is None:
            block = self.allocate(len(data) // B)
            self.use(block, len(data) // B)
        stamp = self.stamp()
        if tree == 3:
            sealed, tag = self.table(data, stamp, index, 6, 48 + level)
        else:
            sealed, tag = self.seal(data, stamp, index, 3, tree * 16 + level)
        self.write(block, sealed)
        return block.to_bytes(6, "little") + bytes([len(data) // B, hint]) + struct.pack("<Q", stamp) + tag

    def map(self, references):
        """A map of height 1."""
        return self.node(1, 1, 0, b"".join(references.get(i, bytes(32)) for i in range(128)))

    ZERO_SUBTREE = bytes(7) + b"\x01" + bytes(24)

    @staticmethod
    def snapshot(number, parent, stamp, size, root, name, marked=False):
        return pad(struct.pack("<5Q32sBBB5x", number, parent, stamp, size, 77, root, 1, marked, len(name)) + name, 8)

    def checkpoint(self, size, map_root, snapshots=(), parent=(0, 0), base=None, deleting=(0, 0), number=None,
                   first=1, position=0):
        """§8: the other trees and both superblocks."""
        salts = b"".join(self.extra_salts.get(i, bytes(32)) for i in range(128))
        epochs = self.node(3, 0, 0, salts)
        snapshot_root = self.node(4, 0, 0, struct.pack("<H6x", len(snapshots)) + b"".join(snapshots)) \
            if snapshots else bytes(32)
        block = self.allocate(1)
        self.use(block)
        reserve = self.allocate(2)
        counts = bytearray(B)
        for host, count in self.counts.items():
            counts[host // 2] |= count << 4 * (host % 2)
        allocation = self.node(2, 0, 0, bytes(counts), block, 13)
        self.used = sum(count > 0 for count in self.counts.values())
        body = struct.pack("<QQQI4B32s", 5, size, self.last, self.epoch, 1, 0, 0, 0, self.salt)
        body += map_root + allocation + epochs + snapshot_root
        count = len(snapshots) if number is None else number
        body += struct.pack("<QQQIBbH16s", self.next, self.used, first, position, 1, 3, 0, bytes(16))
        body += struct.pack("<QQQQQQQII", *parent, 100, count, *deleting, 123, 1, 1 if base else 0)
        body += pad(struct.pack("<QII", reserve, 2, 0), 512)
        if base:
            image_id, tag, base_size, key, path, name = base
            body += image_id + tag + struct.pack("<Q", base_size) + key + struct.pack("<HB5x", len(path), len(name))
            body += name.ljust(256, b"\0") + path.ljust(1024, b"\0")
        body = body.ljust(4048, b"\0")
        salt = self.random.randbytes(32)
        secret = blake(kdf(self.vk, 32, 2, b"vdisk_v1"), b"super" + self.image_id + salt)
        sealed, tag = Sealer(secret, self.image_id)(body, 0, 0, 5)
        for slot in (2, self.j + 2):
            self.write(slot, salt + tag + sealed)
        self.sequence, self.position, self.tag = first, position, bytes(16)

    def record(self, operations, durable=None):
        """§14: one record at the end of the log."""
        durable = self.sequence if durable is None else durable
        data = b"".join(operations)
        body = self.tag + struct.pack("<QII", durable, len(data), len(operations)) + data
        body = body + bytes(-(48 + len(body)) % B)
        stamp, blocks = self.stamp(), (48 + len(body)) // B
        sealed, self.tag = self.seal(body, stamp, self.sequence, 4)
        raw = self.tag + struct.pack("<QQI12x", stamp, self.sequence, blocks) + sealed
        for i in range(blocks):
            self.write(4 + self.position, raw[i * B:i * B + B])
            self.position = (self.position + 1) % (self.j - 4)
        self.sequence += 1

    @staticmethod
    def raw_op(extent):
        guest, count, host, stamp, tags = extent
        return struct.pack("<B3xIQQQ", 1, count, guest, host, stamp) + tags

    @staticmethod
    def zstd_op(extent):
        guest, offset, length, host, stamp, tag = extent
        return struct.pack("<BBBBIQQQ", 2, 1, offset, 0, length, guest, host, stamp) + tag

    @staticmethod
    def zero_op(guest, count, hole=False):
        return struct.pack("<B7xQQ", 4 if hole else 3, guest, count)

    def save(self, path):
        parts = {}
        for block, data in self.blocks.items():
            number, at = divmod(block * B, self.split) if self.split else (0, block * B)
            if number not in parts:
                name = path if number == 0 else f"{path}.{self.part_set:08x}.{number:03d}"
                parts[number] = open(name, "wb")
            parts[number].seek(at)
            parts[number].write(data)
        for file in parts.values():
            file.close()
        if 0 not in parts:
            open(path, "wb").close()


class Model:
    """What the drive should hold."""

    def __init__(self, size):
        self.data, self.size = bytearray(size + (4 << 20)), size

    def put(self, guest, data):
        self.data[guest * B:guest * B + len(data)] = data

    def copy(self):
        other = Model(self.size)
        other.data[:] = self.data
        return other

    def bytes(self):
        return bytes(self.data[:self.size])


# -- the images


KEY = bytes(range(32))
PASSPHRASE, KEY_FILE, IDENTITY = b"horse staple", b"k" * 40, bytes(range(7, 39))
SECRETS = [(1, PASSPHRASE), (2, KEY_FILE), (3, IDENTITY)]
SIZE = (4 << 20) + 2 * B + 512


def text(rng, length):
    words = [rng.randbytes(5) for _ in range(9)]
    return b"".join(rng.choice(words) for _ in range(length // 5 + 1))[:length]


def build(seed=1, journal=True, base=None, **options):
    """A snapshot `one`, a live state that went on, and two records in the journal."""
    e = Encoder(seed, KEY, SECRETS, **options)
    rng, one = random.Random(seed + 100), Model(SIZE)
    clusters = {g: text(rng, 4 * B) for g in (0, 4, 16)}
    extents = {g: e.zstd(g, data) for g, data in clusters.items()}
    for g, data in clusters.items():
        one.put(g, data)
    blocks = [rng.randbytes(B) for _ in range(6)]
    run = e.raw(8, blocks)
    one.put(8, b"".join(blocks))
    tail = rng.randbytes(2 * B + 512)
    end = e.raw(1024, [tail[:B], tail[B:2 * B], pad(tail[2 * B:], B)])
    one.put(1024, tail)
    leaf0 = e.node(1, 0, 0, e.leaf(extents.values(), [run, (30, 3)]))
    leaf2 = e.node(1, 0, 2, e.leaf([], [end]))
    root = e.map({0: leaf0, 2: leaf2})
    snapshots = [e.snapshot(1, 0, e.last, SIZE, root, "öne".encode())]
    parent = (1, e.last)

    e.new_epoch()
    live = one.copy()
    live.size = SIZE
    patch, mine = rng.randbytes(B), rng.randbytes(B)
    patch_run, own = e.raw(1, [patch]), e.raw(40, [mine])
    live.put(1, patch)
    live.put(40, mine)
    live.put(512, bytes(512 * B))
    leaf0 = e.node(1, 0, 0, e.leaf(extents.values(), [patch_run, run, (30, 3), own]))
    root = e.map({0: leaf0, 1: e.ZERO_SUBTREE, 2: leaf2})
    e.checkpoint(SIZE, root, snapshots, parent, base, first=9, position=e.j - 5)
    e.models = {"öne": one, "checkpoint": live.copy()}
    e.packed, e.next_after_checkpoint = None, e.next
    if journal:
        fresh = [rng.randbytes(B) for _ in range(100)]
        # The record takes two blocks and goes round the end of the ring.
        many = [e.raw(100 + 2 * i, [fresh[i]]) for i in range(100)]
        e.record([e.raw_op(r) for r in many] + [e.zero_op(40, 1)])
        for i, data in enumerate(fresh):
            live.put(100 + 2 * i, data)
        live.put(40, bytes(B))
        e.models["first"] = live.copy()
        packed, shared = text(rng, 4 * B), rng.randbytes(B)
        extent = e.zstd(8, packed)
        over = e.raw(9, [shared])
        e.record([e.zstd_op(extent), e.raw_op(over), e.zero_op(17, 2, hole=True), e.zero_op(20, 500, hole=True),
                  e.zero_op(1024, 4)], durable=9)
        live.put(8, packed)
        live.put(9, shared)
        live.put(17, bytes(2 * B))
        live.put(20, bytes(500 * B))
        live.put(1024, bytes(4 * B))
        e.models["second"] = live.copy()
        e.last_extent, e.last_zstd = over[2], extent[3]
        e.last_zstd_blocks = -(-(extent[1] * 16 + extent[2]) // B)
    e.models["live"] = live
    return e


class Test(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.path = os.path.join(self.folder, "image")
        self.addCleanup(shutil.rmtree, self.folder)

    def open(self, key=None):
        return vd.Image(self.path, key or vd.FileKey(KEY_FILE))

    @staticmethod
    def content(state, start=0, end=None):
        end = state.size if end is None else end
        return b"".join(bytes(length) if data is None else bytes(data) for length, data in state.stream(start, end))

    def live(self):
        return self.content(self.open().live)

    def flip(self, block, at=1000, path=None):
        with open(path or self.path, "r+b") as file:
            file.seek(block * B + at)
            byte = file.read(1) or b"\0"
            file.seek(block * B + at)
            file.write(bytes([byte[0] ^ 1]))

    def run_tool(self, *arguments):
        tool = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vdisk_decoder.py")
        return subprocess.run([sys.executable, tool, *arguments], capture_output=True, check=False)

    def test_read_and_check(self):
        e = build()
        e.save(self.path)
        image = self.open()
        self.assertEqual(image.replay.records, 2)
        self.assertEqual(self.content(image.live), e.models["live"].bytes())
        self.assertEqual(self.content(image.state("öne")), e.models["öne"].bytes())
        self.assertEqual(vd.Checker(image).run(), [])
        rng = random.Random(3)
        for _ in range(200):
            a, b = sorted(rng.randrange(SIZE + 1) for _ in range(2))
            self.assertEqual(self.content(image.live, a, b), e.models["live"].bytes()[a:b])

    def test_used_blocks(self):
        e = build(journal=False)
        e.save(self.path)
        before = self.open().replay.used_blocks()
        self.assertEqual(before, e.used)
        e = build()
        e.save(self.path)
        # The first record adds 100 raw extents and frees block 40's; the second adds a zstd extent and a raw
        # one and frees what the first wrote. The snapshot keeps the rest.
        host = set(range(e.next_after_checkpoint, e.next))
        left = {e.last_extent, e.last_zstd} | {e.last_zstd + i for i in range(e.last_zstd_blocks)}
        self.assertTrue(left <= host)
        self.assertEqual(self.open().replay.used_blocks(), e.used + len(left) - 1)

    def test_map(self):
        e = build(journal=False)
        e.save(self.path)
        pieces = [(o // B, (o + n + B - 1) // B, k) for o, n, k in self.open().live.pieces()]
        self.assertEqual(pieces[:9], [(0, 4, "patched"), (4, 8, "zstd"), (8, 14, "raw"), (14, 16, "hole"),
                                      (16, 20, "zstd"), (20, 30, "hole"), (30, 33, "zero"), (33, 40, "hole"),
                                      (40, 41, "raw")])
        self.assertEqual(pieces[9:], [(41, 512, "hole"), (512, 1024, "zero"), (1024, 1027, "raw")])
        e = build()
        e.save(self.path)
        pieces = [(o // B, (o + n + B - 1) // B, k) for o, n, k in self.open().live.pieces()]
        self.assertEqual(pieces, [(0, 4, "patched"), (4, 8, "zstd"), (8, 12, "patched"), (12, 14, "raw"),
                                  (14, 16, "hole"), (16, 20, "patched"), (20, 520, "hole"), (520, 1027, "zero")])

    def test_keys(self):
        e = build()
        e.save(self.path)
        for key in (vd.PassphraseKey(PASSPHRASE), vd.FileKey(KEY_FILE), vd.IdentityKey(IDENTITY)):
            self.assertEqual(self.open(key).super.size, SIZE)
        for key in (vd.PassphraseKey(b"x"), vd.FileKey(bytes(40)), vd.FileKey(b"x"), vd.IdentityKey(bytes(32))):
            self.assertRaises(vc.WrongKey, self.open, key)

    def test_headers(self):
        e = build()
        e.save(self.path)
        self.flip(0, 20)
        self.assertEqual(self.live(), e.models["live"].bytes())
        self.flip(e.j, 20)
        self.assertRaises(vd.Malformed, self.open)

    def test_superblocks(self):
        e = build()
        e.save(self.path)
        self.flip(2)
        self.assertEqual(self.live(), e.models["live"].bytes())
        self.flip(e.j + 2)
        self.assertRaises(vc.NotAuthentic, self.open)

    def test_journal(self):
        e = build()
        first, second = 4 + e.j - 5, 4 + 1
        e.save(self.path)
        self.flip(second)                           # the last record: as if it had not been written
        self.assertEqual(self.live(), e.models["first"].bytes())
        e.save(self.path)
        self.flip(first)                            # durable is 9, its own number: it may be lost
        self.assertEqual(self.live(), e.models["checkpoint"].bytes())
        e.record([e.zero_op(0, 1)], durable=10)     # now it may not
        e.save(self.path)
        self.flip(first)
        self.assertRaises(vd.Damaged, self.open)

    def test_journal_data(self):
        e = build()
        e.save(self.path)
        self.flip(e.last_extent)                    # the second record was never acknowledged
        self.assertEqual(self.live(), e.models["first"].bytes())
        self.assertEqual(vd.Checker(self.open()).run(), [])
        e.record([e.zero_op(2000 // 4, 1)], durable=11)
        e.save(self.path)
        self.flip(e.last_extent)
        self.assertRaises(vd.Damaged, self.live)
        self.assertNotEqual(vd.Checker(self.open()).run(), [])

    def test_every_block(self):
        """No damage gives a wrong byte; all damage of what is in use is found by the check."""
        e = build()
        good = {e.models[m].bytes() for m in ("live", "first", "checkpoint")}
        snapshot = e.models["öne"].bytes()
        for block in sorted(e.blocks):
            e.save(self.path)
            self.flip(block, e.random.randrange(B))
            try:
                image = self.open()
            except vd.VdiskError:
                continue
            for state, contents in ((image.live, good), (image.state("öne"), {snapshot})):
                try:
                    self.assertIn(self.content(state), contents)
                except vd.VdiskError:
                    pass

    def test_counts(self):
        for change in (1, -1):
            e = build(journal=False)
            e.counts[e.next - 6] = max(0, e.counts.get(e.next - 6, 0) + change)
            e.checkpoint(SIZE, bytes(32))
            e.save(self.path)
            self.assertTrue(vd.Checker(self.open()).run())

    def test_split(self):
        e = build(journal_log2=11, split=16 << 20, part_set=0xabc, first_data=4090)
        e.save(self.path)
        self.assertTrue(os.path.exists(self.path + ".00000abc.001"))
        image = self.open()
        self.assertEqual(self.content(image.live), e.models["live"].bytes())
        self.assertEqual(vd.Checker(image).run(), [])
        build(journal_log2=12, split=16 << 20).save(os.path.join(self.folder, "small"))
        self.assertRaises(vd.Malformed, vd.Image, os.path.join(self.folder, "small"), vd.FileKey(KEY_FILE))
        os.unlink(self.path + ".00000abc.001")
        self.assertRaises(vd.Damaged, self.live)

    def test_deletion(self):
        """§13: V between P and C, deleted up to leaf 1."""
        e = Encoder(5, KEY, SECRETS)
        rng = random.Random(8)
        data = [rng.randbytes(B) for _ in range(6)]
        p = [e.raw(0, data[:1]), e.raw(512, data[1:2])]
        root_p = e.map({i: e.node(1, 0, i, e.leaf([], [p[i]])) for i in range(2)})
        stamp_p = e.last
        v = [e.raw(1, data[2:3]), e.raw(513, data[3:4])]
        before = e.next
        leaf_v0 = e.node(1, 0, 0, e.leaf([], [p[0], v[0]]))
        leaf_v1 = e.node(1, 0, 1, e.leaf([], [p[1], v[1]]))
        root_v = e.map({0: leaf_v0, 1: leaf_v1})
        stamp_v = e.last
        c = [e.raw(1, data[4:5]), e.raw(513, data[5:6])]
        root_c = e.map({0: e.node(1, 0, 0, e.leaf([], [p[0], c[0]])), 1: e.node(1, 0, 1, e.leaf([], [p[1], c[1]]))})
        e.use(v[0][2], 1, -1)                       # freed below the cursor: the extent and the leaf
        e.use(before, 1, -1)
        e.blocks[v[0][2]] = e.blocks[before] = bytearray(b"\xff" * B)
        snapshots = [e.snapshot(1, 0, stamp_p, SIZE, root_p, b"P"), e.snapshot(2, 1, stamp_v, SIZE, root_v, b"", True)]
        e.checkpoint(SIZE, root_c, snapshots, (2, stamp_v), deleting=(2, 1), number=1)
        e.save(self.path)
        self.assertEqual(vd.Checker(self.open()).run(), [])
        with_two = [*snapshots, e.snapshot(3, 2, e.last, SIZE, root_c, b"second")]
        two = copy.deepcopy(e.blocks), copy.deepcopy(e.counts), e.next
        e.checkpoint(SIZE, root_c, with_two, (2, stamp_v), deleting=(2, 1), number=2)
        e.save(self.path)
        self.assertTrue(any("descend" in line for line in vd.Checker(self.open()).run()))
        e.blocks, e.counts, e.next = two
        over = [e.raw(0, [data[0]]), e.raw(512, [data[0]])]
        e.record([e.raw_op(o) for o in over])
        e.save(self.path)
        image = self.open()
        self.assertEqual(vd.Checker(image).run(), [])
        self.assertEqual(self.content(image.live, 513 * B, 514 * B), data[5])
        self.assertRaises(vd.VdiskError, image.state, "")

    def test_overlay(self):
        bottom = build(1, journal=False)
        bottom.save(os.path.join(self.folder, "base"))
        root = vd.Image(os.path.join(self.folder, "base"), vd.FileKey(KEY_FILE)).super.map_tag
        e = Encoder(9, bytes(32), SECRETS)
        data = e.random.randbytes(B)
        run = e.raw(2, [data])
        leaf = e.node(1, 0, 0, e.leaf([], [run, (8, 2)]))
        e.checkpoint(SIZE * 2, e.map({0: leaf}), base=(bottom.image_id, root, SIZE, KEY, b"base", b""))
        e.record([e.zero_op(10, 1, hole=True), e.zero_op(512 * 2, 1, hole=True)])
        e.save(self.path)
        model = bottom.models["live"].copy()
        model.size = SIZE * 2
        for at in (2, 8, 9, 10, 1024):
            model.put(at, data if at == 2 else bytes(B))
        model.data += bytes(SIZE)
        image = self.open()
        self.assertEqual(self.content(image.live), model.bytes())
        self.assertEqual(vd.Checker(image).run(), [])
        again = build(1, journal=False)
        again.record([again.zero_op(0, 1)])
        again.save(os.path.join(self.folder, "base"))
        self.assertRaises(vd.Malformed, self.open().base)    # §17: a record in its journal
        build(2, journal=False).save(os.path.join(self.folder, "base"))
        image = self.open()
        self.assertRaises((vd.Malformed, vc.WrongKey), image.base)

    def test_command_line(self):
        e = build()
        e.save(self.path)
        key, other = os.path.join(self.folder, "key"), os.path.join(self.folder, "identity")
        with open(key, "wb") as file:
            file.write(PASSPHRASE + b"\n")
        with open(other, "w", encoding="ascii") as file:
            file.write("vdisk-identity-1 " + base64.b64encode(IDENTITY).decode() + "\n")
        options = (self.path, "--passphrase-file", key)
        self.assertEqual(self.run_tool("read", *options).stdout, e.models["live"].bytes())
        part = self.run_tool("read", self.path, "--identity", other, "--snapshot", "öne", "--offset", "100",
                             "--length", "70000")
        self.assertEqual(part.stdout, e.models["öne"].bytes()[100:70100])
        with open(os.path.join(self.folder, "out"), "w+b") as out:
            tool = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vdisk_decoder.py")
            subprocess.run([sys.executable, tool, "read", *options], stdout=out, check=True)
            out.seek(0)
            self.assertEqual(out.read(), e.models["live"].bytes())
        self.assertEqual(self.run_tool("check", *options).returncode, 0)
        info = json.loads(self.run_tool("info", *options).stdout)
        self.assertEqual((info["size"], info["epoch"], info["cluster_bytes"]), (SIZE, 2, 16384))
        self.assertEqual([s["name"] for s in info["snapshots"]], ["öne"])
        self.assertEqual(self.run_tool("map", *options).returncode, 0)
        self.assertEqual(self.run_tool("read", *options, "--snapshot", "no").returncode, 1)
        self.assertEqual(self.run_tool("read", self.path).returncode, 2)
        self.assertEqual(self.run_tool("info", self.path, "--key-file", key).returncode, 4)
        self.flip(e.j + 4)
        result = self.run_tool("check", *options)
        self.assertEqual((result.returncode, bool(result.stdout)), (3, True))
        self.assertEqual(self.run_tool("read", *options).returncode, 3)


class Tap(unittest.TextTestResult):
    """Lines for tests/run beside those of unittest."""

    def addSuccess(self, test):
        super().addSuccess(test)
        print(f"ok - {test.id()}", flush=True)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        print(f"not ok - {test.id()}", flush=True)

    def addError(self, test, err):
        super().addError(test, err)
        print(f"not ok - {test.id()}", flush=True)


if __name__ == "__main__":
    unittest.main(testRunner=unittest.TextTestRunner(resultclass=Tap, verbosity=0))
