#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vdiskd with TLS, to the clients of others: X.509 with a right, a wrong and no certificate; keys.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"

for tool in nbdinfo nbdcopy nbdsh qemu-img openssl; do
    command -v "$tool" >/dev/null || {
        skip 'NBD clients with TLS' "$tool is not installed"
        exit 0
    }
done

# ---- certificates, in the layout of QEMU and libnbd ----

authority() { # DIR
    mkdir "$1"
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=authority $1" \
        -keyout "$1/ca-key.pem" -out "$1/ca-cert.pem"
}
certificate() { # DIR NAME SUBJECT EXTENSIONS
    openssl req -newkey rsa:2048 -nodes -subj "/CN=$3" -keyout "$1/$2-key.pem" -out "$1/$2.csr" &&
        printf '%b' "$4" >"$1/$2.ext" &&
        openssl x509 -req -days 2 -in "$1/$2.csr" -CA "$1/ca-cert.pem" -CAkey "$1/ca-key.pem" \
            -CAcreateserial -extfile "$1/$2.ext" -out "$1/$2-cert.pem"
}
{
    authority ours && authority others
    certificate ours server localhost 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n'
    certificate ours client alice 'extendedKeyUsage=clientAuth\n'
    certificate others client mallory 'extendedKeyUsage=clientAuth\n'
    mkdir server right wrong none
    cp ours/{ca-cert,server-cert,server-key}.pem server
    cp ours/{ca-cert,client-cert,client-key}.pem right
    cp ours/ca-cert.pem others/client-{cert,key}.pem wrong
    cp ours/ca-cert.pem none
} >.out 2>.err
verdict 'openssl makes certificates' $?

drive a.vdk 64M
data mixed $((8 << 20)) 1 mixed
put mixed a.vdk 1M

secure() { # FOLDER: a URI with the certificates in it
    echo "nbds+unix:///?socket=$PWD/nbd&tls-certificates=$PWD/$1"
}
refused() { # NAME COMMAND...: the client ends with an error
    local name=$1 status=0
    shift
    "$@" >.out 2>.err </dev/null || status=$?
    if [ "$status" -gt 0 ] && [ "$status" -lt 100 ]; then ok "$name"; else not_ok "$name"; fi
}
by_qemu() { # FOLDER: qemu-img copies the drive into by_qemu.raw; it is the server that has to look
    local creds=tls-creds-x509,id=tls0,endpoint=client,verify-peer=on,sanity-check=off
    qemu-img convert -O raw --object "$creds,dir=$PWD/$1" --image-opts \
        "driver=nbd,server.type=unix,server.path=$PWD/nbd,tls-creds=tls0,tls-hostname=localhost" \
        by_qemu.raw
}
tls() { # OPTION...
    up vdiskd --export "=$PWD/a.vdk,key-file=$VDISK_KEY_FILE" --tls-required \
        --audit-log "$PWD/audit" "$@"
}

t 'vdiskd asks for certificates' tls --nbd "unix:$PWD/nbd" --tls-dir "$PWD/server"
t 'nbdinfo: the right certificate' nbdinfo --json "$(secure right)"
t 'nbdcopy: over TLS' nbdcopy --connections=4 "$(secure right)" by_nbdcopy.raw
same 'nbdcopy: all of the drive' by_nbdcopy.raw a.model
t 'qemu-img: the right certificate' by_qemu right
same 'qemu-img: all of the drive' by_qemu.raw a.model
is 'the subject of the certificate is in the audit log' \
    "$(grep -o '"tls_subject":"[^"]*"' audit | sort -u)" '"tls_subject":"CN=alice"'
refused 'nbdinfo: a certificate of another authority' nbdinfo "$(secure wrong)"
refused 'nbdinfo: no certificate' nbdinfo "$(secure none)"
refused 'nbdinfo: no TLS' nbdinfo "$(uri '')"
refused 'nbdinfo: no TLS, only a list' nbdinfo --list "$(uri '')"
refused 'qemu-img: a certificate of another authority' by_qemu wrong
refused 'qemu-img: no certificate' by_qemu none
refused 'qemu-img: no TLS' qemu-img info "$(uri '')"
t 'nobody else is disturbed' nbdinfo "$(secure right)"
down 'vdiskd ends'
t 'the audit log is whole' vdisk audit verify audit
is 'and tells of the four who were not let in' "$(grep -c '"auth-failed"' audit)" 4
is 'of those without a certificate' "$(grep '"auth-failed"' audit | grep -c 'did not return a certificate')" 2
is 'of those with a wrong one' "$(grep '"auth-failed"' audit | grep -c 'issuer certificate')" 2
is 'and of three who tried it without TLS' \
    "$(grep '"denied"' audit | grep '"without TLS"' | grep -o '"pid":[0-9]*' | sort -u | wc -l)" 3

# Over TCP, where the name in the server's certificate counts, and plain TLS for those who want it.
port=$((20000 + RANDOM % 10000))
t 'over TCP, clients without certificates welcome' tls --nbd "tcp:localhost:$port" \
    --tls-dir "$PWD/server" --tls-any-client
tcp() { echo "nbds://$1:$port/?tls-certificates=$PWD/$2"; }
t 'nbdinfo: no certificate, of a server that has one' nbdinfo "$(tcp localhost none)"
refused 'nbdinfo: the server has another name' nbdinfo "$(tcp 127.0.0.1 none)"
down 'vdiskd ends as well'

# ---- keys ----

mkdir psk
mine=$(openssl rand -hex 32)
printf 'alice:%s\n' "$mine" >psk/keys.psk
printf 'alice:%s\n' "$(openssl rand -hex 32)" >wrong.psk
printf 'mallory:%s\n' "$mine" >stranger.psk
before=$(grep -c '"auth-failed"' audit)
t 'vdiskd takes keys' tls --nbd "unix:$PWD/nbd" --tls-dir "$PWD/psk" --tls-psk
psk() { echo "nbds+unix://$1@/?socket=$PWD/nbd&tls-psk-file=$PWD/$2"; }
t 'nbdinfo: the right key' nbdinfo "$(psk alice psk/keys.psk)"
t 'nbdcopy: with it' nbdcopy "$(psk alice psk/keys.psk)" by_key.raw
same 'nbdcopy: all of the drive by it' by_key.raw a.model
# nbdsh's Python is the first in PATH; only the distribution's has the module.
t 'nbdsh: reads and writes with it' env PATH=/usr/bin:/bin nbdsh -c "
h.set_tls(nbd.TLS_REQUIRE)
h.set_tls_psk_file('$PWD/psk/keys.psk')
h.set_tls_username('alice')
h.connect_unix('$PWD/nbd')
h.pwrite(b'x' * 70000, 5 << 20)
h.flush()
assert h.pread(70000, 5 << 20) == b'x' * 70000 and h.get_tls_negotiated()"
t 'qemu-img: the right key' qemu-img info \
    --object "tls-creds-psk,id=tls0,endpoint=client,dir=$PWD/psk,username=alice" --image-opts \
    "driver=nbd,server.type=unix,server.path=$PWD/nbd,tls-creds=tls0"
refused 'nbdinfo: a wrong key' nbdinfo "$(psk alice wrong.psk)"
refused 'nbdinfo: a stranger' nbdinfo "$(psk mallory stranger.psk)"
refused 'nbdinfo: no key' nbdinfo "$(uri '')"
is 'the two are in the audit log' "$(($(grep -c '"auth-failed"' audit) - before))" 2
down 'vdiskd ends at last'
clean 'the image is clean' a.vdk
