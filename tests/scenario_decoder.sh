#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The second decoder, written from SPEC.md alone, against the library: whatever the tool makes, the
# two read every byte, name every range and judge every tag alike.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"

# agree NAME IMAGE: on the image, on every state of it, and that all is in order.
agree() {
    python3 - "$2" >.out 2>.err <<'PYTHON'
import itertools, json, os, subprocess, sys
sys.path.insert(0, os.path.join(os.environ["VDISK_SRC"], "tests"))
import vdisk_decoder as decoder

path = sys.argv[1]
image = decoder.Image(path, decoder.FileKey(decoder.read_file(os.environ["VDISK_KEY_FILE"])))
def tool(*words):
    return subprocess.run(["vdisk", *words], stdout=subprocess.PIPE, check=True).stdout
def same(what, ours, theirs):
    assert ours == theirs, f"{what}: {ours} and {theirs}"
def join(ranges):
    for kind, group in itertools.groupby(ranges, key=lambda r: r[2]):
        group = list(group)
        yield [group[0][0], sum(r[1] for r in group), kind]

info, sb = json.loads(tool("info", path, "--json")), image.super
same("info", [info[name] for name in ("size", "generation", "epoch", "root_tag", "image_id", "used_bytes")],
     [sb.size, sb.generation, sb.epoch, sb.map_tag.hex(), image.image_id.hex(), image.replay.used_blocks() * 4096])
listed = json.loads(tool("snapshot", "list", path, "--json"))["snapshots"]
same("snapshots", [(s["id"], s["parent"] or 0, s["name"], s["size"], s["created_ns"]) for s in listed],
     [(s.id, s.parent, s.name, s.size, s.created) for s in image.snapshots.values() if not s.marked])
for name in [None] + [s["name"] for s in listed]:
    spec, state = f"{path}@{name}" if name else path, image.state(name)
    tool("export", spec, "ours.raw", "--force", "--quiet")
    with open("theirs.raw", "w+b", buffering=0) as file:
        output = decoder.Output(file.fileno())
        for length, data in state.stream(0, state.size):
            output.write(length, data)
        output.finish()
    subprocess.run(["cmp", "ours.raw", "theirs.raw"], check=True)
    # What a base shows is a hole to the decoder.
    ranges = [(r["offset"], r["length"], "hole" if r["depth"] else r["kind"])
              for r in json.loads(tool("map", spec, "--json"))]
    same(f"map of {spec}", list(join(ranges)), state.pieces())
same("damage", decoder.Checker(image).run(), [])
tool("check", path)
PYTHON
    verdict "$1" $?
}

# cut IMAGE OFFSET FILE: writes, and is killed when its record has come into the journal.
cut() {
    python3 - "$@" <<'PYTHON'
import os, subprocess, sys
image, offset, name = sys.argv[1:]
handle = os.open(image, os.O_RDONLY)
ring = lambda: os.pread(handle, 508 * 4096, 4 * 4096)
before = ring()
with open(name, "rb") as data:
    process = subprocess.Popen(["vdisk", "write", image, offset], stdin=data)
while process.poll() is None and ring() == before:
    pass
process.kill()
process.wait()
PYTHON
}

data mixed 5000000 1 mixed
data noise 1500000 2 random
data words 900000 3 text
truncate -s 700000 zeros
for options in '16K zstd' '64K none' '128K zstd:1' '1M zstd:19'; do
    image=${options% *}.vdk
    drive "$image" 16M --cluster-size "${options% *}" --compress "${options#* }"
    put mixed "$image" 0
    put noise "$image" 7000001
    vdisk snapshot create "$image" root
    put words "$image" 2M
    put zeros "$image" 1234567
    head -c 5000 noise >some
    for _ in {1..6}; do put some "$image" $((RANDOM * 512)); done
    agree "$options: patches, zeros and a snapshot" "$image"
    vdisk snapshot create "$image" left
    put words "$image" 10000000
    vdisk snapshot create "$image" lefter
    vdisk snapshot rollback "$image" root
    put noise "$image" 3M
    vdisk snapshot create "$image" right
    vdisk snapshot delete "$image" root
    agree "$options: one deleted that two descend from" "$image"
    vdisk snapshot delete "$image" left
    vdisk compact "$image" --quiet
    put mixed "$image" 8M
    before=$(decoder info "$image" | grep -c '"journal_records": 0')
    cut "$image" 5M words
    records=$(decoder info "$image" | sed -n 's/.*"journal_records": \([0-9]*\).*/\1/p')
    echo "# records in the journal: $records"
    agree "$options: after kill -9, with $([ "$records" = 0 ] && echo no || echo a) record in the journal" "$image"
    vdisk write "$image" 100 <some
    clean "$options: the next one to write recovers it" "$image"
done
is 'after a close the journal is empty' "$before" 1

drive tall.vdk 1M
put words tall.vdk 0
vdisk resize tall.vdk 300M
put words tall.vdk 299M
vdisk snapshot create tall.vdk high
vdisk resize tall.vdk 2M --shrink
vdisk resize tall.vdk 257M
agree 'a map of several levels, cut and grown' tall.vdk
vdisk create giant.vdk --size 64P
for offset in 0 5T 63P; do vdisk write giant.vdk "$offset" <words; done
vdisk read giant.vdk 63P 900000 >ours
decoder read giant.vdk --offset $((63 << 50)) --length 900000 >theirs
same 'the largest drive' ours theirs
decoder check giant.vdk >.out 2>.err
is 'which both find in order' "$? $(vdisk check giant.vdk --quiet; echo $?)" '0 0'

drive split.vdk 64M --split 16M --compress none
data much 20000000 4 random
put much split.vdk 30M
agree 'in several files' split.vdk
drive base.vdk 8M
put mixed base.vdk 0
vdisk snapshot create base.vdk here
put noise base.vdk 1M
vdisk create middle.vdk --base base.vdk@here --size 10M
vdisk write middle.vdk 1000000 <words
vdisk write middle.vdk 2000000 <zeros
vdisk create top.vdk --base middle.vdk
vdisk write top.vdk 9M <words
vdisk resize top.vdk 4M --shrink
vdisk resize top.vdk 16M
agree 'an overlay' middle.vdk
agree 'on an overlay' top.vdk

for _ in {1..140}; do head -c 600 noise | vdisk write base.vdk $((RANDOM * 200)); done
vdisk create fresh.vdk --size 1M
agree 'a new image' fresh.vdk
json 'many times opened' "d['epoch'] > 140" vdisk info base.vdk --json
agree 'with as many epochs' base.vdk
vdisk key generate me >.out
printf 'pass phrase' >pass
vdisk key add base.vdk --new-recipient me.pub --quiet
vdisk key add base.vdk --new-passphrase-file pass "${CHEAP[@]}" --quiet
for key in '--identity me' '--passphrase-file pass'; do
    # shellcheck disable=SC2086
    t "$key opens it for the decoder too" python3 "$VDISK_SRC/tests/vdisk_decoder.py" check base.vdk $key
done
for block in {520..600..4}; do flip base.vdk $((block * 4096 + 7)); done
decoder check base.vdk >.out 2>.err
is 'damage: both see it' "$? $(vdisk check base.vdk --quiet >.out 2>.err; echo $?)" '3 3'
