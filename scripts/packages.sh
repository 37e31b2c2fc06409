# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034  # the lists are for the scripts that source this file
#
# The Debian packages that building, testing and CI need, and the function that installs
# those that are missing. Sourced by quickstart, runtests and .ci/run.

BUILD_PACKAGES=(
    gcc libc6-dev make pkg-config
    libsodium-dev libzstd-dev libssl-dev
    liburing-dev libjansson-dev libseccomp-dev
    libext2fs-dev comerr-dev libblkid-dev libfuse3-dev
)

# On top of these, for `make demo`.
DEMO_PACKAGES=(
    e2fsprogs mount
    mmdebstrap uidmap fakeroot
    busybox-static
)

# On top of these, for `make check`.
TEST_PACKAGES=(
    libcmocka-dev
    e2fsprogs fdisk dosfstools xfsprogs openssl
    python3 python3-libnbd
    fio fuse3 libnbd-bin qemu-utils qemu-system-x86 curl procps
    valgrind acpica-tools socat passt
)

# On top of these, for guests of tests, and for the demo's where /dev/kvm does not run Linux.
# Their kernels (26 MB and more) are not installed, but downloaded and unpacked.
GUEST_PACKAGES=(
    qemu-system-x86
    busybox-static
    grub-pc-bin grub-common
)

# What scripts/bench_backup.sh compares with.
BENCH_BACKUP_PACKAGES=(
    borgbackup restic
    e2fsprogs time
)

# On top of all, for .ci/run.
CI_PACKAGES=(
    clang-format
)

# Never installed by a script: `make fuzz lint coverage` and debugging want them.
DEVELOPER_PACKAGES=(
    clang clang-tidy libclang-rt-14-dev
    cppcheck gcovr gdb shellcheck
)

# apt-get without questions, into the log file $1; the rest are its arguments.
quiet_apt_get() {
    local log=$1 as_root=()
    shift
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >>"$log" 2>&1 </dev/null
}

# Installs those of the named packages that are missing; silent when there are none.
need_packages() {
    local installed missing=() package log
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        echo "$0: this is not a Debian system: install what corresponds to" >&2
        echo "    $*" >&2
        echo "and use make itself (\`make help\` lists its targets)." >&2
        return 1
    fi
    # shellcheck disable=SC2016  # dpkg-query's own variables
    installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
    for package in "$@"; do
        grep -qxF "$package installed" <<<"$installed" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        echo "$0: these Debian packages are missing, and there is no sudo; as root, run" >&2
        echo "    apt-get install --no-install-recommends ${missing[*]}" >&2
        return 1
    fi
    echo "Installing Debian packages: ${missing[*]}"
    log=$(mktemp)
    # A failed update is not yet the end: what is known already may be enough.
    quiet_apt_get "$log" update || true
    if ! quiet_apt_get "$log" install -y --no-install-recommends "${missing[@]}"; then
        tail -n 20 "$log" >&2
        echo "$0: apt-get could not install: ${missing[*]}" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}
