# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For scenarios with a server, after lib.sh. A server writes what it says to .server, which is shown
# when it does not come up. SERVE_OPTIONS holds options for each (--no-uring).

SERVE_OPTIONS=()

up() { # COMMAND...: starts a server ($server) and waits until it says that it is ready
    local _
    : >.server
    "$@" "${SERVE_OPTIONS[@]}" >.server 2>&1 </dev/null &
    server=$!
    for _ in {1..600}; do
        grep -q 'event=ready' .server && return 0
        kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    sed 's/^/#   server: /' .server
    return 1
}

serve() { # IMAGE OPTION...: `vdisk serve` at ./nbd
    up vdisk serve "$1" --nbd "unix:$PWD/nbd" "${@:2}"
}

down() { # NAME: ends the server by SIGTERM; it must close everything and exit with 0
    local status=0
    kill "$server"
    wait "$server" || status=$?
    [ "$status" = 0 ] || sed 's/^/#   server: /' .server
    is "$1" "$status" 0
}

uri() { # EXPORT: of the server at ./nbd
    echo "nbd+unix:///$1?socket=$PWD/nbd"
}

io() { # EXPORT COMMAND...: qemu-io's, each must succeed
    local commands=() command
    for command in "${@:2}"; do commands+=(-c "$command"); done
    qemu-io -f raw "${commands[@]}" "$(uri "$1")" >.out 2>.err &&
        ! grep -qE 'failed|rror' .out .err
}
