#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What is installed, and that what it tells is so: manuals, completion, units, the example of a
# configuration, and the README's commands for the service.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"

files=(
    bin/vdisk bin/vdiskd bin/vdisk-fuse
    share/man/man1/vdisk.1 share/man/man8/vdiskd.8 share/man/man8/vdisk-vmm.8
    share/man/man8/vdisk-fuse.8
    share/bash-completion/completions/vdisk share/bash-completion/completions/vdiskd
    share/bash-completion/completions/vdisk-fuse
    lib/systemd/system/vdiskd.service lib/systemd/system/vdiskd.socket lib/sysusers.d/vdiskd.conf
    share/doc/vdisk/vdiskd.json share/doc/vdisk/control.md share/doc/vdisk/vmm-control.md
)
root=$PWD/root/usr
t 'it is installed' make -s -C "$VDISK_SRC" -o all BUILD="$VDISK_BUILD" install DESTDIR="$PWD/root" PREFIX=/usr
missing=()
for file in "${files[@]}"; do [ -s "$root/$file" ] || missing+=("$file"); done
is 'all of it' "${missing[*]}" ''

# ---- manuals and completion name every option ----

undocumented() { # MANUAL COMMAND...: its options that the manual does not name
    local option
    "${@:2}" --help | sed -n 's/^  --\([a-z][a-z-]*\).*/\1/p' | while read -r option; do
        grep -qF -- "\\-\\-${option//-/\\-}" "$root/share/man/$1" || echo "$option"
    done
}
is 'the manual of vdiskd has each option' "$(undocumented man8/vdiskd.8 vdiskd)" ''
[ ! -x "$VDISK_BUILD/bin/vdisk-vmm" ] || is 'that of vdisk-vmm those of vdisk-vmm' "$(undocumented man8/vdisk-vmm.8 vdisk-vmm)" ''
is 'that of vdisk-fuse those of vdisk-fuse' "$(undocumented man8/vdisk-fuse.8 vdisk-fuse)" ''
for command in serve run ctl mount 'audit verify'; do
    # shellcheck disable=SC2086  # words
    is "and that of vdisk those of $command" "$(undocumented man1/vdisk.1 vdisk $command)" ''
done
# shellcheck disable=SC2016  # backquotes of Markdown
requests=$(sed -n 's/^| `\([a-z`, -]*\)` |.*/\1/p' "$root/share/doc/vdisk/control.md" | tr -d '`,')
for request in $requests; do
    grep -qF "${request//-/\\-}" "$root/share/man/man1/vdisk.1" || echo "#   not in the manual: $request"
    vdisk ctl --help | grep -q -- "$request" || echo "#   not in --help: $request"
done >.err
is 'every request is in manual and help' "$(cat .err)" ''
completes() { # WORDS: what is offered for the last of them
    bash -c '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vdisk; echo "${COMPREPLY[*]}"' \
        _ "$root/share/bash-completion/completions/vdisk" "$@"
}
is 'requests are completed' "$(completes vdisk ctl group-)" 'group-list group-limits-get group-limits-set'
is 'those of a machine too' "$(completes vdisk ctl --vm web su)" suspend
is 'options as well' "$(completes vdisk serve --vh)" --vhost-user
is 'of all requests' "$(completes vdisk ctl '' | wc -w)" "$(wc -w <<<"$requests")"

# ---- the units ----

if command -v systemd-analyze >/dev/null; then
    sed "s|/usr/bin/vdiskd|$root/bin/vdiskd|" "$root/lib/systemd/system/vdiskd.service" >vdiskd.service
    cp "$root/lib/systemd/system/vdiskd.socket" .
    systemd-analyze verify ./vdiskd.service ./vdiskd.socket >.out 2>&1
    is 'systemd understands the units' "$(grep 'vdiskd\.' .out | grep -v "Command 'man")" ''
    lets_through() {
        python3 - <<'PYTHON'
import os, re, subprocess
def group(name):
    text = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, text=True,
                          stdout=subprocess.PIPE).stdout
    words = [line.strip() for line in text.splitlines()[1:]]
    return set().union(*(group(word) if word[0] == "@" else {word}
                         for word in words if word and word[0] != "#"))
allowed = set()
for line in open("vdiskd.service", encoding="utf-8"):
    if found := re.fullmatch(r"SystemCallFilter=(~?)(.*)\n", line):
        named = set().union(*(group(word) if word[0] == "@" else {word} for word in found[2].split()))
        allowed = allowed - named if found[1] else allowed | named
source = open(os.environ["VDISK_SRC"] + "/vdiskd/confine_syscalls.c", encoding="utf-8").read()
own = set(re.findall(r'^    "(\w+)",$', source, re.M))
need = own | {"seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
              "setrlimit", "socket", "ioctl", "prctl", "mmap", "mprotect"}
assert len(own) > 100 and need <= allowed, need - allowed
PYTHON
    }
    t "the unit lets through what the daemon's own filter lets through" lets_through
else
    skip 'the units' 'there is no systemd-analyze'
fi

# ---- the example of a configuration ----

mkdir etc lib log run
sed "s|/etc/vdiskd|$PWD/etc|; s|/var/lib/vdiskd|$PWD/lib|; s|/var/log/vdiskd|$PWD/log|; s|/run/vdiskd|$PWD/run|
     s|@vdiskd|@$(id -g)|; s|127.0.0.1:9851|127.0.0.1:0|" "$root/share/doc/vdisk/vdiskd.json" >vdiskd.json
cp key etc/vm1.key
vdisk key generate etc/archive.identity 2>.err
vdisk create lib/vm1.vdk --size 4M
vdisk create lib/archive.vdk --size 4M --recipient etc/archive.identity.pub
t 'the example is a good configuration' up "$root/bin/vdiskd" --config vdiskd.json
json 'of two exports' "[e['name'] for e in d] == ['archive', 'vm1'] and d[1]['vhost_user']" \
    vdisk ctl --socket run/control/socket export-list
down 'it ends'

# ---- the README ----

sed -n '/^## A service/,/^A virtual/p' "$VDISK_SRC/README.md" | sed -n 's/^    //p' >commands
is 'the README has commands' "$(($(wc -l <commands) > 8))" 1
mkdir readme
: >.server
(
    cd readme || exit 1
    set -e
    awk '{ print } /&$/ { print "until grep -q event=ready ../.server; do sleep 0.05; done" }' \
        ../commands >script
    # shellcheck disable=SC1091
    . ./script
) >told 2>>.server </dev/null
status=$?
[ $status = 0 ] || sed 's/^/#   server: /' .server
verdict 'which work, from the first to the last' $status
t 'the last says that the log is good' grep -q 'lines are good' told
