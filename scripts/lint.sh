#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# clang-tidy (.clang-tidy says which checks), cppcheck and shellcheck. Exit status 1 if one of them
# has something to say.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in clang-tidy cppcheck shellcheck; do
    command -v "$tool" >/dev/null || { echo "lint: $tool is not installed" >&2; exit 1; }
done
mapfile -t sources < <(find libvdisk backup vdiskd vmm tools tests fuzz bench -name '*.c' 2>/dev/null | sort)
[ ${#sources[@]} -gt 0 ] || { echo "lint: no sources" >&2; exit 1; }
includes=(-Iinclude -Ilibvdisk -Ivdiskd -Ivmm -Itools -Ibackup -Itests -Ifuzz)
status=0

# shellcheck disable=SC2317  # run by the xargs below
# One process for each file; its count of suppressed warnings is noise.
one_file() {
    local output options=(--quiet)
    # The analyzer does not know that a failed cmocka assertion never returns; rm -rf is a shell's;
    # strings in requests have no NUL.
    [[ $1 != tests/* ]] ||
        options+=('--checks=-clang-analyzer-*,-cert-err34-c,-cert-env33-c,-bugprone-not-null-terminated-result')
    if ! output=$(clang-tidy "${options[@]}" "$1" -- "${@:2}" 2>&1); then
        grep -v ' warnings\? generated\.$' <<<"$output" || true
        return 1
    fi
}
export -f one_file
# shellcheck disable=SC2016  # expanded by the inner shell
printf '%s\0' "${sources[@]}" |
    xargs -0 -P 2 -I FILE bash -c 'one_file "$@"' one_file FILE \
        -std=gnu11 -D_GNU_SOURCE "${includes[@]}" || status=1

# Coroutines: waiters live on their stacks, and ucontext is the portable way to switch.
# On POSIX NULL is a pointer, also where no type is named.
general=(--suppress=autoVariables --suppress=varFuncNullUB)
for name in getcontext makecontext swapcontext; do
    general+=(--suppress="${name}Called")
done
# Names of users are looked up before there are threads.
for name in getpwnam getpwuid getgrnam; do
    general+=(--suppress="${name}Called")
done
# Children of tests end by _exit(), with whatever they hold; readdir_r is deprecated.
tests=(--suppress={resourceLeak,memleak,leakReturnValNotUsed,invalidFunctionArgBool}:tests/\*
       --suppress=invalidFunctionArgBool:bench/\* --suppress=readdirCalled)
cppcheck -j 2 --quiet --error-exitcode=1 --inline-suppr --std=c11 --library=posix,gnu \
    --enable=warning,performance,portability --suppress=missingIncludeSystem "${general[@]}" "${tests[@]}" \
    -D_GNU_SOURCE "${includes[@]}" "${sources[@]}" || status=1

shellcheck -x quickstart runtests .ci/run completion/vdisk scripts/*.sh tests/*.sh || status=1

exit $status
