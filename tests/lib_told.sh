# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For scenarios whose guests of vdisk-vmm do what they are told (tests/guest_vm_told.sh), after
# lib_lab.sh. Each has a folder, with `serial`, `err`, and the management socket `control`.
declare -A pid tell

# boot GUEST OPTION...
boot() {
    launch "$1" vdisk-vmm --name "$1" --kernel cloud --initrd initrd --memory 384M \
        --control "$PWD/$1/control" "${@:2}"
}
# launch GUEST COMMAND...: vdisk-vmm or `vdisk run`.
launch() {
    local fd
    mkdir "$1" && mkfifo "$1/in"
    exec {fd}<>"$1/in"
    tell[$1]=$fd
    "${@:2}" --console stdio --command 'console=ttyS0 quiet panic=-1 mitigations=off' \
        <"$1/in" >"$1/serial" 2>"$1/err" &
    pid[$1]=$!
}
waits() { # COMMAND...: until it succeeds
    local try
    # shellcheck disable=SC2154
    for ((try = 0; try < patience * 5; try++)); do
        ! "$@" || return 0
        sleep 0.2
    done
    return 1
}
has_said() { # GUEST PATTERN; or it has ended
    grep -qE "$2" "$1/serial" || ! kill -0 "${pid[$1]}" 2>/dev/null
}
# told GUEST COMMAND: what it prints, and its status.
told() {
    local number status
    number=$(($(grep -c '^DID ' "$1/serial") + 1))
    echo "$number $2" >&"${tell[$1]}"
    waits has_said "$1" "^DID $number "
    sed -n "s/^$number: //p" "$1/serial"
    status=$(sed -n "s/^DID $number //p" "$1/serial")
    return "${status:-125}"
}
# cannot NAME GUEST COMMAND: fails, and not for another reason.
cannot() {
    told "${@:2}" >.out 2>.err
    is "$1" $? 1
}
ends() { # NAME GUEST
    wait "${pid[$2]}"
    is "$1" $? 0
    sed "s/^/#   $2: /" "$2/err"
}

above() { # NUMBER...: each is above the next
    local i
    for ((i = 2; i <= $#; i++)); do [ "${*:i-1:1}" -gt "${*:i:1}" ] || return; done
}
more() { # NAME NUMBER...
    verdict "$1 ($(printf '%s' "$2"; printf ' > %s' "${@:3}"))" "$(above "${@:2}"; echo $?)"
}
