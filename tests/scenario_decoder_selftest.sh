#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The second decoder against images that an encoder made from SPEC.md writes, without the library:
# what it is to be compared with in the other scenarios must first be right by itself.
exec python3 "$VDISK_SRC/tests/decoder_selftest.py"
