#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Known answers for test_crypto.c and test_header.c: python3 tests/vectors.py >tests/vectors.h

Computed from SPEC.md 4 to 7 alone and by other code than the library's: XTS and GHASH are written
out here over single AES blocks (libcrypto), BLAKE2b is Python's; libsodium gives Argon2id,
XChaCha20-Poly1305 and X25519.
"""
import ctypes
import ctypes.util
import hashlib
import struct
import sys

crypto = ctypes.CDLL(ctypes.util.find_library("crypto"))
sodium = ctypes.CDLL(ctypes.util.find_library("sodium"))
assert sodium.sodium_init() >= 0
for name in ("EVP_CIPHER_CTX_new", "EVP_aes_256_ecb"):
    getattr(crypto, name).restype = ctypes.c_void_p


class Aes:
    """AES-256, one block at a time."""

    def __init__(self, key):
        self.ctx = ctypes.c_void_p(crypto.EVP_CIPHER_CTX_new())
        cipher = ctypes.c_void_p(crypto.EVP_aes_256_ecb())
        assert crypto.EVP_EncryptInit_ex(self.ctx, cipher, None, key, None) == 1

    def __call__(self, block):
        out, length = ctypes.create_string_buffer(32), ctypes.c_int()
        assert crypto.EVP_EncryptUpdate(self.ctx, out, ctypes.byref(length), block, 16) == 1
        return out.raw[:16]


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


def xts(key, tweak, plain):
    """IEEE 1619, whole blocks only."""
    data, out = Aes(key[:32]), b""
    t = int.from_bytes(Aes(key[32:])(tweak), "little")
    for i in range(0, len(plain), 16):
        mask = t.to_bytes(16, "little")
        out += xor(data(xor(plain[i:i + 16], mask)), mask)
        t <<= 1
        if t >> 128:
            t = (t & ((1 << 128) - 1)) ^ 0x87
    return out


def gf_multiply(x, y):
    """In GCM's field: bits from the left, x^128 + x^7 + x^2 + x + 1."""
    z = 0
    for i in range(127, -1, -1):
        if x >> i & 1:
            z ^= y
        y = y >> 1 ^ (0xe1 << 120 if y & 1 else 0)
    return z


def gmac(key, data):
    """SP 800-38D with an IV of 12 zero bytes; data is of whole blocks."""
    aes, s = Aes(key), 0
    h = int.from_bytes(aes(bytes(16)), "big")
    for i in range(0, len(data), 16):
        s = gf_multiply(s ^ int.from_bytes(data[i:i + 16], "big"), h)
    s = gf_multiply(s ^ len(data) * 8 << 64, h)
    return xor(s.to_bytes(16, "big"), aes(bytes(12) + b"\0\0\0\1"))


def kdf(key, length, number, context):
    return hashlib.blake2b(b"", digest_size=length, key=key, salt=struct.pack("<QQ", number, 0),
                           person=context + bytes(8)).digest()


def h256(key, message):
    return hashlib.blake2b(message, digest_size=32, key=key).digest()


def seal(secret, context, plain):
    xts_key = kdf(secret, 64, 1, b"vdiskxts")
    hash_key = kdf(secret, 32, 2, b"vdiskmac")
    prf_key = kdf(secret, 32, 3, b"vdiskprf")
    sealed = xts(xts_key, context[16:24] + bytes(8), plain)
    return sealed, Aes(prf_key)(gmac(hash_key, context + sealed))


def context(image_id, stamp, address, length, kind, detail, extra):
    return image_id + struct.pack("<QQIBBHQQQ", stamp, address, length, kind, detail, 0, extra, 0, 0)


def argon2id(passphrase, salt, passes, kib):
    out = ctypes.create_string_buffer(32)
    assert sodium.crypto_pwhash(out, ctypes.c_ulonglong(32), passphrase,
                                ctypes.c_ulonglong(len(passphrase)), salt,
                                ctypes.c_ulonglong(passes), ctypes.c_size_t(kib * 1024), 2) == 0
    return out.raw


def aead(key, nonce, plain, ad):
    out, length = ctypes.create_string_buffer(len(plain) + 16), ctypes.c_ulonglong()
    assert sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(
        out, ctypes.byref(length), plain, ctypes.c_ulonglong(len(plain)), ad,
        ctypes.c_ulonglong(len(ad)), None, nonce, key) == 0
    return out.raw[:length.value]


def sealed_box(plain, public_key):
    """crypto_box_seal with a fixed ephemeral key, so that the output does not change."""
    secret = h256(b"", b"ephemeral")
    public, out = ctypes.create_string_buffer(32), ctypes.create_string_buffer(len(plain) + 16)
    assert sodium.crypto_scalarmult_base(public, secret) == 0
    nonce = hashlib.blake2b(public.raw + public_key, digest_size=24).digest()
    assert sodium.crypto_box_easy(out, plain, ctypes.c_ulonglong(len(plain)), nonce, public_key,
                                  secret) == 0
    return public.raw + out.raw


def slot(kind, passes, kib, salt, nonce, created, wrapped, public_key=b""):
    return (struct.pack("<BxxxIII", kind, passes, kib, 0) + salt + nonce
            + struct.pack("<Q", created) + wrapped.ljust(80, b"\0") + public_key).ljust(256, b"\0")


def secret_slot(kind, passes, kib, number, created, content, image_id, volume_key):
    salt, nonce = bytes([number]) * 16, bytes([number + 1]) * 24
    kek = (argon2id(content, salt, passes, kib) if passes
           else h256(b"", b"vdisk key file" + salt + content))
    bound = slot(kind, passes, kib, salt, nonce, created, b"")[:32]
    wrapped = aead(kek, nonce, volume_key, b"vdisk keyslot" + image_id + bound)
    return slot(kind, passes, kib, salt, nonce, created, wrapped)


def show(name, data):
    print(f"static const uint8_t {name}[{len(data)}] = {{")
    for i in range(0, len(data), 16):
        print("    " + " ".join(f"0x{b:02x}," for b in data[i:i + 16]))
    print("};\n")


def main():
    volume_key, image_id, salt = bytes(range(32)), bytes(range(64, 80)), bytes(range(128, 160))
    plain = bytes((i * 7 + i // 256 + 3) & 255 for i in range(4096))
    print("/* SPDX-License-Identifier: Apache-2.0 */\n/* Made by tests/vectors.py. */\n"
          "/* clang-format off */\n#ifndef TEST_VECTORS_H\n#define TEST_VECTORS_H\n\n"
          "#include <stdint.h>\n")

    show("vector_volume_key", volume_key)
    show("vector_image_id", image_id)
    show("vector_salt", salt)
    commitment = h256(volume_key, b"vdisk key commitment" + image_id)
    header_key = kdf(volume_key, 32, 1, b"vdisk_v1")
    super_master = kdf(volume_key, 32, 2, b"vdisk_v1")
    epoch_master = kdf(volume_key, 32, 3, b"vdisk_v1")
    epoch = h256(epoch_master, b"epoch" + image_id + struct.pack("<I", 0x010203) + salt)
    show("vector_commitment", commitment)
    show("vector_header_key", header_key)
    show("vector_superblock_master", super_master)
    show("vector_epoch_master", epoch_master)
    show("vector_superblock_secret", h256(super_master, b"super" + image_id + salt))
    show("vector_table_secret", h256(epoch_master, b"table" + image_id))
    show("vector_epoch_secret", epoch)  # of epoch 0x010203

    # plain[i] = i * 7 + i / 256 + 3. Arguments as in test_crypto.c.
    for name, arguments in (
            ("record", (0x0102030405060708, 0x1112131415161718, 16, 4, 0, 0)),
            ("zstd", (0xfffffffffffffffe, 1 << 44, 48, 2, 1, 33)),
            ("node", (1 << 40 | 1, 127, 4096, 3, 37, 0))):
        sealed, tag = seal(epoch, context(image_id, *arguments), plain[:arguments[2]])
        show(f"vector_{name}_tag", tag)
        show(f"vector_{name}_hash", h256(b"", sealed))
        if len(sealed) <= 48:
            show(f"vector_{name}_sealed", sealed)

    identity = h256(b"", b"identity")
    public_key = ctypes.create_string_buffer(32)
    assert sodium.crypto_scalarmult_base(public_key, identity) == 0
    show("vector_identity", identity)
    show("vector_public_key", public_key.raw)
    slots = [
        secret_slot(1, 1, 8, 10, 1000, b"correct horse", image_id, volume_key),
        secret_slot(2, 0, 0, 20, 2000, plain[:100], image_id, volume_key),
        bytes(256),
        secret_slot(2, 2, 16, 30, 3000, b"short", image_id, volume_key),
        slot(3, 0, 0, bytes(16), bytes(24), 4000, sealed_box(volume_key, public_key.raw),
             public_key.raw),
    ]
    show("vector_slots", b"".join(slots))
    header = (b"\x89VDISK\r\n" + struct.pack("<II", 1, 8192) + image_id
              + struct.pack("<QQQBBHIQ", 5, 0, 1 << 63, 16, 9, 0, 0xdeadbeef, 64 << 20)
              + commitment).ljust(4032, b"\0")
    tail = b"".join(slots).ljust(4096, b"\0")
    mac = h256(header_key, header + bytes(64) + tail)
    checksum = h256(b"", header + mac + bytes(32) + tail)
    show("vector_header_mac", mac)
    show("vector_header_checksum", checksum)
    show("vector_header_hash", h256(b"", header + mac + checksum + tail))
    print("#endif")
    return 0


if __name__ == "__main__":
    sys.exit(main())
