# SPDX-License-Identifier: Apache-2.0
"""An image that is open for reading: its files (§2), opening and recovery (§15), the trees (§9), the
content of a state (§10), the base (§17)."""

import collections
import hmac
import itertools
import os
import struct

from vdisk_crypto import (ZSTD, Buffer, Damaged, KnownKey, Malformed, NotAuthentic, Seal, VdiskError, WrongKey,
                          ceil_div, is_zero, require)
from vdisk_format import (ALLOC, ALLOC_LEAF, BLOCK, EPOCHS, FANOUT, HOLE, KIND_EPOCH_NODE, KIND_NODE, KIND_RAW, OVERLAY_SOURCE,
                          KIND_RECORD, KIND_SUPER, KIND_ZSTD, LEAF_BLOCKS, LEAF_BYTES, MAP, MAX_CHAIN, MAX_HOST,
                          RUN_RAW, RUN_ZERO, SNAPSHOTS, TREE_NAMES, ZERO, ClearOp, Header, MapLeaf, RawOp, Record,
                          Ref, Run, Superblock, ZstdOp, expand_counts, parse_inner, parse_operations,
                          parse_snapshot_leaf)


# ---------------------------------------------------------------------------------------------
# §2 Files


class BlockFile:
    """The linear bytes of an image, in one file or several (§2)."""

    def __init__(self, path, split_bytes=0, part_set=0):
        self.path = path
        self.split_bytes = split_bytes
        self.part_set = part_set
        self._parts = {0: os.open(path, os.O_RDONLY | os.O_CLOEXEC)}

    def close(self):
        for handle in self._parts.values():
            if handle is not None:
                os.close(handle)
        self._parts = {}

    def _part(self, number):
        if number not in self._parts:
            name = f"{self.path}.{self.part_set:08x}.{number:03d}"
            try:
                self._parts[number] = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._parts[number] = None
        return self._parts[number]

    def _read_part(self, number, view, offset):
        handle, done = self._part(number), 0
        while handle is not None and done < len(view):
            got = os.preadv(handle, [view[done:]], offset + done)
            if got == 0:
                break
            done += got
        if done < len(view):                        # missing or short: zeros
            view[done:] = bytes(len(view) - done)

    def read_into(self, view, offset):
        while len(view):
            number, at = divmod(offset, self.split_bytes) if self.split_bytes else (0, offset)
            length = min(len(view), self.split_bytes - at) if self.split_bytes else len(view)
            self._read_part(number, view[:length], at)
            view = view[length:]
            offset += length

    def read(self, offset, length):
        data = bytearray(length)
        self.read_into(memoryview(data), offset)
        return bytes(data)


def find_headers(path):
    """The copies that count, the best first (§3, §6)."""
    file = BlockFile(path)
    first = Header(file.read(0, Header.LENGTH))
    known = first.counts() and 5 <= first.journal_log2 <= 16
    if known and (first.split_bytes == 0 or first.split_bytes >= 16 << 20):
        file.close()
        file = BlockFile(path, first.split_bytes, first.part_set)
    copies = {k: Header(file.read(BLOCK << k, Header.LENGTH)) for k in range(5, 17)}
    file.close()
    copies = {k: copy for k, copy in copies.items() if copy.counts() and copy.journal_log2 == k}
    pair = ([first] if first.counts() else []) + ([copies.pop(first.journal_log2)]
                                                  if known and first.journal_log2 in copies else [])
    by_generation = lambda headers: sorted(headers, key=lambda header: -header.generation)
    return by_generation(pair) + by_generation(copies.values())


def open_header(path, key):
    """The header in use and its keys (§6, §15 step 1)."""
    candidates, errors, tried = find_headers(path), [], set()
    if not candidates:
        raise Malformed("no header: not a vdisk image, or both copies are destroyed")
    for header in candidates:
        if header.raw in tried:
            continue
        tried.add(header.raw)
        try:
            return header, header.unlock(key)
        except (WrongKey, NotAuthentic, Malformed) as error:
            errors.append(error)
    raise errors[0]


# ---------------------------------------------------------------------------------------------
# The image: opening (§15), nodes (§9), extents (§10)


class Source:
    """What an image is being filled from (§17): the bytes of a file."""

    def __init__(self, path, recorded):
        if path is None:
            raise VdiskError(f"it is not yet filled from {os.fsdecode(recorded.path)}")
        with open(path, "rb") as file:
            self.bytes = file.read()
        require(recorded.size == ceil_div(len(self.bytes), 512) * 512, "the source has another size")

    def stream(self, start, end):
        stop = min(end, len(self.bytes))
        if start < stop:
            yield stop - start, self.bytes[start:stop]
        if max(start, stop) < end:
            yield end - max(start, stop), None


class Image:
    def __init__(self, path, key, depth=1, base_path=None, source_path=None):
        self.path, self.depth, self.base_path = path, depth, base_path
        self.source_path = source_path
        self.header, self.keys = open_header(path, key)
        self.image_id = self.header.image_id
        self.file = BlockFile(path, self.header.split_bytes, self.header.part_set)
        self.journal_blocks = 1 << self.header.journal_log2
        self.cluster = 1 << self.header.cluster_log2
        self.cluster_blocks = self.cluster // BLOCK
        self.slots = [self._open_superblock(at) for at in (2, self.journal_blocks + 2)]
        self.super = self._choose_superblock()
        self.bounds = self.super.bounds
        self._seals = {self.super.epoch: self._epoch_seal(self.super.epoch, self.super.epoch_salt)}
        self._table_seal = Seal(self.keys.table_secret(), self.image_id)
        self._inner_cache = collections.OrderedDict()
        self._input, self._work = Buffer(LEAF_BYTES), Buffer(1 << 20)
        self._dctx = ZSTD.ZSTD_createDCtx()
        self._base = None
        self.snapshots = self._load_snapshots()
        self.live = MapState(self, "live state", self.super.roots[MAP], self.super.heights[MAP], self.super.size)
        self.replay = Replay(self)
        self.replay.run()

    # -- superblock (§8)

    def _open_superblock(self, block):
        raw = self.file.read(block * BLOCK, BLOCK)
        seal = Seal(self.keys.superblock_secret(raw[:32]), self.image_id)
        return seal.open(raw[48:], raw[32:48], 0, 0, KIND_SUPER)

    def _choose_superblock(self):
        bodies = [body for body in self.slots if body is not None]
        if not bodies:
            raise NotAuthentic("no superblock is authentic")
        return Superblock(max(bodies, key=lambda body: body[:8][::-1]), self.header)

    # -- seals of the epochs (§4, §12)

    def _epoch_seal(self, epoch, salt):
        return Seal(self.keys.epoch_secret(epoch, salt), self.image_id)

    def epoch_salt(self, epoch):
        """The salt of an epoch, from the epoch tree (§12); zeros where there was none."""
        leaf = self.find_leaf(EPOCHS, epoch // FANOUT)
        return bytes(32) if leaf is None else leaf[32 * (epoch % FANOUT):][:32]

    def seal_of(self, stamp):
        epoch = stamp >> 40
        if epoch not in self._seals:
            salt = self.epoch_salt(epoch)
            require(not is_zero(salt), f"epoch {epoch} is not known")
            self._seals[epoch] = self._epoch_seal(epoch, salt)
        return self._seals[epoch]

    # -- nodes (§9)

    def read_node(self, tree, level, index, ref):
        """The content of a node, authenticated."""
        raw = self.file.read(ref.block * BLOCK, ref.blocks * BLOCK)
        if tree == EPOCHS:
            data = self._table_seal.open(raw, ref.tag, ref.stamp, index, KIND_EPOCH_NODE, 48 + level, encrypted=False)
        else:
            data = self.seal_of(ref.stamp).open(raw, ref.tag, ref.stamp, index, KIND_NODE, tree * 16 + level)
        if data is None:
            raise Damaged(f"{TREE_NAMES[tree]} node {index} at level {level}, host block {ref.block}: not authentic")
        return data

    def children(self, tree, level, index, ref):
        """The children of an inner node; a few are remembered."""
        key = (tree, level, index, ref)
        if key in self._inner_cache:
            self._inner_cache.move_to_end(key)
        else:
            self._inner_cache[key] = parse_inner(self.read_node(tree, level, index, ref), tree, level, self.bounds)
            if len(self._inner_cache) > 512:
                self._inner_cache.popitem(last=False)
        return self._inner_cache[key]

    def find_leaf(self, tree, index):
        """The content of one leaf, None for a hole (allocation, epochs, snapshots)."""
        item, level = self.super.roots[tree], self.super.heights[tree]
        if index >= FANOUT ** level:
            return None
        while item is not HOLE and level:
            child = self.children(tree, level, index // FANOUT ** level, item)
            level -= 1
            item = child[index // FANOUT ** level % FANOUT]
        return None if item is HOLE else self.read_node(tree, 0, index, item)

    def leaves(self, tree, visit=None):
        """All leaves of a small tree, in order: (index, content). `visit` sees every reference."""
        def walk(item, level, index):
            if item is HOLE:
                return
            if visit:
                visit(item)
            if level == 0:
                yield index, self.read_node(tree, 0, index, item)
                return
            for number, child in enumerate(self.children(tree, level, index, item)):
                yield from walk(child, level - 1, FANOUT * index + number)
        yield from walk(self.super.roots[tree], self.super.heights[tree], 0)

    # -- snapshots (§13)

    def _load_snapshots(self):
        records = {}
        for index, data in self.leaves(SNAPSHOTS):
            for record in parse_snapshot_leaf(data, index, self.bounds):
                records[record.id] = record
        names = [record.name for record in records.values() if not record.marked]
        require(len(names) == len(set(names)), "two snapshots have one name")
        return records

    def state(self, name):
        """The live state (None) or a snapshot by its name."""
        if name is None:
            return self.live
        for record in self.snapshots.values():
            if not record.marked and record.name == name:
                return self.snapshot_state(record)
        raise VdiskError(f"no snapshot named {name!r}")

    def snapshot_state(self, record):
        label = f"snapshot {record.id}" + (f" ({record.name})" if record.name else "")
        return MapState(self, label, record.root, record.height, record.size)

    # -- the base (§17)

    def base(self):
        """The state that holes read from, or None."""
        recorded = self.super.base
        if recorded is None or self._base is not None:
            return self._base
        if self.super.overlay == OVERLAY_SOURCE:
            self._base = Source(self.source_path, recorded)
            return self._base
        if self.depth >= MAX_CHAIN:
            raise Malformed(f"a chain of more than {MAX_CHAIN} images")
        folder = os.path.dirname(os.fspath(self.path))
        path = self.base_path or os.path.join(folder, os.fsdecode(recorded.path))
        image = Image(path, KnownKey(recorded.key), self.depth + 1)
        require(image.image_id == recorded.image_id, f"base {path}: another image")
        if recorded.snapshot:
            state = image.state(recorded.snapshot)
            tag = next(r.map_tag for r in image.snapshots.values() if r.name == recorded.snapshot)
        else:
            state, tag = image.live, image.super.map_tag
            require(image.replay.records == 0, f"base {path}: it was changed since")
        require(tag == recorded.tag and state.size == recorded.size, f"base {path}: it was changed since")
        image.base()
        self._base = state
        return state

    # -- extents (§5, §10)

    def raw_run(self, leaf_index, run, target=None):
        """Verifies the tags of a raw run; decrypts it to the address `target` if given."""
        guest = leaf_index * LEAF_BLOCKS + run.first
        seal, source = self.seal_of(run.stamp), self._input
        self.file.read_into(source.view[:run.count * BLOCK], run.host * BLOCK)
        contexts = b"".join([seal.context(run.stamp + i, guest + i, BLOCK, KIND_RAW) for i in range(run.count)])
        tags = seal.tags(contexts, source.address, BLOCK, run.count)
        if not hmac.compare_digest(tags, run.tags):
            bad = next(i for i in range(run.count) if tags[16 * i:16 * i + 16] != run.tags[16 * i:16 * i + 16])
            raise Damaged(f"guest block {guest + bad}, host block {run.host + bad}: not authentic")
        if target is not None:
            seal.decrypt(run.stamp, run.count, source.address, target, BLOCK)

    def compressed(self, leaf_index, extent, target=None):
        """Verifies the tag of a zstd extent; decompresses it to the address `target` if given."""
        guest = leaf_index * LEAF_BLOCKS + extent.cluster * self.cluster_blocks
        what = f"cluster at guest block {guest}, host block {extent.host}"
        seal, source, length = self.seal_of(extent.stamp), self._input, extent.sealed
        self.file.read_into(source.view[:length], extent.host * BLOCK + extent.offset)
        context = seal.context(extent.stamp, guest, length, KIND_ZSTD, 1, extent.length)
        if not hmac.compare_digest(seal.tags(context, source.address, length), extent.tag):
            raise Damaged(f"{what}: not authentic")
        if target is None:
            return
        seal.decrypt(extent.stamp, 1, source.address, self._work.address, length)
        require(is_zero(self._work.view[extent.length:length]), f"{what}: padding is not zero")
        require(ZSTD.ZSTD_findFrameCompressedSize(self._work.address, extent.length) == extent.length,
                f"{what}: not one zstd frame")
        size = ZSTD.ZSTD_decompressDCtx(self._dctx, target, self.cluster, self._work.address, extent.length)
        require(not ZSTD.ZSTD_isError(size) and size == self.cluster, f"{what}: does not decompress to a cluster")


# ---------------------------------------------------------------------------------------------
# A map: that of the live state or of a snapshot


class MapState:
    """A map tree (§9, §10). An item is HOLE, ZERO, a Ref, a list of 128 items, or a MapLeaf; the last
    two are what replaying the journal leaves in memory."""

    def __init__(self, image, label, root, height, size):
        self.image, self.label, self.root, self.height, self.size = image, label, root, height, size

    def load(self, item, level, index):
        """A Ref becomes what it refers to; a leaf is a MapLeaf, an inner node a list."""
        if not isinstance(item, Ref):
            return item
        if level:
            return self.image.children(MAP, level, index, item)
        return MapLeaf.parse(self.image.read_node(MAP, 0, index, item), index, self.image.bounds)

    def walk(self, first, end):
        """What the leaves [first, end) are, in order: (first, end, HOLE, ZERO or MapLeaf)."""
        yield from self._walk(self.root, self.height, 0, first, end)
        reach = FANOUT ** self.height
        if reach < end:
            yield max(first, reach), end, HOLE

    def _walk(self, item, level, index, first, end):
        span = FANOUT ** level
        low, high = max(first, index * span), min(end, (index + 1) * span)
        if low >= high:
            return
        item = self.load(item, level, index)
        if not isinstance(item, list):
            yield low, high, item
            return
        span //= FANOUT
        for child in range(low // span, ceil_div(high, span)):
            yield from self._walk(item[child - FANOUT * index], level - 1, child, first, end)

    # -- reading

    def stream(self, start, end):
        """The bytes [start, end), in pieces: (length, data or None for zeros)."""
        stop = min(end, self.size)
        if start < stop:
            for first, last, item in self.walk(start // LEAF_BYTES, ceil_div(stop, LEAF_BYTES)):
                low, high = max(start, first * LEAF_BYTES), min(stop, last * LEAF_BYTES)
                if isinstance(item, MapLeaf):
                    yield high - low, self._leaf_bytes(first, item, low - first * LEAF_BYTES, high - first * LEAF_BYTES)
                elif item is HOLE and self.image.base() is not None:
                    yield from self.image.base().stream(low, high)
                else:
                    yield high - low, None
        if max(start, stop) < end:
            yield end - max(start, stop), None

    def _leaf_bytes(self, index, leaf, low, high):
        """Bytes [low, high) of a leaf: zstd extents and the base first, the runs over them (§10)."""
        start, end = low // BLOCK, ceil_div(high, BLOCK)
        out = Buffer(LEAF_BYTES)
        for cluster in range(start // leaf.cluster_blocks, ceil_div(end, leaf.cluster_blocks)):
            first, last = leaf.cluster_range(cluster)
            gaps = list(leaf.gaps(max(first, start), min(last, end)))
            if gaps and cluster in leaf.extents:
                self.image.compressed(index, leaf.extents[cluster], out.address + first * BLOCK)
            elif gaps and self.image.base() is not None:
                for gap in gaps:
                    self._copy_base(index, out, *gap)
        for run in leaf.runs:
            first, last = max(run.first, start), min(run.end, end)
            if first >= last:
                continue
            if run.kind == RUN_RAW:
                self.image.raw_run(index, run.part(first, last), out.address + first * BLOCK)
            else:
                out.view[first * BLOCK:last * BLOCK] = bytes((last - first) * BLOCK)
        return out.view[low:high]

    def _copy_base(self, index, out, start, end):
        at, origin = start * BLOCK, index * LEAF_BYTES
        for length, data in self.image.base().stream(origin + at, origin + end * BLOCK):
            if data is not None:
                out.view[at:at + length] = data
            at += length

    # -- the map command

    def pieces(self):
        """[offset, length, kind], coalesced."""
        result = []
        def add(offset, end, kind):
            end = min(end, self.size)
            if end <= offset:
                return
            if result and result[-1][2] == kind and result[-1][0] + result[-1][1] == offset:
                result[-1][1] += end - offset
            else:
                result.append([offset, end - offset, kind])
        for first, last, item in self.walk(0, ceil_div(self.size, LEAF_BYTES)):
            if not isinstance(item, MapLeaf):
                add(first * LEAF_BYTES, last * LEAF_BYTES, item.name)
                continue
            at = first * LEAF_BYTES
            for kind, blocks in itertools.groupby(item.kinds()):
                length = sum(1 for _ in blocks) * BLOCK
                add(at, at + length, kind)
                at += length
        return result


# ---------------------------------------------------------------------------------------------
# §14 Journal, §15 Recovery


class Journal:
    """The ring of one image (§14)."""

    def __init__(self, image):
        self.image = image
        self.ring = image.journal_blocks - 4
        self.seal = image.seal_of(image.super.epoch << 40)

    def _read(self, position, blocks):
        first = min(blocks, self.ring - position)
        data = self.image.file.read((4 + position) * BLOCK, first * BLOCK)
        return data + self.image.file.read(4 * BLOCK, (blocks - first) * BLOCK) if first < blocks else data

    def record_at(self, position, accept):
        """The record that begins at `position`, if `accept` takes its sequence number and it is authentic."""
        head = self.image.file.read((4 + position) * BLOCK, 48)
        stamp, sequence, blocks = struct.unpack_from("<QQI", head, 16)
        if not accept(sequence) or not 1 <= blocks <= min(64, self.ring) or not is_zero(head[36:]):
            return None
        if stamp >> 40 != self.image.super.epoch:
            return None
        raw = self._read(position, blocks)
        body = self.seal.open(raw[48:], raw[:16], stamp, sequence, KIND_RECORD)
        if body is None:
            return None
        return Record(sequence, stamp, blocks, raw[:16], body[:16], struct.unpack_from("<Q", body, 16)[0], body)


class Replay:
    """Recovery (§15 steps 3 to 6). Leaves the live state in image.live, and in `delta` by how much the
    use count of each host block changes."""

    def __init__(self, image):
        self.image = image
        self.journal = Journal(image)
        self.delta = collections.Counter()
        self.records = 0
        self.last_stamp = image.super.last_stamp
        self.overlay = image.super.base is not None
        end = ceil_div(image.super.size, image.cluster) * image.cluster_blocks
        self.end_block = end
        self.op_bounds = image.bounds._replace(host=MAX_HOST, stamp=(image.super.epoch + 1 << 40) - 1,
                                               epoch=image.super.epoch)

    def run(self):
        log, durable = self._read_log()
        self._refuse_lost_records(log, durable)
        log = self._verify_data(log, durable)
        self.records = len(log)
        self._extend_bounds(log)
        for _, operations in log:
            for operation in operations:
                self._apply(operation)

    # -- steps 3 to 5

    def _read_log(self):
        sb, log = self.image.super, []
        sequence, position, previous = sb.first_sequence, sb.ring_position, sb.previous_tag
        durable = sequence
        while len(log) <= self.journal.ring:
            record = self.journal.record_at(position, lambda number: number >= sequence)
            if record is None or record.previous != previous:
                break
            try:
                operations = parse_operations(record.body, self.op_bounds, self.end_block)
            except Malformed:
                break
            log.append((record, operations))
            durable = max(durable, record.durable)
            sequence, previous = record.sequence + 1, record.tag
            position = (position + record.blocks) % self.journal.ring
        return log, durable

    def _refuse_lost_records(self, log, durable):
        """Step 4."""
        end = log[-1][0].sequence + 1 if log else self.image.super.first_sequence
        lost = durable > end
        for position in range(self.journal.ring):
            record = self.journal.record_at(position, lambda number: number > end)
            lost = lost or record is not None and record.durable > end
        if lost:
            raise Damaged(f"journal record {end} was durable and is damaged")

    def _verify_data(self, log, durable):
        """Step 5: what was never acknowledged counts only if all its data is there."""
        for number, (record, operations) in enumerate(log):
            if record.sequence < durable:
                continue
            try:
                for operation in operations:
                    if isinstance(operation, RawOp):
                        self.image.raw_run(operation.leaf, operation.run)
                    elif isinstance(operation, ZstdOp):
                        self.image.compressed(operation.leaf, operation.extent)
            except Damaged:
                return log[:number]
        return log

    def _extend_bounds(self, log):
        """Stamps and host blocks that the records brought are valid in the live state."""
        host = self.image.bounds.host
        for record, operations in log:
            self.last_stamp = max(self.last_stamp, record.stamp)
            for operation in operations:
                if isinstance(operation, RawOp):
                    run = operation.run
                    host = max(host, run.host + run.count)
                    self.last_stamp = max(self.last_stamp, run.stamp + run.count - 1)
                elif isinstance(operation, ZstdOp):
                    host = max(host, operation.extent.host + operation.extent.blocks)
                    self.last_stamp = max(self.last_stamp, operation.extent.stamp)
        self.image.bounds = self.image.bounds._replace(host=host, stamp=self.last_stamp)

    # -- use counts (§11) and the owner's rule (§13)

    def _owner_stamp(self, leaf):
        """The stamp above which the live state owns what is in a leaf (§13)."""
        sb = self.image.super
        if sb.deleting and sb.deleting == sb.parent and leaf < sb.cursor:
            record = self.image.snapshots.get(sb.deleting)
            require(record is not None, "the snapshot being deleted does not exist")
            above = self.image.snapshots.get(record.parent)
            require(above is not None or record.parent == 0, "a snapshot's parent does not exist")
            return above.stamp if above else 0
        return sb.parent_stamp

    def _release_run(self, leaf, run):
        if run.kind == RUN_RAW:
            owner = self._owner_stamp(leaf)
            for i in range(run.count):
                if run.stamp + i > owner:
                    self.delta[run.host + i] -= 1

    def _release_extent(self, leaf, extent):
        if extent.stamp > self._owner_stamp(leaf):
            for i in range(extent.blocks):
                self.delta[extent.host + i] -= 1

    def _release_leaf(self, index, leaf):
        for run in leaf.runs:
            self._release_run(index, run)
        for extent in leaf.extents.values():
            self._release_extent(index, extent)

    # -- step 6: the operations (§14)

    def _apply(self, operation):
        if isinstance(operation, ClearOp):
            self._apply_clear(operation)
            return
        leaf = self._leaf_to_change(operation.leaf)
        if isinstance(operation, RawOp):
            self._apply_raw(operation.leaf, leaf, operation.run)
        else:
            self._apply_zstd(operation.leaf, leaf, operation.extent)

    def _cut(self, index, leaf, start, end):
        for run in leaf.cut(start, end):
            self._release_run(index, run)

    def _drop_extent(self, index, leaf, cluster):
        self._release_extent(index, leaf.extents.pop(cluster))

    def _drop_if_covered(self, index, leaf, cluster):
        start, end = leaf.cluster_range(cluster)
        if cluster in leaf.extents and leaf.covered(start, end) == end - start:
            self._drop_extent(index, leaf, cluster)

    def _apply_raw(self, index, leaf, run):
        self._cut(index, leaf, run.first, run.end)
        leaf.insert(run)
        for i in range(run.count):
            self.delta[run.host + i] += 1
        for cluster in range(run.first // leaf.cluster_blocks, ceil_div(run.end, leaf.cluster_blocks)):
            self._drop_if_covered(index, leaf, cluster)

    def _apply_zstd(self, index, leaf, extent):
        self._cut(index, leaf, *leaf.cluster_range(extent.cluster))
        if extent.cluster in leaf.extents:
            self._drop_extent(index, leaf, extent.cluster)
        leaf.extents[extent.cluster] = extent
        for i in range(extent.blocks):
            self.delta[extent.host + i] += 1

    def _apply_clear(self, operation):
        """A zero or hole operation: whole leaves as subtrees, the leaves at its ends by cluster."""
        first, end = operation.first, operation.end
        first_whole, end_whole = ceil_div(first, LEAF_BLOCKS), end // LEAF_BLOCKS
        if first_whole > end_whole:                 # within one leaf, touching neither of its ends
            self._clear_part(first // LEAF_BLOCKS, first % LEAF_BLOCKS, end % LEAF_BLOCKS, operation.hole)
            return
        if first % LEAF_BLOCKS:
            self._clear_part(first_whole - 1, first % LEAF_BLOCKS, LEAF_BLOCKS, operation.hole)
        if first_whole < end_whole:
            self._grow(end_whole - 1)
            live, mark = self.image.live, HOLE if operation.hole and not self.overlay else ZERO
            live.root = self._replace(live.root, live.height, 0, first_whole, end_whole, mark)
        if end % LEAF_BLOCKS:
            self._clear_part(end_whole, 0, end % LEAF_BLOCKS, operation.hole)

    def _clear_part(self, index, start, end, hole):
        leaf = self._leaf_to_change(index)
        for cluster in range(start // leaf.cluster_blocks, ceil_div(end, leaf.cluster_blocks)):
            low, high = leaf.cluster_range(cluster)
            first, last = max(start, low), min(end, high)
            if cluster in leaf.extents and (first, last) == (low, high):
                self._drop_extent(index, leaf, cluster)
            zero = not hole or self.overlay or cluster in leaf.extents
            self._cut(index, leaf, first, last)
            if zero:
                leaf.insert(Run(first, last - first, RUN_ZERO))
            self._drop_if_covered(index, leaf, cluster)

    # -- the live map in memory

    def _grow(self, leaf):
        live = self.image.live
        while leaf >= FANOUT ** live.height:
            live.root = HOLE if live.root is HOLE else [live.root] + [HOLE] * (FANOUT - 1)
            live.height += 1

    def _children_to_change(self, item, level, index):
        if item in (HOLE, ZERO):
            return [item] * FANOUT
        return item if isinstance(item, list) else list(self.image.live.load(item, level, index))

    def _leaf_to_change(self, index):
        """The leaf, in memory, on a path in memory."""
        self._grow(index)
        live = self.image.live
        holder, slot, item = None, 0, live.root
        for level in range(live.height, 0, -1):
            item = self._children_to_change(item, level, index // FANOUT ** level)
            self._put(holder, slot, item)
            holder, slot = item, index // FANOUT ** (level - 1) % FANOUT
            item = holder[slot]
        if item in (HOLE, ZERO):
            item = MapLeaf(self.image.cluster_blocks, None, [Run(0, LEAF_BLOCKS, RUN_ZERO)] if item is ZERO else [])
        elif isinstance(item, Ref):
            item = live.load(item, 0, index)
        self._put(holder, slot, item)
        return item

    def _put(self, holder, slot, item):
        if holder is None:
            self.image.live.root = item
        else:
            holder[slot] = item

    def _replace(self, item, level, index, first, end, mark):
        """`item` with the leaves [first, end) replaced by `mark`; what they had is released."""
        span = FANOUT ** level
        start, stop = index * span, (index + 1) * span
        if stop <= first or end <= start:
            return item
        if first <= start and stop <= end:
            for number, _, leaf in self.image.live._walk(item, level, index, start, stop):
                if isinstance(leaf, MapLeaf):
                    self._release_leaf(number, leaf)
            return mark
        children = self._children_to_change(item, level, index)
        for child in range(FANOUT):
            children[child] = self._replace(children[child], level - 1, FANOUT * index + child, first, end, mark)
        return children

    # -- used blocks after the replay

    def used_blocks(self):
        used = self.image.super.used_blocks
        pages = {}
        for block, change in self.delta.items():
            page, at = divmod(block, ALLOC_LEAF)
            if page not in pages:
                pages[page] = expand_counts(self.image.find_leaf(ALLOC, page))
            before = pages[page][at]
            require(0 <= before + change <= 15, f"use count of host block {block} leaves 0 to 15 in the journal")
            used += (before + change != 0) - (before != 0)
        return used
