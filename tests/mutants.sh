#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Takes out a barrier, a tag check, a counter step, a rule of the engine or a check of the daemon or
# of the virtual machine, one at a time, in a copy of the tree: each time a test must fail.
#
#     tests/mutants.sh [PATTERN]      only mutants whose name matches the shell pattern
#
# Prints `ok - NAME` where a test failed, `not ok - NAME` where none did, where the edit no longer
# applies, or where the result does not compile. CC and JOBS are taken from the environment.
set -uo pipefail

source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pattern=${1:-*}
killed=0 survived=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

copy() {
    local folder
    mkdir "$scratch/tree" "$scratch/tmp"
    cp -r "$source_dir"/{Makefile,include,libvdisk,scripts,tests,tools,vdiskd,vmm} "$scratch/tree"
    for folder in fuzz backup fuse; do
        [ ! -d "$source_dir/$folder" ] || cp -r "$source_dir/$folder" "$scratch/tree"
    done
}

# crash:N is the power-cut test with N seeds; a scenario is a script; anything else a test program.
program() { echo "${1/#crash:*/test_crash}"; }

build() { # TEST
    local targets=("out/tests/$(program "$1")")
    # They run all programs, and this one guests that a test makes.
    [[ $1 == scenario_* ]] && targets=(all out/tests/test_vm_suspend_ctl)
    [[ $1 == test_vm_suspend_ctl ]] && targets+=(out/bin/vdisk-vmm) # which it runs
    make -C "$scratch/tree" -s -j"${JOBS:-2}" CC="${CC:-gcc}" BUILD=out "${targets[@]}" \
        >"$scratch/build.log" 2>&1
}

run() { # TEST
    local arguments=() limit=$((60 + 20 * ${takes[$1]:-60})) # a machine may be busy
    if [[ $1 == scenario_* ]]; then
        (cd "$scratch/tree" && timeout "$limit" tests/run --build out "tests/$1.sh") >"$scratch/run.log" 2>&1
        return
    fi
    [[ $1 == crash:* ]] && arguments=(--seed 1 --runs "${1#crash:}")
    (cd "$scratch/tree" && VDISK_SRC=$scratch/tree VDISK=$scratch/tree/out/bin/vdisk \
        TMPDIR=$scratch/tmp timeout "$limit" "out/tests/$(program "$1")" "${arguments[@]}") >"$scratch/run.log" 2>&1
} 2>/dev/null # the shell's own word about a program that was killed

report() { # ok|'not ok' NAME [WHY]
    echo "$1 - $2${3:+: $3}"
    if [ "$1" = ok ]; then killed=$((killed + 1)); else survived=$((survived + 1)); fi
}

# Each test passes while nothing is changed; else there is nothing to be learnt from it. How long that
# takes, in seconds, says when one does not end. Where there is no KVM, some leave out what they need.
declare -A takes skips
must_pass() { # TEST
    local begin
    [ -z "${takes[$1]:-}" ] || return 0
    build "$1"
    begin=$SECONDS
    if ! run "$1"; then
        tail -n 20 "$scratch"/*.log
        echo "not ok - without a mutant $1 passes"
        exit 1
    fi
    takes[$1]=$((SECONDS - begin))
    skips[$1]=$(grep -m1 -E 'SKIPPED|# SKIP|[1-9][0-9]* skipped' "$scratch/run.log")
}

# mutant NAME FILE SED TEST...: one of the tests must fail.
mutant() {
    local name=$1 file=$2 edit=$3 tests=("${@:4}") test found=
    # shellcheck disable=SC2053 # a pattern is meant
    [[ $name == $pattern ]] || return 0
    for test in "${tests[@]}"; do must_pass "$test"; done
    cp "$scratch/tree/$file" "$scratch/saved"
    sed -i -E "$edit" "$scratch/tree/$file"
    if cmp -s "$scratch/saved" "$scratch/tree/$file"; then
        report 'not ok' "$name" "the edit does not apply to $file"
        return
    fi
    for test in "${tests[@]}"; do
        if ! build "$test"; then
            report 'not ok' "$name" "does not compile: $(grep -m1 error "$scratch/build.log")"
            found=broken
            break
        fi
        if ! run "$test"; then
            report ok "$name" "found by $(program "$test")"
            found=yes
        fi
        [ -z "$found" ] || break
    done
    if [ -z "$found" ] && [ -n "${skips[${tests[-1]}]}" ]; then
        echo "ok - $name # SKIP ${tests[-1]} is skipped in part"
    elif [ -z "$found" ]; then
        report 'not ok' "$name" "no test failed (${tests[*]})"
    fi
    cp "$scratch/saved" "$scratch/tree/$file"
}

# within FUNCTION EDIT: the edit in the body of one function.
within() { printf '/^[a-z].*[ *]%s\\(/,/^\\}/ { %s }' "$1" "$2"; }

copy

# Read as a whole before anything runs, so that the file may be edited meanwhile.
all_mutants() {
local lib=libvdisk sync

# --- barriers ---

sync='vd_io\(&image->loop, VDISK_IO_SYNC, 0, NULL, 0\)'
mutant 'a flush does not sync' $lib/journal.c "$(within commit_once "s/$sync/0/")" crash:24
mutant 'a checkpoint does not sync before the superblock' $lib/checkpoint.c \
    "$(within write_out "s/$sync/0/")" crash:24
mutant 'no sync between the two superblock slots' $lib/checkpoint.c \
    "$(within write_slot "s/return r \?/return r || block == 2 ?/")" crash:24
mutant 'no sync after the second superblock slot' $lib/checkpoint.c \
    "$(within write_slot "s/return r \?/return r || block != 2 ?/")" crash:60
mutant 'no sync between the two headers' $lib/unlock.c \
    "$(within vd_header_store "s/if \(!r\)$/if (!r \&\& i)/")" crash:60
mutant 'no sync after the second header' $lib/unlock.c \
    "$(within vd_header_store "s/if \(!r\)$/if (!r \&\& !i)/")" crash:60
mutant 'the good superblock slot is written first' $lib/checkpoint.c \
    "$(within write_out 's/i \^ image->superblock_b_first/i/')" crash:60
mutant 'the good header is written first' $lib/unlock.c \
    "$(within vd_header_store 's/i \^ image->header_b_first/i/')" crash:200
mutant 'only one superblock slot is written' $lib/checkpoint.c \
    "$(within write_out 's/i < 2/i < 1/')" crash:24
mutant 'small writes never go into zeroed stretches' $lib/write.c \
    's/want <= VD_BLANK_SMALL/0/' test_journal
mutant 'the record waits for the flush that is expected' $lib/request.c \
    's/^( *)vd_journal_expect\(image\);/\1;/' test_journal
mutant 'overwriting does not make room on a full disk' $lib/write.c \
    "$(within wait_for_room 's/image->alloc.frees.count > 0/0/')" test_faults_space
mutant 'on a full disk nobody waits for what others have' $lib/write.c \
    "$(within wait_for_room 's/image->alloc.promised_blocks == 0/1/')" test_faults_space
mutant 'a flush does not write the journal' $lib/journal.c \
    "$(within commit_once 's/int r = vd_journal_emit\(image\)/int r = 0/')" crash:24
mutant 'a flush does not wait for the sync of others' $lib/journal.c \
    "$(within vd_commit 's/uint64_t upto = c->wanted/uint64_t upto = c->wanted + 1/')" crash:60
mutant 'operations are journalled before their data is written' $lib/write.c \
    "$(within vd_write_piece 's/r = write_runs\(&p\)/r = commit(\&p), !r ? r = write_runs(\&p) : r/
       ; s/^( *)r = commit\(&p\);/\1;/')" crash:24
mutant 'nothing is written into the snapshot before it is taken' $lib/checkpoint.c \
    "$(within run_checkpoint 's/vd_(un)?lock_exclusive\(&image->loop, &image->gate\);/;/')" crash:60

# --- what waits for a checkpoint ---

mutant 'freed blocks are reused before the checkpoint is durable' $lib/checkpoint.c \
    "$(within run_checkpoint 's/r = write_out\(&cp\);/vd_reserve_recycle(image, \&cp.freed), cp.freed.count = 0, r = write_out(\&cp);/')" crash:24
mutant 'the ring is reused before the checkpoint is durable' $lib/checkpoint.c \
    "$(within write_out 's/^    struct vd_group group;/image->journal.used -= cp->journal_used; cp->journal_used = 0; struct vd_group group;/')" test_journal
mutant 'the reserve is not held after opening' $lib/open.c \
    's/r = vd_reserve_adopt\(.*/r = 0;/' test_faults_space
mutant 'the reserve is not in the superblock' $lib/checkpoint.c \
    's/super->reserve_count = vd_reserve_runs\(image, super->reserve\)/super->reserve_count = 0/' \
    test_faults_space

# --- recovery ---

mutant 'recovery does not verify the data of the tail' $lib/recover.c \
    "$(within verify_tail 's/r = verify_op\(rec, &op\)/(void)verify_op(rec, \&op)/')" crash:24
mutant 'recovery verifies nothing from the first durable record on' $lib/recover.c \
    "$(within verify_tail 's/seq < rec->durable/seq >= rec->durable/')" crash:24
mutant 'recovery goes on after a record without its data' $lib/recover.c \
    "$(within verify_tail 's/while \(\*p\) \{/if (*p) {/')" test_journal
mutant 'records claim that they are durable themselves' $lib/journal.c \
    "$(within build_record 's/\.durable = j->durable/.durable = j->seq + 1/')" crash:24
mutant 'records never tell what is durable' $lib/journal.c \
    "$(within build_record 's/\.durable = j->durable/.durable = 0/')" test_tamper crash:24
mutant 'damage to a durable record is accepted' $lib/recover.c \
    "$(within refuse_damage 's/if \(damaged\)/if (0)/')" test_tamper
mutant 'damage before a durable record is not looked for' $lib/recover.c \
    "$(within refuse_damage 's/damaged = found && .*/damaged = false;/')" test_tamper
mutant 'the first epoch counts as durable before it is' $lib/checkpoint.c \
    "$(within new_epoch 's/(j->seq \+= .*;)/\1 j->durable = j->seq;/')" test_outlives
mutant 'writes do not outlive the process' $lib/request.c \
    's/request->outlives \? vd_journal_keep\(image\) : 0/0/' test_outlives
mutant 'a record is written again after it became durable' $lib/journal.c \
    "$(within emit_now 's/if \(!keep\)/if (0)/')" test_outlives crash:200
mutant 'the record is never written beside its data' $lib/request.c \
    's/bool lead = .*/bool lead = false;/' test_journal
mutant 'a record stays whose data did not arrive' $lib/journal.c \
    "$(within take_back 's/j->rewrite = true;/;/')" test_journal
mutant 'a flush does not wait for data whose record is written' $lib/journal.c \
    "$(within emit 's/while \(image->journal.leading\)/if (0)/')" test_journal crash:200
mutant 'a record before its data replaces what was promised' $lib/journal.c \
    "$(within vd_journal_may_lead 's/j->loose_bytes == 0 &&//')" test_journal
mutant 'a record that is written again names itself as the one before' $lib/journal.c \
    "$(within take_last 's/memcpy\(j->prev_tag.*;/;/')" test_outlives
mutant 'a record that is written again keeps its number' $lib/journal.c \
    "$(within take_last 's/j->used--;/j->used--; j->seq--;/')" test_outlives
mutant 'the chain of record tags is ignored' $lib/recover.c \
    "$(within read_chain 's/memcmp\(found->record.prev_tag, j->prev_tag, VD_TAG_BYTES\) != 0 \|\|//')" test_tamper
mutant 'recovery does not count what records use' $lib/recover.c \
    's/int r = vd_alloc_use_load\(image, op->block, blocks\)/int r = 0; (void)blocks/' crash:24
mutant 'recovery reads behind what it has of the ring' $lib/recover.c \
    "$(within look 's/at \+ blocks > rec->in_window/at >= rec->in_window/')" test_journal
mutant 'recovery does not read on at the beginning of the ring' $lib/recover.c \
    "$(within look 's/!r && first < count/0/')" test_journal
mutant 'recovery ignores cleared ranges' $lib/recover.c \
    's/op->type == VD_OP_HOLE,$/op->type == VD_OP_HOLE \&\& 0,/; s/if \(op->type == VD_OP_ZERO \|\| op->type == VD_OP_HOLE\)/if (op->type == VD_OP_ZERO || op->type == VD_OP_HOLE) return 0; if (0)/' crash:24
mutant 'the older superblock is chosen' $lib/open.c \
    "$(within load_superblock 's/ra \|\| b->generation > image/ra || b->generation < image/')" crash:24

# --- tags ---

mutant 'opening skips the comparison of tags' $lib/crypto.c \
    "$(within vd_open 's/vd_verify\([^)]*\)/0/')" test_crypto
mutant 'verifying skips the comparison of tags' $lib/crypto.c \
    "$(within vd_verify 's/sodium_memcmp\(computed, tag, sizeof\(computed\)\)/0/')" test_crypto
mutant 'data is bound to no address' $lib/read.c 's/context\.address = .*/context.address = 0;/' \
    crash:1
mutant 'the header is not authenticated' $lib/unlock.c \
    's/if \(!r && vd_header_verify\(.*\)\)/if (0)/' test_forged

# --- counters ---

mutant 'stamps do not advance' $lib/image.c 's/image->stamp \+= count;/;/' crash:24
mutant 'a run of blocks takes one stamp' $lib/image.c \
    's/image->stamp \+= count;/image->stamp += 1;/' crash:60
mutant 'sequence numbers do not advance' $lib/journal.c \
    "$(within build_record 's/j->seq\+\+;/;/')" crash:24
mutant 'the place in the ring does not advance' $lib/journal.c \
    "$(within build_record 's/j->pos = .*;/;/')" crash:24
mutant 'epochs do not advance' $lib/checkpoint.c \
    "$(within new_epoch 's/super->epoch \+ 1;/super->epoch + (super->epoch == 0);/')" \
    test_tamper crash:60
mutant 'the salt of an epoch is not fresh' $lib/checkpoint.c \
    "$(within new_epoch 's/randombytes_buf\(super->epoch_salt, VD_SALT_BYTES\);/super->epoch_salt[0] |= 1;/')" test_forged
mutant 'the generation does not advance' $lib/checkpoint.c 's/super->generation\+\+;/;/' crash:24

# --- who owns what ---

mutant 'the live state owns what its parent has: data' $lib/map.c \
    "$(within drop_extent 's/stamp > vd_parent_stamp/stamp + 1000 > vd_parent_stamp/')" crash:60
mutant 'the live state owns nothing: data' $lib/map.c \
    "$(within drop_extent 's/stamp > vd_parent_stamp\(([^;]*)\)\)$/stamp > vd_parent_stamp(\1) + 8)/')" crash:60
mutant 'the live state owns what its parent has: nodes' $lib/checkpoint.c \
    "$(within drop_old 's/ref\.stamp <= /ref.stamp < /')" crash:60
mutant 'a deletion under way: the parent below the cursor' $lib/map.c \
    "$(within vd_parent_stamp 's/return image->deleting_parent_stamp;/return super->parent_stamp;/')" crash:200
mutant 'a deletion under way: the cursor, too far' $lib/map.c \
    "$(within vd_parent_stamp 's/leaf_end <= super->delete_cursor/leaf_end <= super->delete_cursor + 1/')" crash:200
mutant 'a deletion under way: the cursor, not far enough' $lib/map.c \
    "$(within vd_parent_stamp 's/leaf_end <= super->delete_cursor/leaf_end < super->delete_cursor/')" crash:200
mutant 'a deletion frees what the parent has' $lib/reap.c \
    's/ && !has_raw\(other\[0\], i, b->stamp\)//; s/!has_zstd\(other\[0\], c, z->stamp\) && //' crash:60
mutant 'a deletion frees what the child has' $lib/reap.c \
    's/!has_raw\(other\[1\], i, b->stamp\)/1/; s/!has_zstd\(other\[1\], c, z->stamp\)/1/' crash:60
mutant 'a snapshot with two children is deleted' $lib/reap.c \
    's/s->children <= 1/s->children <= 2/' crash:200
mutant 'a child keeps the deleted parent' $lib/reap.c \
    "$(within reparent_one 's/snap->parent = p->to;/;/')" crash:60
mutant 'a snapshot has a stamp that was never taken' $lib/snapshot.c \
    "$(within add_record 's/\(void\)vd_stamp_take\(image, 1\);/;/')" test_reap
mutant 'a step of a deletion is long while others wait' $lib/reap.c \
    's/image->loop\.coroutines == 1/true/' test_reap
mutant 'a deletion that was cut short does not find its parent again' $lib/open.c \
    's/r = vd_snapshot_resume\(image\)/r = 0/' test_reap
mutant 'a smaller drive keeps what lay beyond' $lib/resize.c \
    's/r = vd_do_clear\(.*/r = 0;/' crash:60

# --- backups ---

mutant 'an object begins where it was not written' backup/store_dir.c \
    's/lseek\(fd, \(off_t\)direct, SEEK_SET\)/lseek(fd, 0, SEEK_SET)/' test_backup_store
mutant 'an object lacks what was not written directly' backup/store_dir.c \
    's/write_all\(fd, at \+ direct, bytes - direct\)/write_all(fd, at, bytes - direct)/' test_backup_store
mutant 'blocks that are zeros stay in the bitmap of a patch' backup/create_chunk.c \
    "$(within leave_out_zeros 's/bitmap\[block \/ 8\] &= .*/;/')" test_backup_model
mutant 'the base of all zeros is not stored' backup/create_chunk.c \
    "$(within use_zero_base 's/if \(result > 0\)/if (result > 1)/')" test_backup_model

# --- what a guest may not reach ---

mutant 'a chain begins with a descriptor that is none' vdiskd/vring_split.c \
    "$(within vring_split_collect 's/at >= size \|\| //')" test_vring
mutant 'a chain goes on with a descriptor that is none' vdiskd/vring_split.c \
    "$(within vring_split_collect 's/if \(at >= size\)/if (0)/')" test_vring
mutant 'a chain is taken while it is in flight' vdiskd/vring_split.c \
    "$(within vring_split_collect 's/ \|\| ring->busy.*1u << at % 8\)/)/')" test_vring
mutant 'a split ring has more to fetch than it holds' vdiskd/vring_split.c \
    "$(within vring_split_fetch 's/waiting > ring->config.size/0/')" test_vring
mutant 'a packed ring has more in flight than it holds' vdiskd/vring_packed.c \
    "$(within vring_packed_collect 's/ring->slots_in_flight \+ count > ring->config.size/0/')" \
    test_vring
mutant 'an indirect table goes on past its end' vdiskd/vring_chain.c \
    "$(within add_split_table 's/at >= count/0/')" test_vring
mutant 'a chain has more segments than there is room for' vdiskd/vring_chain.c \
    "$(within vring_chain_add 's/count >= VRING_SEGMENTS_MAX \|\| //')" test_vring
mutant 'a copy goes on past the end of a memory region' vdiskd/vhost_memory.c \
    "$(within find 's/\*length > region->size - at/0/')" test_vring
mutant 'a ring goes on past the end of a memory region' vdiskd/vhost_memory.c \
    "$(within vhost_memory_user 's/ && length <= region->size - at//')" test_vring
mutant 'memory regions overlap' vdiskd/vhost_memory.c \
    "$(within overlap 's/return .*;/return a - a_size + b - b_size == 1;/')" test_vring
mutant 'a memory region is longer than its file' vdiskd/vhost_mapping.c \
    's/ \|\| \(uint64_t\)about.st_size < end//' test_vring

# --- what a client or an operator may not do ---

mutant 'a payload of any length is taken' vdiskd/nbd_request.c \
    "$(within nbd_request_check 's/request->length > NBD_PAYLOAD_MAX/0/')" test_nbd_proto
mutant 'a request goes on past the end of the drive' vdiskd/nbd_request.c \
    "$(within nbd_request_check 's/ \|\| request->length > terms->size - request->offset//')" \
    test_nbd_proto
mutant 'a read-only export is written to' vdiskd/nbd_request.c \
    "$(within nbd_request_check 's/is_change && terms->read_only/0/')" test_nbd_proto
mutant 'a client goes on without the TLS that is required' vdiskd/nbd_handshake.c \
    "$(within answer 's/bool needs_tls = .*/bool needs_tls = false;/')" test_nbd_server
mutant 'who may only look may change' vdiskd/control.c \
    's/peer->role < request->command->role/0/' test_control
mutant 'who is not listed may look' vdiskd/control_access.c \
    "$(within control_role_of 's/: CONTROL_NOBODY/: CONTROL_VIEWER/')" test_control
mutant 'a line of the audit log is not bound to those before it' tools/auditlog.c \
    "$(within hash_line '/chain->head/d')" test_audit
mutant 'the hash of a line of the audit log is not compared' tools/auditlog.c \
    "$(within take_line 's/sodium_memcmp\(said, hash, sizeof\(hash\)\)/0/')" test_audit
mutant 'the chain does not go back with a line that was not written' vdiskd/audit.c \
    "$(within put_line 's/^( *)audit->chain = before;/\1;/')" test_audit
mutant 'what came while it asked to be woken is slept on' vdiskd/reactor_rest.c \
    "$(within reactor_rest 's/collect\(reactor, reactor_is_idle\(reactor\)\)/collect(reactor, true)/')" \
    test_reactor_rest
mutant 'an idle reactor looks around for ever' vdiskd/reactor_rest.c \
    "$(within judge 's/waited <= reactor->poll_max/1/')" test_reactor_rest
mutant 'a reactor never looks around' vdiskd/reactor_rest.c \
    "$(within reactor_rest 's/reactor->poll_window > 0/0/')" test_reactor_rest
mutant 'a reactor works off all that has ended in one go' vdiskd/reactor_uring.c \
    's/(#define REAP_MAX) .*/\1 1000/' test_reactor_rest
mutant 'a reactor looks around while workers compute' vdiskd/reactor_rest.c \
    "$(within poll_until 's/is_crowded\(reactor\) \|\| //')" test_reactor_rest
mutant 'workers do not tell who sleeps' tools/workers.c \
    "$(within vd_workers_tell 's/= !tell/= true/')" test_workers
mutant 'who falls asleep is not told of jobs that have ended' tools/workers.c \
    "$(within vd_workers_tell 's/= pool->ended.head != NULL/= false/')" test_workers
mutant 'a continued audit log does not say what it goes on from' vdiskd/audit.c \
    '/auditlog_before\(&audit/d' test_audit
mutant 'of the groups of a peer only the first counts' vdiskd/control_access.c \
    "$(within control_role_at 's/length . sizeof\(\*groups\) \+ 1/1/')" test_control
mutant 'damage that is found in the background is not told' vdiskd/export.c \
    "$(within export_pump '/look_for_damage/d')" test_exports
mutant 'data of clients is taken beyond the budget' vdiskd/budget.c \
    's/bytes == 0 \|\| may_have/1 || may_have/' test_budget
mutant 'what an export holds while it waits keeps others waiting' vdiskd/budget.c \
    "$(within set_aside 's/group->held - group->aside;/0;/')" test_budget
mutant 'an export that waits for its limit does not tell the budget' vdiskd/export.c \
    "$(within export_note_waits 's/export->limited\.head \|\| //')" test_nbd_memory
mutant 'a request that a disk kept waiting is counted for ever' vdiskd/export.c \
    "$(within export_finish 's/export_delay_over\(request\);/{}/')" test_export_policy
mutant 'requests are charged half of what they cost' vdiskd/limit.c \
    "$(within claim 's/\.cost = (.*),$/.cost = \1 \/ 2,/')" test_limit
mutant 'a process that was stopped makes up for hours' vdiskd/limit.c \
    "$(within limit_take 's/larger\(ready, at - LATE_MAX\)/ready/')" test_limit
mutant 'jobs that wait for storage hold others up' tools/workers.c \
    "$(within pool_submit 's/job->blocks && //; s/submit_slow\(pool, job\)/0/')" test_workers
mutant 'what was written is filled over' libvdisk/fill.c \
    "$(within fill_holes 's/live_hole_next\(image, from, end, &from, &to\)/(to = end, 0)/')" \
    test_fill crash:10
mutant 'a hole that shows a source is made by a discard' libvdisk/map.c \
    "$(within clear 's/!image->super->overlay/image->super->overlay != VD_OVERLAY_IMAGE/')" test_fill
mutant 'an image is detached that is not filled' libvdisk/detach.c \
    "$(within check_state 's/from == UINT64_MAX/1/')" test_fill crash:10
mutant 'what a source cannot give reads as zeros' libvdisk/source.c \
    "$(within vd_read_source 's/return there \? ask\(image, &q\) : 0/(void)ask(image, \&q); return 0/')" test_fill
mutant 'any source will do' libvdisk/source.c \
    "$(within vd_source_open 's/memcmp\(want->image_id, source->id, VD_ID_BYTES\) != 0/0/; s/memcmp\(want->root_tag, source->id \+ VD_ID_BYTES, VD_TAG_BYTES\) != 0/0/')" \
    test_fill
mutant 'what a source has and is not here is told to be zeros' libvdisk/walk.c \
    "$(within map_source 's/VDISK_EXTENT_MISSING/VDISK_EXTENT_HOLE/')" test_fill
mutant 'a read keeps nothing of what it has cost' libvdisk/read.c '/vd_fill_behind\(image/d' test_fill
mutant 'the old end of the drive shows what the source has' libvdisk/fill.c \
    "$(within fill_locked '/end_drive/d')" test_fill
mutant 'a write keeps what the source has behind the end of the drive' libvdisk/write_bytes.c \
    "$(within read_block '/end_drive/d')" test_fill
mutant 'what an image has changed itself is not looked at' backup/image_diff.c \
    "$(within take_extent 's/return collect.*/(void)opaque; (void)extent; return true;/')" test_backup_image
mutant 'what lies between two backups is not looked at' backup/image_diff.c \
    "$(within take_range 's/return collect.*/(void)opaque; return true;/')" test_backup_image
mutant 'anybody says what an image had' backup/drive_image.c \
    "$(within vb_image_base 's/!\(vb_repo_trusts/!(1 || vb_repo_trusts/')" test_backup_image
mutant 'a chunk is there whatever its id' backup/backup_restore.c \
    "$(within is_there 's/return vb_id_equal.*/return true;/')" test_backup_image
mutant 'zeros over an image are left out' backup/in_place.c \
    "$(within present_zeros 's/vdisk_discard\(.*\)/0/')" test_backup_image
mutant 'a restore that fails leaves what it wrote' backup/in_place.c \
    "$(within restore_over 's/put_back\(.*/(void)0;/')" test_backup_image
mutant 'any image is restored over' backup/in_place.c \
    "$(within check_drive 's/options->other_drive \|\|/1 ||/')" test_backup_image
mutant 'a group is served in the order of coming' vdiskd/limit.c \
    "$(within must_yield 's/return true;/return false;/')" test_limit

# --- what a guest may do to its devices ---

mutant 'memory goes on past the end of a region' vmm/memory.c \
    "$(within vm_memory_at 's/ && length <= region->size - at//')" test_vm_memory
mutant 'who the memory is shared with can cut it short' vmm/memory.c \
    's/F_SEAL_SHRINK \| //' test_vm_memory
mutant 'an access reaches a device that has a part of it' vmm/bus.c \
    "$(within find 's/address - range->base > range->length - size/address - range->base >= range->length/')" \
    test_vm_bus
mutant 'a register has any size' vmm/virtio_mmio.c \
    "$(within is_register 's/ && size == 4//')" test_vm_virtio_mmio
mutant 'the configuration has no end' vmm/virtio_mmio.c \
    "$(within is_config 's/device->config_bytes - size;/CONFIG_BYTES - size;/')" test_vm_virtio_mmio
mutant 'the size of a queue that is none is read' vmm/virtio_mmio.c \
    "$(within read_queue 's/>= device->queues/>= VIRTIO_QUEUES_MAX/')" test_vm_virtio_mmio
mutant 'a queue that is none is set up' vmm/virtio.c \
    "$(within virtio_can_set_queue 's/queue < device->queues/queue < VIRTIO_QUEUES_MAX/')" test_vm_virtio_mmio
mutant 'a queue that is in use is set up' vmm/virtio.c \
    "$(within virtio_can_set_queue 's/ \&\& !device->queue\[queue\]\.ready//')" test_vm_virtio_mmio
mutant 'a queue is set up before the features' vmm/virtio.c \
    "$(within virtio_can_set_queue 's/\(device->status & VIRTIO_CONFIG_S_FEATURES_OK\) \&\&//')" \
    test_vm_virtio_mmio
mutant 'a queue has any size' vmm/virtio.c \
    "$(within virtio_is_size 's/ \&\& size <= device->queue_max//')" test_vm_virtio_mmio
mutant 'a queue has a size that is no power of two' vmm/virtio.c \
    "$(within virtio_is_size 's/!\(size & \(size - 1\)\)/true/')" test_vm_virtio_mmio
mutant 'features are accepted that are not offered' vmm/virtio.c \
    "$(within are_features_fit 's/!\(device->accepted & ~device->offered\)/true/')" test_vm_virtio_mmio
mutant 'features are accepted that there are not' vmm/virtio.c \
    "$(within are_features_fit 's/ \&\& !device->accepted_beyond//')" test_vm_virtio_mmio
mutant 'features change when they are settled' vmm/virtio.c \
    "$(within virtio_can_set_features 's/!\(device->status/(1 | device->status/')" test_vm_virtio_mmio
mutant 'a device starts before its features are settled' vmm/virtio.c \
    "$(within virtio_set_status 's/steps\[i\] == VIRTIO_CONFIG_S_FEATURES_OK \&\& //')" test_vm_virtio_mmio
mutant 'a device that failed goes on' vmm/virtio.h \
    "$(within virtio_serves 's/ \&\& !.*;/;/')" test_vm_virtio
mutant 'a queue outside of memory is served' vmm/queue.c \
    "$(within start_queue 's/^( *)rc = (vring_resolve.*);/\1(void)\2; rc = 0;/')" \
    test_vm_virtio test_vm_net_hostile

# --- resets, pauses ---

mutant 'a reset leaves queues as they were' vmm/virtio.c \
    "$(within reset '/memset/d')" test_vm_virtio test_vm_virtio_mmio
mutant 'a reset leaves an interrupt' vmm/virtio.c \
    "$(within reset 's/device->status = device->interrupts = 0/device->status = 0/')" \
    test_vm_virtio test_vm_virtio_mmio
mutant 'a reset leaves the place in a queue' vmm/queue.c \
    "$(within vm_queues_stop 's/if \(!keep\)/if (0)/')" test_vm_virtio
mutant 'a pause forgets the place in a queue' vmm/queue.c \
    "$(within vm_queues_stop 's/if \(!keep\)/if (1)/')" test_vm_virtio
mutant 'a paused device interrupts' vmm/virtio.c \
    "$(within signal_driver 's/!device->paused/1/')" test_vm_virtio
mutant 'what came up in a pause is not told' vmm/virtio.c \
    "$(within virtio_resume 's/if \(device->interrupts\)/if (0)/')" test_vm_virtio
mutant 'what was asked while nobody looked is forgotten' vmm/virtio.c \
    "$(within start '/kick_ready/d')" test_vm_virtio
mutant 'a drive that is begun anew has the requests of before' vmm/blk_minder.c \
    "$(within comply 's/^( *)reset\(blk\);/\1;/')" test_vm_blk test_vm_blk_away
mutant 'a drive stops with requests under way' vmm/blk_minder.c \
    "$(within stop 's/drain\(blk, &error\)/0/')" test_vm_blk test_vm_blk_away
mutant 'a smaller drive is the same' vmm/blk_minder.c \
    "$(within difference 's/theirs->capacity < ours\.capacity/0/')" test_vm_blk_away
mutant 'a drive that became read-only is the same' vmm/blk_minder.c \
    "$(within difference 's/if \(\(has \^ .*/if (0)/')" test_vm_blk_away
mutant 'a drive with queues outside of memory is begun' vmm/virtio_blk.c \
    "$(within take_rings 's/rc = vring_resolve\((.*)\);/(void)vring_resolve(\1);/')" test_vm_blk
mutant 'an answer to another question is one' vmm/vhost_front.c \
    "$(within receive_answer 's/answer->request != request \|\| //')" test_vm_vhost_front
mutant 'an answer of any length is taken' vmm/vhost_front.c \
    "$(within receive_message 's/message->size > sizeof\(message->bytes\)/0/')" test_vm_vhost_front
# --- networks, sockets, memory that is given back ---

mutant 'a frame is cut up though that was not accepted' vmm/virtio_net_out.c \
    "$(within is_segmentation_fit 's/ \&\& virtio_has\(device, VIRTIO_NET_F_HOST_TSO4\)//')" \
    test_vm_net_tap
mutant 'a guest gets into another VLAN with a tag of its own' vmm/virtio_net_out.c \
    "$(within read_frame 's/net_vlan_is_tagged\(out->frame\) \|\| //')" test_vm_net
mutant 'a guest hears other VLANs' vmm/virtio_net_in.c \
    "$(within accept_frame 's/net_vlan_of\(.*\) != net->vlan/0/')" test_vm_net
mutant 'a frame is longer than it may be' vmm/virtio_net_out.c \
    "$(within is_size_fit 's/return length <= NET_FRAME_MAX.*/return true;/')" test_vm_net_hostile
mutant 'a guest speaks as somebody else' vmm/vsock_conns.c \
    "$(within vsock_conns_take 's/header->src_cid != conns->options.cid/0/')" test_vm_vsock_hostile
mutant 'a guest is sent more than it takes' vmm/vsock_credit.h \
    "$(within vsock_credit_left 's/return .*/return credit->alloc + 0 * under_way;/')" test_vm_vsock_parts
mutant 'a guest does not hear that it may go on' vmm/vsock_credit.h \
    "$(within vsock_credit_is_news 's/return .*/return credit->alloc == 12345;/')" test_vm_vsock_parts test_vm_vsock
mutant 'a guest sends more than it may' vmm/vsock_buffer.c \
    "$(within vsock_buffer_add 's/length > VSOCK_BUFFER_BYTES - buffer->length/0/')" test_vm_vsock_parts
mutant 'a guest goes on after its end' vmm/vsock_conn.c \
    "$(within take_data 's/conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND \|\|//')" test_vm_vsock_hostile
mutant 'answers to nothing are kept without bounds' vmm/vsock_conns.c \
    "$(within refuse 's/ \|\| conns->refusals == VSOCK_REFUSALS_MAX//'); $(within vsock_conns_can_take 's/return .*/return true;/')" test_vm_vsock_hostile
mutant 'a restored guest believes in its connections' vmm/virtio_vsock.c \
    "$(within load 's/vsock->owes_event = .*/vsock->owes_event = false;/')" test_vm_vsock_ends
mutant 'memory is given back that there is not' vmm/virtio_balloon.c \
    "$(within region_of 's/ \&\& length <= region->size - at//')" test_vm_balloon
mutant 'a list of pages has any length' vmm/virtio_balloon.c \
    "$(within inflate 's/chain->readable_bytes > sizeof\(page\) \|\|//')" test_vm_balloon
mutant 'ranges are given back by a driver that cannot' vmm/virtio_balloon.c \
    "$(within report 's/ \|\| !virtio_has.*\)\)$/)/')" test_vm_balloon
mutant 'firmware is given what is not its memory' vmm/fw_cfg.c \
    "$(within start_dma 's/sizeof\(struct dma_access\)/1/')" test_vm_fw_cfg

# --- what a saved guest may be ---

mutant 'a saved device has a status that no steps lead to' vmm/virtio_state.c \
    "$(within is_status 's/return .*/return true ||/')" test_vm_virtio
mutant 'a saved device has features that are not offered' vmm/virtio_state.c \
    "$(within is_served 's/features & ~device->offered \|\| //')" test_vm_virtio test_vm_net
mutant 'a saved queue has any size' vmm/virtio_state.c \
    "$(within is_served 's/!virtio_is_size\(.*\)\)/0)/')" test_vm_virtio
mutant 'a saved place in a queue is any number' vmm/queue.c \
    "$(within vm_queues_load 's/ \|\|$/ || 0/; s/^ *json_integer_value\(base\) > UINT16_MAX\)/)/')" test_vm_virtio
mutant 'requests that are away with a back end are saved' vmm/virtio_blk.c \
    "$(within save 's/if \(blk->rings\.orphaned\)/if (0)/')" test_vm_blk_away
mutant 'a drive is smaller than when its guest was saved' vmm/virtio_blk.c \
    "$(within load 's/is_smaller = .*/is_smaller = false;/')" test_vm_blk_away test_vm_blk
mutant 'a stream may lack memory' vmm/vm_stream.c \
    "$(within vm_stream_read_memory 's/offset == sum \?/1 ?/')" test_vm_suspend
mutant 'a stream has memory that the guest has not' vmm/vm_stream.c \
    "$(within ram_at 's/ \&\& length <= region->size - at//')" test_vm_suspend
mutant 'a stream may have a page twice' vmm/vm_stream.c \
    "$(within vm_stream_read_memory 's/ \|\| offset < next//')" test_vm_suspend
mutant 'a stream is of another version' vmm/vm_stream.c \
    "$(within vm_stream_read_head 's/get32\(head \+ 8\) != VM_STREAM_VERSION/0/')" test_vm_suspend
mutant 'a stream has a text of any length' vmm/vm_stream.c \
    "$(within vm_stream_read_head 's/length > VM_STREAM_TEXT_MAX/0/')" test_vm_suspend
mutant 'a guest goes on with other devices' vmm/vm_state.c \
    "$(within check_device 's/id != \(json_int_t\)device->id/0/')" test_vm_suspend
mutant 'a guest goes on with less memory' vmm/vm_state.c \
    "$(within check 's/\(uint64_t\)memory != parts->memory->size/0/')" test_vm_suspend
mutant 'a guest goes on with other images' tools/restore.c \
    "$(within check_identity 's/!is_hex_of\(.*info\.image_id\)/0/')" scenario_vm_suspend
mutant 'a guest goes on with a drive that moved on' tools/restore.c \
    "$(within check_live 's/if \(changed\)/if (0)/')" scenario_vm_suspend
mutant 'a guest goes on with another snapshot of that name' tools/restore.c \
    "$(within check_snapshot 's/ \|\| info\.id != \(uint64_t\)id//')" scenario_vm_suspend
mutant 'a guest goes on with a read-only drive that was changed' tools/restore.c \
    "$(within check_root 's/if \(is_hex_of.*/if (info.root_tag[0] || 1)/')" scenario_vm_suspend
mutant 'a guest goes on with what is not all of it' tools/statefile.c \
    "$(within read_header 's/memcmp\(header, MAGIC, MAGIC_BYTES\) != 0/0/')" scenario_vm_suspend

# --- what is read ahead of a drive that is written ---

mutant 'a change is not forgotten by who reads ahead' fuse/read_ahead.c \
    "$(within read_ahead_change 's/^( *)drop\(piece\);/\1;/')" test_read_ahead
mutant 'what was changed is found while it is read ahead' fuse/read_ahead.c \
    "$(within find 's/!piece->dropped/true/')" test_read_ahead
mutant 'a piece is read ahead into while it is handed out' fuse/read_ahead.c \
    "$(within put_away 's/ \&\& piece->users == 0//')" test_read_ahead
mutant 'what could not be read ahead is handed out' fuse/read_ahead.c \
    "$(within read_ahead_over 's/if \(failed\)/if (0)/')" test_read_ahead
mutant 'who reads ahead does not hear of changes' fuse/backing_engine.c \
    "$(within post 's/op != VDISK_FLUSH\)/0)/')" scenario_fuse_write

# --- what a backup takes for unchanged ---

mutant 'a backup goes on from another snapshot of that name' backup/drive_snapshots.c \
    "$(within vb_snapshots_have 's/ \&\& info->id == manifest->snapshot_id//; s/memcmp\(info->root_tag.*\) == 0/1/')" \
    scenario_backup_served
mutant 'a backup of an export leaves what has become zeros' backup/drive_nbd.c \
    "$(within nbd_next 's/of->context \|\| //')" scenario_backup_nbd
mutant 'a bitmap is one against any size' tools/backup_from.c \
    "$(within check_bitmap 's/last->manifest\.size != manifest->size/0/')" scenario_backup_nbd
mutant 'a bitmap is one against either of two backups' tools/backup_from.c \
    "$(within check_bitmap 's/!is_alone\(.*last\)/0/')" scenario_backup_nbd
mutant 'a bitmap goes on from what another host could have forged' tools/backup_from.c \
    "$(within check_bitmap 's/!vb_repo_trusts\(.*signer\)/0/')" scenario_backup_nbd
mutant 'a backup that fails leaves its snapshot' backup/drive_served.c \
    "$(within vb_served_close 's/done \?/1 ?/')" scenario_backup_served
}

# In one piece as well: the shell reads it before it begins.
{
    all_mutants
    echo "$killed mutants were found by a test, $survived were not"
    [ "$survived" -eq 0 ] && [ "$killed" -gt 0 ]
    exit
}
