# SPDX-License-Identifier: Apache-2.0
"""The structures of SPEC.md, parsed and validated: header (§6), references and nodes (§9), superblock (§8),
snapshots (§13), map leaves (§10), the operations of the journal (§14), use counts (§11)."""

import hmac
import struct
import unicodedata
from typing import NamedTuple

from vdisk_crypto import (H, KnownKey, Keyslot, Malformed, NotAuthentic, VolumeKey, WrongKey, ceil_div, is_zero,
                          require)


BLOCK = 4096
LEAF_BLOCKS = 512                       # guest blocks in a map leaf, §10
LEAF_BYTES = LEAF_BLOCKS * BLOCK
FANOUT = 128                            # children of an inner node, §9
ALLOC_LEAF = 8192                       # host blocks in an allocation leaf, §11
MAX_SIZE = 1 << 56                      # §18
MAX_HOST = 1 << 48
MAX_EPOCH = (1 << 24) - 1
OVERLAY_SOURCE = 2                      # it is being filled from outside, §17
MAX_CHAIN = 16                          # images in a chain of overlays, §17

MAP, ALLOC, EPOCHS, SNAPSHOTS = 1, 2, 3, 4          # the trees, §9
TREE_NAMES = {MAP: "map", ALLOC: "allocation", EPOCHS: "epoch", SNAPSHOTS: "snapshot"}
MAX_HEIGHT = {MAP: 5, ALLOC: 5, EPOCHS: 3, SNAPSHOTS: 4}
MAX_LEAF_NODE = {MAP: 8, ALLOC: 1, EPOCHS: 1, SNAPSHOTS: 8}

KIND_RAW, KIND_ZSTD, KIND_NODE, KIND_RECORD, KIND_SUPER, KIND_EPOCH_NODE = 1, 2, 3, 4, 5, 6   # §5
RUN_RAW, RUN_ZERO = 1, 2                            # §10
OP_RAW, OP_ZSTD, OP_ZERO, OP_HOLE = 1, 2, 3, 4      # §14


# ---------------------------------------------------------------------------------------------
# §6 Header


class Header:
    MAGIC = b"\x89VDISK\r\n"
    LENGTH = 8192
    MAC, CHECKSUM = slice(4032, 4064), slice(4064, 4096)

    def __init__(self, raw):
        self.raw = raw
        self.version, self.length = struct.unpack_from("<II", raw, 8)
        self.image_id = raw[16:32]
        self.generation, self.incompatible = struct.unpack_from("<QQ", raw, 32)
        self.cluster_log2, self.journal_log2 = raw[56], raw[57]
        self.part_set, self.split_bytes = struct.unpack_from("<IQ", raw, 60)
        self.commitment = raw[72:104]
        self.slots = [Keyslot(raw[o:o + 256]) for o in range(BLOCK, 2 * BLOCK, 256)]

    def _without(self, *fields):
        raw = bytearray(self.raw)
        for field in fields:
            raw[field] = bytes(32)
        return bytes(raw)

    def counts(self):
        return self.raw[:8] == self.MAGIC and self.raw[self.CHECKSUM] == H(None, self._without(self.CHECKSUM))

    def validate(self):
        require(self.version == 1, f"version {self.version} of the format is not known")
        require(self.incompatible == 0, f"unknown incompatible features {self.incompatible:#x}")
        require(self.length == self.LENGTH, "header: length")
        require(self.generation >= 1, "header: generation 0")
        require(14 <= self.cluster_log2 <= 20, "header: cluster size out of bounds")
        require(5 <= self.journal_log2 <= 16, "header: journal size out of bounds")
        require(self.split_bytes == 0 or self.split_bytes >= 16 << 20 and self.split_bytes % (1 << 20) == 0,
                "header: split size out of bounds")
        require(self.split_bytes == 0 or self.split_bytes >= 2 * BLOCK << self.journal_log2,
                "header: split size too small for the journal")
        require(is_zero(self.raw[58:60] + self.raw[104:4032]), "header: zero field is not zero")

    def authentic(self, keys):
        mac = H(keys.header_key, self._without(self.MAC, self.CHECKSUM))
        return hmac.compare_digest(mac, self.raw[self.MAC]) and hmac.compare_digest(keys.commitment, self.commitment)

    def unlock(self, key):
        """The keys of the volume, or WrongKey, NotAuthentic, Malformed."""
        self.validate()
        if isinstance(key, KnownKey):
            keys = VolumeKey(key.key, self.image_id)
            if not hmac.compare_digest(keys.commitment, self.commitment):
                raise WrongKey("the volume key is not that of this image")
        else:
            keys = self._unlock_slots(key)
        if not self.authentic(keys):
            raise NotAuthentic("the header is not authentic")
        for slot in self.slots:
            slot.validate()
        return keys

    def _unlock_slots(self, key):
        refused = None
        for slot in self.slots:
            try:
                slot.validate()
            except Malformed as error:
                refused = error
                continue
            secret = key.unlock(slot, self.image_id)
            if secret is not None:
                keys = VolumeKey(secret, self.image_id)
                if hmac.compare_digest(keys.commitment, self.commitment):
                    return keys
        raise refused or WrongKey("no keyslot opens with this key")


# ---------------------------------------------------------------------------------------------
# §9 References


class Mark:
    """A subtree without nodes: HOLE or ZERO."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name


HOLE, ZERO = Mark("hole"), Mark("zero")


class Ref(NamedTuple):
    block: int
    blocks: int
    hint: int
    stamp: int
    tag: bytes


class Bounds(NamedTuple):
    """What references and extents must keep to."""
    first: int                  # the first data block, J + 4
    host: int                   # the end of the host blocks
    stamp: int                  # the last stamp taken
    cluster: int                # bytes in a cluster
    epoch: int = 1              # the oldest epoch a stamp may be of

    def check_stamp(self, stamp, what):
        require(stamp >> 40 >= self.epoch and stamp & (1 << 40) - 1 and stamp <= self.stamp,
                f"{what}: stamp out of bounds")

    def check_blocks(self, block, count, what):
        require(self.first <= block and block + count <= self.host, f"{what}: host block out of bounds")


def parse_ref(raw, tree, level, bounds):
    """A reference to a node of `tree` at `level` (§9): a Ref, HOLE or ZERO."""
    if not any(raw):
        return HOLE
    if tree == MAP and raw[6:8] == b"\x00\x01" and not any(raw[:6]) and not any(raw[8:]):
        return ZERO
    what = f"reference to a {TREE_NAMES[tree]} node at level {level}"
    ref = Ref(int.from_bytes(raw[:6], "little"), raw[6], raw[7], int.from_bytes(raw[8:16], "little"), bytes(raw[16:]))
    require(1 <= ref.blocks <= (1 if level else MAX_LEAF_NODE[tree]), f"{what}: number of blocks")
    require(ref.hint == 0 or tree == ALLOC and ref.hint <= 14, f"{what}: hint")
    bounds.check_blocks(ref.block, ref.blocks, what)
    bounds.check_stamp(ref.stamp, what)
    return ref


def parse_inner(data, tree, level, bounds):
    """The children of an inner node at `level` (§9)."""
    return [parse_ref(data[o:o + 32], tree, level - 1, bounds) for o in range(0, BLOCK, 32)]


# ---------------------------------------------------------------------------------------------
# §8 Superblock


class Base(NamedTuple):
    image_id: bytes
    tag: bytes
    size: int
    key: bytes
    path: bytes
    snapshot: str


class Superblock:
    def __init__(self, body, header):
        u64 = lambda at: struct.unpack_from("<Q", body, at)[0]
        u32 = lambda at: struct.unpack_from("<I", body, at)[0]
        self.body = body
        self.generation, self.size, self.last_stamp = u64(0), u64(8), u64(16)
        self.epoch = u32(24)
        self.heights = dict(zip((MAP, ALLOC, EPOCHS, SNAPSHOTS), body[28:32]))
        self.epoch_salt = body[32:64]
        self.host_blocks, self.used_blocks = u64(192), u64(200)
        self.first_sequence, self.ring_position = u64(208), u32(216)
        self.codec, self.level = body[220], struct.unpack_from("<b", body, 221)[0]
        self.previous_tag = body[224:240]
        self.parent, self.parent_stamp, self.next_snapshot = u64(240), u64(248), u64(256)
        self.snapshots, self.deleting, self.cursor, self.created = u64(264), u64(272), u64(280), u64(288)
        self.reserve_count, self.overlay = u32(296), u32(300)
        self._validate(1 << header.journal_log2)
        self.bounds = Bounds((1 << header.journal_log2) + 4, self.host_blocks, self.last_stamp,
                             1 << header.cluster_log2)
        self.roots = {tree: parse_ref(body[64 + 32 * i:96 + 32 * i], tree, self.heights[tree], self.bounds)
                      for i, tree in enumerate((MAP, ALLOC, EPOCHS, SNAPSHOTS))}
        self.map_tag = body[80:96]
        self.reserve = self._parse_reserve()
        self.base = self._parse_base()

    def _validate(self, journal):
        require(512 <= self.size <= MAX_SIZE and self.size % 512 == 0, "superblock: size out of bounds")
        require(1 <= self.epoch <= MAX_EPOCH and self.last_stamp >> 40 <= self.epoch, "superblock: epoch out of bounds")
        for tree, height in self.heights.items():
            require(height <= MAX_HEIGHT[tree], f"superblock: height of the {TREE_NAMES[tree]} tree")
        require(not is_zero(self.epoch_salt), "superblock: no salt")
        require(journal + 4 <= self.host_blocks <= MAX_HOST, "superblock: host blocks out of bounds")
        require(self.used_blocks <= self.host_blocks, "superblock: used blocks out of bounds")
        require(self.ring_position < journal - 4, "superblock: journal position out of bounds")
        require(self.codec <= 1 and -7 <= self.level <= 19, "superblock: codec or level")
        require((self.parent == 0) == (self.parent_stamp == 0), "superblock: parent and its stamp disagree")
        require(self.parent_stamp <= self.last_stamp, "superblock: stamp of the parent out of bounds")
        require(1 <= self.next_snapshot <= 1 << 32, "superblock: next snapshot id out of bounds")
        require(max(self.parent, self.deleting) < self.next_snapshot, "superblock: snapshot id out of bounds")
        require(self.overlay <= OVERLAY_SOURCE, "superblock: overlay flag")
        require(is_zero(self.body[222:224] + self.body[2176:]), "superblock: zero field is not zero")

    def _parse_reserve(self):
        require(self.reserve_count <= 32, "superblock: more than 32 reserve runs")
        runs = []
        for i in range(32):
            block, count, zero = struct.unpack_from("<QII", self.body, 304 + 16 * i)
            if i >= self.reserve_count:
                require(block == count == zero == 0, "superblock: an unused reserve run is not zero")
                continue
            require(zero == 0 and count and self.bounds.first <= block and block + count <= MAX_HOST,
                    "superblock: reserve run out of bounds")
            runs.append((block, count))
        return runs

    def _parse_base(self):
        body = self.body
        if not self.overlay:
            require(is_zero(body[816:2176]), "superblock: a base without an overlay")
            return None
        size, = struct.unpack_from("<Q", body, 848)
        path_length, name_length = struct.unpack_from("<HB", body, 888)
        require(512 <= size <= MAX_SIZE and size % 512 == 0, "superblock: size of the base out of bounds")
        require(1 <= path_length <= 1024, "superblock: length of the base's path")
        name, path = body[896:896 + name_length], body[1152:1152 + path_length]
        require(is_zero(body[891:896] + body[896 + name_length:1152] + body[1152 + path_length:2176]),
                "superblock: zero field is not zero")
        require(0 not in path, "superblock: NUL in the base's path")
        require(self.overlay != OVERLAY_SOURCE or (name_length == 0 and is_zero(body[856:888])),
                "superblock: a source with a key or a snapshot")
        return Base(body[816:832], body[832:848], size, body[856:888], path,
                    parse_name(name, "superblock: base") if name else "")


# ---------------------------------------------------------------------------------------------
# §13 Snapshots


def parse_name(raw, what):
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed(f"{what}: the snapshot name is not UTF-8") from None
    require(not any(c in "/@" or unicodedata.category(c) == "Cc" for c in name),
            f"{what}: forbidden character in the snapshot name")
    return name


class Snapshot(NamedTuple):
    id: int
    parent: int
    stamp: int
    size: int
    created: int
    root: object
    map_tag: bytes
    height: int
    marked: bool
    name: str


def parse_snapshot_leaf(data, index, bounds):
    """The records of a snapshot leaf (§13)."""
    what = f"snapshot leaf {index}"
    count = int.from_bytes(data[:2], "little")
    require(count <= 16 and is_zero(data[2:8]), f"{what}: header")
    at, previous, records = 8, -1, []
    for _ in range(count):
        require(at + 80 <= len(data), f"{what}: too short")
        number, parent, stamp, size, created = struct.unpack_from("<5Q", data, at)
        height, flags, length = data[at + 72:at + 75]
        end = at + (80 + length + 7) // 8 * 8
        require(end <= len(data), f"{what}: too short")
        require(previous < number and number // 16 == index and 1 <= number < 1 << 32, f"{what}: id out of order")
        require(height <= MAX_HEIGHT[MAP] and flags <= 1, f"{what}: height or flags")
        require((length == 0) == (flags == 1), f"{what}: length of the name")
        require(is_zero(data[at + 75:at + 80] + data[at + 80 + length:end]), f"{what}: zero field is not zero")
        require(512 <= size <= MAX_SIZE and size % 512 == 0, f"{what}: size out of bounds")
        bounds.check_stamp(stamp, what)
        raw_root = data[at + 40:at + 72]
        records.append(Snapshot(number, parent, stamp, size, created, parse_ref(raw_root, MAP, height, bounds),
                                raw_root[16:], height, flags == 1, parse_name(data[at + 80:at + 80 + length], what)))
        at, previous = end, number
    require(is_zero(data[at:]), f"{what}: padding is not zero")
    return records


# ---------------------------------------------------------------------------------------------
# §10 Map leaf


class Run(NamedTuple):
    first: int
    count: int
    kind: int
    host: int = 0
    stamp: int = 0
    tags: bytes = b""

    @property
    def end(self):
        return self.first + self.count

    def part(self, start, end):
        if self.kind == RUN_ZERO:
            return Run(start, end - start, RUN_ZERO)
        skip = start - self.first
        return Run(start, end - start, RUN_RAW, self.host + skip, self.stamp + skip,
                   self.tags[16 * skip:16 * (end - self.first)])


class Compressed(NamedTuple):
    cluster: int
    offset: int                 # in bytes, in the first host block
    length: int                 # of the compressed data
    host: int
    stamp: int
    tag: bytes

    @property
    def sealed(self):
        return (self.length + 15) // 16 * 16

    @property
    def blocks(self):
        return ceil_div(self.offset + self.sealed, BLOCK)


class MapLeaf:
    """512 guest blocks: zstd extents by cluster, and runs in order (§10)."""

    def __init__(self, cluster_blocks, extents=None, runs=None):
        self.cluster_blocks = cluster_blocks
        self.extents = extents if extents is not None else {}
        self.runs = runs if runs is not None else []

    @classmethod
    def parse(cls, data, index, bounds):
        what = f"map leaf {index}"
        n, m, zero = struct.unpack_from("<HHI", data)
        leaf = cls(bounds.cluster // BLOCK)
        require(zero == 0, f"{what}: zero field is not zero")
        require(8 + 40 * n <= len(data), f"{what}: too short")
        previous = -1
        for i in range(n):
            extent = parse_compressed(data, 8 + 40 * i, what, bounds)
            require(previous < extent.cluster < LEAF_BYTES // bounds.cluster, f"{what}: clusters out of order")
            previous = extent.cluster
            leaf.extents[extent.cluster] = extent
        at, end = 8 + 40 * n, 0
        for _ in range(m):
            run, at = parse_run(data, at, what, bounds)
            require(end <= run.first and run.end <= LEAF_BLOCKS, f"{what}: runs out of order")
            end = run.end
            leaf.runs.append(run)
        require(is_zero(data[at:]), f"{what}: padding is not zero")
        return leaf

    def cut(self, start, end):
        """Takes [start, end) out of the runs; returns the pieces taken."""
        kept, taken = [], []
        for run in self.runs:
            if run.end <= start or end <= run.first:
                kept.append(run)
                continue
            if run.first < start:
                kept.append(run.part(run.first, start))
            taken.append(run.part(max(run.first, start), min(run.end, end)))
            if end < run.end:
                kept.append(run.part(end, run.end))
        self.runs = kept
        return taken

    def insert(self, run):
        self.runs.append(run)
        self.runs.sort(key=lambda r: r.first)

    def covered(self, start, end):
        """How many blocks of [start, end) the runs cover."""
        return sum(max(0, min(run.end, end) - max(run.first, start)) for run in self.runs)

    def cluster_range(self, cluster):
        return cluster * self.cluster_blocks, (cluster + 1) * self.cluster_blocks

    def gaps(self, start, end):
        """The parts of [start, end) that no run covers."""
        for run in self.runs:
            if run.end <= start:
                continue
            if run.first >= end:
                break
            if start < run.first:
                yield start, run.first
            start = run.end
        if start < end:
            yield start, end

    def kinds(self):
        """What each of the 512 blocks is, in words; a cluster with an extent and runs is patched."""
        words = ["hole"] * LEAF_BLOCKS
        for run in self.runs:
            words[run.first:run.end] = ["raw" if run.kind == RUN_RAW else "zero"] * run.count
        for cluster in self.extents:
            start, end = self.cluster_range(cluster)
            words[start:end] = ["patched" if self.covered(start, end) else "zstd"] * self.cluster_blocks
        return words


def parse_compressed(data, at, what, bounds):
    cluster, codec, offset, length, host, stamp = struct.unpack_from("<HBBIQQ", data, at)
    require(codec == 1, f"{what}: unknown codec {codec}")
    require(1 <= length <= bounds.cluster, f"{what}: compressed length out of bounds")
    extent = Compressed(cluster, offset * 16, length, host, stamp, bytes(data[at + 24:at + 40]))
    bounds.check_blocks(host, extent.blocks, what)
    bounds.check_stamp(stamp, what)
    return extent


def check_raw(run, what, bounds):
    bounds.check_blocks(run.host, run.count, what)
    bounds.check_stamp(run.stamp, what)
    bounds.check_stamp(run.stamp + run.count - 1, what)
    require(run.stamp >> 40 == run.stamp + run.count - 1 >> 40, f"{what}: stamps of a run pass an epoch's end")


def parse_run(data, at, what, bounds):
    require(at + 8 <= len(data), f"{what}: too short")
    first, count, kind = struct.unpack_from("<HHB", data, at)
    require(count >= 1 and kind in (RUN_RAW, RUN_ZERO) and is_zero(data[at + 5:at + 8]), f"{what}: run")
    if kind == RUN_ZERO:
        return Run(first, count, RUN_ZERO), at + 8
    end = at + 24 + 16 * count
    require(end <= len(data), f"{what}: too short")
    host, stamp = struct.unpack_from("<QQ", data, at + 8)
    run = Run(first, count, RUN_RAW, host, stamp, bytes(data[at + 24:end]))
    check_raw(run, what, bounds)
    return run, end


# ---------------------------------------------------------------------------------------------
# §14 Journal


class Record(NamedTuple):
    sequence: int
    stamp: int
    blocks: int
    tag: bytes
    previous: bytes
    durable: int
    body: bytes


class RawOp(NamedTuple):
    leaf: int
    run: Run


class ZstdOp(NamedTuple):
    leaf: int
    extent: Compressed


class ClearOp(NamedTuple):
    hole: bool
    first: int
    end: int


def parse_operations(body, bounds, end_block):
    """The operations of a record (§14); Malformed where they do not parse. `end_block` is the end of
    the last cluster of the drive."""
    length, count = struct.unpack_from("<II", body, 24)
    require(length <= len(body) - 32, "record: length of the operations")
    data, at, operations = body[32:32 + length], 0, []
    for _ in range(count):
        require(at < length, "record: fewer operations than it says")
        parser, size = OPERATIONS.get(data[at], (None, 0))
        require(parser is not None and at + size <= length, "record: unknown or short operation")
        operation, at = parser(data, at, bounds, end_block)
        operations.append(operation)
    require(at == length and is_zero(body[32 + length:]), "record: bytes after the operations")
    return operations


def parse_raw_op(data, at, bounds, end_block):
    count, first, host, stamp = struct.unpack_from("<IQQQ", data, at + 4)
    end = at + 32 + 16 * count
    leaf, within = divmod(first, LEAF_BLOCKS)
    require(is_zero(data[at + 1:at + 4]) and 1 <= count and within + count <= LEAF_BLOCKS and end <= len(data)
            and first + count <= end_block, "record: raw operation")
    run = Run(within, count, RUN_RAW, host, stamp, data[at + 32:end])
    check_raw(run, "record: raw operation", bounds)
    return RawOp(leaf, run), end


def parse_zstd_op(data, at, bounds, end_block):
    codec, offset, zero, length, first, host, stamp = struct.unpack_from("<BBBIQQQ", data, at + 1)
    cluster_blocks = bounds.cluster // BLOCK
    require(codec == 1 and zero == 0 and 1 <= length <= bounds.cluster and first % cluster_blocks == 0
            and first + cluster_blocks <= end_block, "record: zstd operation")
    leaf, within = divmod(first, LEAF_BLOCKS)
    extent = Compressed(within // cluster_blocks, offset * 16, length, host, stamp, data[at + 32:at + 48])
    bounds.check_blocks(host, extent.blocks, "record: zstd operation")
    bounds.check_stamp(stamp, "record: zstd operation")
    return ZstdOp(leaf, extent), at + 48


def parse_clear_op(data, at, _bounds, end_block):
    first, count = struct.unpack_from("<QQ", data, at + 8)
    require(is_zero(data[at + 1:at + 8]) and count >= 1 and first + count <= end_block,
            "record: zero or hole operation")
    return ClearOp(data[at] == OP_HOLE, first, first + count), at + 24


OPERATIONS = {OP_RAW: (parse_raw_op, 32), OP_ZSTD: (parse_zstd_op, 48),
              OP_ZERO: (parse_clear_op, 24), OP_HOLE: (parse_clear_op, 24)}


# ---------------------------------------------------------------------------------------------
# §11 Allocation


LOW_NIBBLE = bytes(i & 15 for i in range(256))
HIGH_NIBBLE = bytes(i >> 4 for i in range(256))


def expand_counts(leaf):
    """The 8192 use counts of an allocation leaf, a byte each (§11)."""
    counts = bytearray(ALLOC_LEAF)
    if leaf is not None:
        counts[0::2] = leaf.translate(LOW_NIBBLE)
        counts[1::2] = leaf.translate(HIGH_NIBBLE)
    return counts
