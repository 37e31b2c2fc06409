#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The sample images in tests/samples, made when their version of the format was new, are read by the
# library and by the second decoder for as long as that version is. See samples/make.sh.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"
unset VDISK_KEY_FILE

samples=$VDISK_SRC/tests/samples
decoder=$VDISK_SRC/tests/vdisk_decoder.py
cp "$samples"/{key,passphrase,identity} .
python3 - "$samples" <<'PYTHON'
import lzma, pathlib, sys
for sample in pathlib.Path(sys.argv[1]).glob("*.xz"):
    pathlib.Path(sample.stem).write_bytes(lzma.decompress(sample.read_bytes()))
PYTHON

hash_of() {
    sha256sum | cut -d' ' -f1
}

# Its base was elsewhere when the overlay was made.
base_of() {
    [ "${1%%@*}" != overlay.vdk ] || echo --base base.vdk
}

while read -r hash state offset length option file; do
    image=${state%%@*}
    name="$state at $offset with $option"
    # shellcheck disable=SC2046
    is "$name" "$(vdisk read "$state" "$offset" "$length" "--$option" "$file" $(base_of "$image") | hash_of)" "$hash"
    snapshot=()
    [ "$image" = "$state" ] || snapshot=(--snapshot "${state#*@}")
    # shellcheck disable=SC2046
    is "$name, by the second decoder" "$(python3 "$decoder" read "$image" "--$option" "$file" \
        $(base_of "$image") "${snapshot[@]}" --offset "$(numfmt --from=iec "$offset")" \
        --length "$(numfmt --from=iec "$length")" | hash_of)" "$hash"
done <"$samples/manifest"

is 'filling.vdk, by the second decoder' "$(python3 "$decoder" read filling.vdk --key-file key \
    --source filling.raw | hash_of)" "$(cat "$samples/filling.sha256")"
fails 1 'not yet filled from /tmp/repository::' 'filling.vdk takes its source' vdisk read filling.vdk 0 1 --key-file key
json 'filling.vdk says what that is' "d['source'].startswith('/tmp/repository::')" \
    vdisk info filling.vdk --json --key-file key

is 'journal.vdk was not closed' "$(python3 "$decoder" info journal.vdk --key-file key |
    sed -n 's/.*"journal_records": //p')" 1
for image in *.vdk; do
    # shellcheck disable=SC2046
    t "$image is in order" vdisk check "$image" --key-file key $(base_of "$image")
    # shellcheck disable=SC2046
    t "$image is in order for the second decoder" python3 "$decoder" check "$image" \
        --key-file key $(base_of "$image")
done
for image in many journal keys split giant; do
    printf 'written by a later vdisk' >words
    vdisk write $image.vdk 777 --key-file key <words
    vdisk snapshot create $image.vdk new --key-file key
    is "$image.vdk can be written to" "$(vdisk read $image.vdk@new 777 24 --key-file key)" "$(cat words)"
    t "$image.vdk stays in order" vdisk check $image.vdk --key-file key
done
