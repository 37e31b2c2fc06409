#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An independent, read-only decoder of vdisk images, written from SPEC.md alone.

It shares no code with the library: the tests compare the two. Section numbers (§) are those of
SPEC.md. Here are the check and the commands; vdisk_image.py opens an image and reads it, vdisk_format.py
parses its structures, vdisk_crypto.py has the keys and the seal. It needs Python 3.11 and, through ctypes, libsodium, libcrypto and libzstd.

    vdisk_decoder.py info  IMAGE KEY
    vdisk_decoder.py read  IMAGE KEY [--snapshot NAME] [--offset N] [--length N]
    vdisk_decoder.py map   IMAGE KEY [--snapshot NAME]
    vdisk_decoder.py check IMAGE KEY

KEY is --key-file FILE, --passphrase-file FILE or --identity FILE. Exit status: 0 well, 1 failure,
2 usage, 3 damage, 4 wrong key or not authentic.
"""

import argparse
import base64
import collections
import fcntl
import json
import os
import stat
import sys
from array import array

from vdisk_crypto import (Buffer, Damaged, FileKey, IdentityKey, Malformed, PassphraseKey, VdiskError, ceil_div,
                          is_zero)
from vdisk_format import (ALLOC, ALLOC_LEAF, BLOCK, EPOCHS, FANOUT, HOLE, LEAF_BLOCKS, LEAF_BYTES, MAP, OVERLAY_SOURCE, RUN_RAW,
                          SNAPSHOTS, ZERO, Header, MapLeaf, Ref, expand_counts)
from vdisk_image import Image, MapState


class UseCounts:
    """Use counts computed anew: each distinct node and extent once (§11)."""

    def __init__(self):
        self.pages = collections.defaultdict(lambda: bytearray(ALLOC_LEAF))
        self._raw = collections.defaultdict(lambda: array("Q", bytes(8 * ALLOC_LEAF)))
        self._zstd = {}
        self.problems = []

    def add(self, block, count=1):
        for number in range(block, block + count):
            page = self.pages[number // ALLOC_LEAF]
            if page[number % ALLOC_LEAF] == 255:
                self.problems.append(f"host block {number}: claimed more than 255 times")
            else:
                page[number % ALLOC_LEAF] += 1

    def add_raw(self, run):
        """Counts a raw run; returns the parts of it not met before."""
        fresh = []
        for i in range(run.count):
            page, at = divmod(run.host + i, ALLOC_LEAF)
            seen, stamp = self._raw[page], run.stamp + i
            if seen[at] == stamp:
                continue
            if seen[at]:
                self.problems.append(f"host block {run.host + i}: two raw extents")
            seen[at] = stamp
            self.add(run.host + i)
            if fresh and fresh[-1][1] == run.first + i:
                fresh[-1][1] += 1
            else:
                fresh.append([run.first + i, run.first + i + 1])
        return [run.part(start, end) for start, end in fresh]

    def add_zstd(self, extent):
        """Counts a zstd extent; false where it was met before."""
        key = (extent.host, extent.offset)
        if self._zstd.get(key) == extent.stamp:
            return False
        if key in self._zstd:
            self.problems.append(f"host block {extent.host}: two zstd extents at offset {extent.offset}")
        self._zstd[key] = extent.stamp
        self.add(extent.host, extent.blocks)
        return True


# ---------------------------------------------------------------------------------------------
# The check command


class Checker:
    MAX_LINES = 200

    def __init__(self, image):
        self.image = image
        self.counts = UseCounts()
        self.lines, self.notes = [], []
        self.nodes_lost = False
        self._nodes, self._entered = set(), set()
        self._out = Buffer(1 << 20)

    def problem(self, text):
        self.lines.append(str(text))

    def run(self):
        image = self.image
        self._check_fixed_blocks()
        self._check_forest()
        self.counts.add(0, image.journal_blocks + 4)
        for tree in (EPOCHS, SNAPSHOTS):
            self._walk_small(tree)
        self._count_live_nodes()
        self._walk_map("live state", image.live, image.bounds.stamp)
        self._check_tail(image.live)
        # What is being deleted comes last: what it shares is counted and verified with the others.
        for record in sorted(image.snapshots.values(), key=lambda r: (r.marked, r.id == image.super.deleting)):
            state = image.snapshot_state(record)
            skip = image.super.cursor if record.id == image.super.deleting else 0
            self._walk_map(state.label, state, record.stamp, skip, verify=not record.marked)
            if not record.marked:
                self._check_tail(state)
        self._compare_allocation()
        if image.super.overlay == OVERLAY_SOURCE:
            self.notes.append("the image is not yet filled from its source")
        elif self._guard(image.base) is not None:
            self.notes.append("the data of the base is not checked")
        return self.lines

    # -- what stands at fixed places

    def _check_fixed_blocks(self):
        image = self.image
        for block in (3, image.journal_blocks + 3):
            if not is_zero(image.file.read(block * BLOCK, BLOCK)):
                self.problem(f"block {block} is not zero")
        for name, body in zip("AB", image.slots):
            if body != image.super.body:
                self.notes.append(f"superblock {name} is " + ("not authentic" if body is None else "an older one"))
        for name, block in (("A", 0), ("B", image.journal_blocks)):
            if image.file.read(block * BLOCK, Header.LENGTH) != image.header.raw:
                self.notes.append(f"header {name} is not the one in use")
        if self._guard(image.epoch_salt, image.super.epoch) not in (None, image.super.epoch_salt):
            self.problem("the epoch's salt in the superblock is not the one in the epoch tree")

    def _check_forest(self):
        """§13: parents exist and are older, the numbers in the superblock are right."""
        sb, records = self.image.super, self.image.snapshots
        for record in records.values():
            above = records.get(record.parent)
            if record.parent and (above is None or above.id >= record.id or above.stamp > record.stamp):
                self.problem(f"snapshot {record.id}: parent {record.parent} does not exist or is younger")
            if record.id >= sb.next_snapshot:
                self.problem(f"snapshot {record.id}: id not below the next one, {sb.next_snapshot}")
        if sb.parent and (sb.parent not in records or records[sb.parent].stamp != sb.parent_stamp):
            self.problem(f"live state: parent {sb.parent} does not exist or has another stamp")
        if sb.deleting and (sb.deleting not in records or not records[sb.deleting].marked):
            self.problem(f"snapshot {sb.deleting}, being deleted, does not exist or is not marked")
        children = [r.id for r in records.values() if r.parent == sb.deleting] + [0] * (sb.parent == sb.deleting)
        if sb.deleting and len(children) > 1:
            self.problem(f"snapshot {sb.deleting} is being deleted, with {len(children)} states that descend from it")
        number = sum(not record.marked for record in records.values())
        if number != sb.snapshots:
            self.problem(f"{number} snapshots, the superblock says {sb.snapshots}")

    # -- trees

    def _guard(self, function, *arguments):
        """The result, or None and a line where it fails."""
        try:
            return function(*arguments)
        except (Damaged, Malformed) as error:
            self.problem(error)
            return None

    def _count_node(self, ref):
        if ref not in self._nodes:
            self._nodes.add(ref)
            self.counts.add(ref.block, ref.blocks)

    def _walk_small(self, tree):
        try:
            for _ in self.image.leaves(tree, self._count_node):
                pass
        except (Damaged, Malformed) as error:
            self.nodes_lost = True
            self.problem(error)

    def _count_live_nodes(self):
        """The nodes of the live map as the superblock has it are in use until the next checkpoint, even
        where the journal has changed what they say."""
        def visit(item, level, index):
            if isinstance(item, Ref):
                self._count_node(item)
                for number, child in enumerate(state.load(item, level, index) if level else ()):
                    visit(child, level - 1, FANOUT * index + number)
        sb = self.image.super
        state = MapState(self.image, "live state", sb.roots[MAP], sb.heights[MAP], sb.size)
        try:
            visit(state.root, state.height, 0)
        except (Damaged, Malformed) as error:
            self.nodes_lost = True
            self.problem(f"{state.label}: {error}")

    def _walk_map(self, label, state, bound, skip=0, verify=True):
        """Counts nodes and extents and verifies them. Nodes that cover nothing at or above leaf `skip` are
        not read (§13, deletion). `bound` is the stamp that nothing may be newer than."""
        def visit(item, level, index):
            if item in (HOLE, ZERO) or (index + 1) * FANOUT ** level <= skip:
                return
            if isinstance(item, Ref):
                if item.stamp > bound:
                    self.problem(f"{label}: map node {index} at level {level} is newer than the state")
                if item in self._entered:           # met in another state, with all below it
                    return
                self._entered.add(item)
                self._count_node(item)
                try:
                    item = state.load(item, level, index)
                except (Damaged, Malformed) as error:
                    self.nodes_lost = True
                    self.problem(f"{label}: {error}")
                    return
            if isinstance(item, list):
                for number, child in enumerate(item):
                    visit(child, level - 1, FANOUT * index + number)
            else:
                self._check_leaf(label, index, item, bound, verify)
        visit(state.root, state.height, 0)

    def _check_leaf(self, label, index, leaf, bound, verify):
        for run in leaf.runs:
            if run.kind != RUN_RAW:
                continue
            if run.stamp + run.count - 1 > bound:
                self.problem(f"{label}: map leaf {index}: a raw extent is newer than the state")
            for part in self.counts.add_raw(run):
                if verify:
                    self._check_extent(label, self.image.raw_run, index, part)
        for extent in leaf.extents.values():
            if extent.stamp > bound:
                self.problem(f"{label}: map leaf {index}: a zstd extent is newer than the state")
            if self.counts.add_zstd(extent) and verify:
                self._check_extent(label, self.image.compressed, index, extent, self._out.address)
            low, high = leaf.cluster_range(extent.cluster)
            if leaf.covered(low, high) == high - low:
                self.notes.append(f"{label}: map leaf {index}: cluster {extent.cluster} is covered by runs")

    def _check_extent(self, label, function, *arguments):
        try:
            function(*arguments)
        except (Damaged, Malformed) as error:
            self.problem(f"{label}: {error}")

    def _check_tail(self, state):
        """§10: past the size of the drive there are only zeros, and nothing past its last cluster."""
        cluster = self.image.cluster
        end = ceil_div(state.size, cluster) * cluster
        try:
            last = (end - 1) // LEAF_BYTES
            beyond = FANOUT ** state.height
            for index, _, leaf in state.walk(last, max(beyond, last + 1)):
                if not isinstance(leaf, MapLeaf):
                    continue
                for first, stop in self._data_ranges(index, leaf):
                    if stop > end:
                        self.problem(f"{state.label}: data past the end of the drive in map leaf {index}")
                    elif stop > state.size:
                        start = max(first, state.size) - index * LEAF_BYTES
                        data = state._leaf_bytes(index, leaf, start, stop - index * LEAF_BYTES)
                        if not is_zero(data):
                            self.problem(f"{state.label}: data past the end of the drive is not zero")
        except (Damaged, Malformed) as error:
            self.problem(f"{state.label}: {error}")

    @staticmethod
    def _data_ranges(index, leaf):
        """The bytes that raw runs and what shows of zstd extents take."""
        start = index * LEAF_BLOCKS
        ranges = [(run.first, run.end) for run in leaf.runs if run.kind == RUN_RAW]
        for cluster in leaf.extents:
            ranges += leaf.gaps(*leaf.cluster_range(cluster))
        return [((start + a) * BLOCK, (start + b) * BLOCK) for a, b in ranges]

    # -- allocation (§11)

    def _compare_allocation(self):
        image = self.image
        leaves = {}
        try:
            for index, data in image.leaves(ALLOC, self._count_node):
                leaves[index] = data
        except (Damaged, Malformed) as error:
            self.problem(error)
            return
        self.lines += self.counts.problems
        if self.nodes_lost:
            self.problem("use counts are not compared: nodes are missing")
            return
        changes = collections.defaultdict(list)
        for block, change in image.replay.delta.items():
            changes[block // ALLOC_LEAF].append((block % ALLOC_LEAF, change))
        used, reserved = 0, self._reserved_blocks()
        for page in sorted(set(leaves) | set(self.counts.pages) | set(changes) | set(reserved)):
            stored = expand_counts(leaves.get(page))
            used += ALLOC_LEAF - stored.count(0)
            self._check_free_end(page, stored)
            for at, change in changes[page]:
                if not 0 <= stored[at] + change <= 15:
                    self.problem(f"host block {page * ALLOC_LEAF + at}: the journal takes its use count out of 0 to 15")
                stored[at] = (stored[at] + change) & 255
            computed = self.counts.pages[page]
            if stored != computed:
                self._list_differences(page, stored, computed)
            for at in reserved.get(page, ()):
                if stored[at] or computed[at]:
                    self.problem(f"host block {page * ALLOC_LEAF + at}: reserved, but in use")
        if used != image.super.used_blocks:
            self.problem(f"{used} blocks are used, the superblock says {image.super.used_blocks}")

    def _check_free_end(self, page, stored):
        end = min(max(self.image.super.host_blocks - page * ALLOC_LEAF, 0), ALLOC_LEAF)
        if any(stored[end:]):
            self.problem(f"blocks past host block {self.image.super.host_blocks} are not free")

    def _reserved_blocks(self):
        """Reserved blocks by allocation leaf; two runs must not share one."""
        pages, seen = collections.defaultdict(list), set()
        for block, count in self.image.super.reserve:
            for number in range(block, block + count):
                if number in seen:
                    self.problem(f"host block {number}: in two reserve runs")
                seen.add(number)
                pages[number // ALLOC_LEAF].append(number % ALLOC_LEAF)
        return pages

    def _list_differences(self, page, stored, computed):
        different = [i for i in range(ALLOC_LEAF) if stored[i] != computed[i]]
        for at in different[:8]:
            self.problem(f"host block {page * ALLOC_LEAF + at}: use count {stored[at]}, should be {computed[at]}")
        if len(different) > 8:
            self.problem(f"allocation leaf {page}: {len(different) - 8} more use counts are wrong")


# ---------------------------------------------------------------------------------------------
# The commands


def command_info(image, _options):
    sb = image.super
    base = sb.base and {"image_id": sb.base.image_id.hex(), "root_tag": sb.base.tag.hex(), "size": sb.base.size,
                        "path": os.fsdecode(sb.base.path), "snapshot": sb.base.snapshot or None}
    print(json.dumps({
        "size": sb.size, "generation": sb.generation, "epoch": sb.epoch, "root_tag": sb.map_tag.hex(),
        "snapshots": [{"id": r.id, "parent": r.parent, "name": r.name, "size": r.size, "created": r.created}
                      for r in image.snapshots.values() if not r.marked],
        "used_blocks": image.replay.used_blocks(), "cluster_bytes": image.cluster,
        "image_id": image.image_id.hex(), "base": base,
        "created": sb.created, "journal_records": image.replay.records,
    }, indent=2, ensure_ascii=False))
    return 0


def command_read(image, options):
    state = image.state(options.snapshot)
    image.base()                                    # refused before the first byte, if at all
    end = state.size if options.length is None else options.offset + options.length
    if end > state.size or options.offset > end:
        raise VdiskError(f"the range is not within the drive of {state.size} bytes")
    output = Output(sys.stdout.fileno())
    for length, data in state.stream(options.offset, end):
        output.write(length, data)
    output.finish()
    return 0


class Output:
    """Writes to a descriptor; leaves holes for zeros at the end of a regular file."""

    ZEROS = memoryview(bytes(LEAF_BYTES))

    def __init__(self, handle):
        self.handle = handle
        status = os.fstat(handle)
        appending = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_APPEND
        self.sparse = (stat.S_ISREG(status.st_mode) and not appending
                       and os.lseek(handle, 0, os.SEEK_CUR) == status.st_size)

    def _all(self, data):
        while len(data):
            data = data[os.write(self.handle, data):]

    def write(self, length, data):
        if data is not None:
            self._all(data)
        elif self.sparse:
            os.lseek(self.handle, length, os.SEEK_CUR)
        else:
            while length:
                self._all(self.ZEROS[:length])
                length -= min(length, LEAF_BYTES)

    def finish(self):
        if self.sparse:
            os.ftruncate(self.handle, os.lseek(self.handle, 0, os.SEEK_CUR))


def command_map(image, options):
    pieces = image.state(options.snapshot).pieces()
    print(json.dumps([{"offset": offset, "length": length, "kind": kind} for offset, length, kind in pieces]))
    return 0


def command_check(image, _options):
    checker = Checker(image)
    lines = checker.run()
    for note in checker.notes:
        print(f"note: {note}", file=sys.stderr)
    for line in lines[:Checker.MAX_LINES]:
        print(line)
    if len(lines) > Checker.MAX_LINES:
        print(f"and {len(lines) - Checker.MAX_LINES} more")
    return 3 if lines else 0


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


def key_of(options):
    if options.key_file is not None:
        return FileKey(read_file(options.key_file))
    if options.passphrase_file is not None:
        return PassphraseKey(read_file(options.passphrase_file).removesuffix(b"\n"))
    words = read_file(options.identity).decode("ascii", "replace").split()
    try:
        label, text = words
        secret = base64.b64decode(text, validate=True)
        if label != "vdisk-identity-1" or len(secret) != 32:
            raise ValueError
    except ValueError:
        raise VdiskError(f"{options.identity}: not an identity") from None
    return IdentityKey(secret)


def natural(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("negative")
    return value


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description="Reads vdisk images; written from SPEC.md alone.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in (("info", command_info), ("read", command_read), ("map", command_map),
                           ("check", command_check)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("image")
        key = command.add_mutually_exclusive_group(required=True)
        key.add_argument("--key-file")
        key.add_argument("--passphrase-file")
        key.add_argument("--identity")
        command.add_argument("--base", help="where the base is, if not where the overlay says")
        command.add_argument("--source", help="the bytes that an image which is being filled begins with")
        if name in ("read", "map"):
            command.add_argument("--snapshot")
        if name == "read":
            command.add_argument("--offset", type=natural, default=0)
            command.add_argument("--length", type=natural)
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse_arguments(arguments)
    try:
        return options.function(Image(options.image, key_of(options), base_path=options.base,
                                      source_path=options.source), options)
    except VdiskError as error:
        print(f"vdisk_decoder: {error}", file=sys.stdout if options.command == "check" else sys.stderr)
        return error.status
    except OSError as error:
        print(f"vdisk_decoder: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
