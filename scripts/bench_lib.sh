# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What measurements share: times, medians, the memory of virtual machines.

now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }
# Of a number a line.
median() { sort -n | awk '{ v[NR] = $1 } END { print NR ? v[int((NR + 1) / 2)] : "-" }'; }
# median_ratio A B: of the lines of A divided by those of B
median_ratio() { paste "$1" "$2" | awk '$2 { printf "%.2f\n", $1 / $2 }' | median; }

# beyond_guest PID MIB: KiB that are resident beside the guest's memory, of which there are so many
# MiB: what it maps in that size or larger. Of what it shares with others, its part.
beyond_guest() {
    awk -v memory="$(($2 * 1024))" '
        $1 == "Size:" { is_guest = $2 >= memory }
        $1 == "Pss:" && !is_guest { sum += $2 }
        END { print sum }' "/proc/$1/smaps"
}

child_named() { # PID NAME: the process of that program that PID started
    local child children
    read -ra children <"/proc/$1/task/$1/children"
    for child in "${children[@]}"; do
        [ "$(cat "/proc/$child/comm")" != "$2" ] || echo "$child"
    done
}
