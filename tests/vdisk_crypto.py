# SPDX-License-Identifier: Apache-2.0
"""What vdisk_decoder.py needs of cryptography: keys (§4), sealing (§5), keyslots (§7), the header (§6).

The primitives are those of libsodium and libcrypto, through ctypes, and of hashlib."""

import ctypes
import hashlib
import hmac
import struct


class VdiskError(Exception):
    """Any failure; `status` is the exit status of the program."""
    status = 1


class Malformed(VdiskError):
    """What is stored breaks a rule of SPEC.md."""
    status = 3


class NotAuthentic(VdiskError):
    """No header or superblock authenticates under this key."""
    status = 4


class Damaged(NotAuthentic):
    """A node, extent or durable record of an opened image does not authenticate."""
    status = 3


class WrongKey(VdiskError):
    """No keyslot opens with the key given."""
    status = 4


def require(condition, message):
    if not condition:
        raise Malformed(message)


def is_zero(data):
    return not any(data) if len(data) < 64 else bytes(data).count(0) == len(data)


def ceil_div(a, b):
    return -(-a // b)


# ---------------------------------------------------------------------------------------------
# The three C libraries


def _load(name, functions):
    library = ctypes.CDLL(name)
    types = {"p": ctypes.c_void_p, "i": ctypes.c_int, "z": ctypes.c_size_t, "Q": ctypes.c_ulonglong,
             "u": ctypes.c_uint, "v": None}
    for function, (result, arguments) in functions.items():
        entry = getattr(library, function)
        entry.restype = types[result]
        entry.argtypes = [types[a] for a in arguments]
    return library


SODIUM = _load("libsodium.so.23", {
    "sodium_init": ("i", ""),
    "crypto_pwhash": ("i", "pQpQpQzi"),
    "crypto_aead_xchacha20poly1305_ietf_decrypt": ("i", "ppppQpQpp"),
    "crypto_scalarmult_base": ("i", "pp"),
    "crypto_box_seal_open": ("i", "ppQpp"),
})
CRYPTO = _load("libcrypto.so.3", {
    "EVP_CIPHER_CTX_new": ("p", ""),
    "EVP_CIPHER_CTX_free": ("v", "p"),
    "EVP_aes_256_xts": ("p", ""),
    "EVP_aes_256_gcm": ("p", ""),
    "EVP_aes_256_ecb": ("p", ""),
    "EVP_EncryptInit_ex": ("i", "ppppp"),
    "EVP_EncryptUpdate": ("i", "ppppi"),
    "EVP_EncryptFinal_ex": ("i", "ppp"),
    "EVP_DecryptInit_ex": ("i", "ppppp"),
    "EVP_DecryptUpdate": ("i", "ppppi"),
    "EVP_CIPHER_CTX_ctrl": ("i", "piip"),
    "EVP_CIPHER_CTX_set_padding": ("i", "pi"),
})
ZSTD = _load("libzstd.so.1", {
    "ZSTD_createDCtx": ("p", ""),
    "ZSTD_decompressDCtx": ("z", "ppzpz"),
    "ZSTD_findFrameCompressedSize": ("z", "pz"),
    "ZSTD_isError": ("u", "z"),
})
if SODIUM.sodium_init() < 0:
    raise ImportError("libsodium does not start")
GET_TAG = 0x10                          # EVP_CTRL_AEAD_GET_TAG


class Buffer:
    """Memory that both Python (`.view`) and C (`.address`) can see."""

    def __init__(self, size):
        self.bytes = bytearray(size)
        self.view = memoryview(self.bytes)
        self._c = (ctypes.c_char * size).from_buffer(self.bytes)
        self.address = ctypes.addressof(self._c)


# ---------------------------------------------------------------------------------------------
# §4 Keys


def H(key, message):
    return hashlib.blake2b(message, digest_size=32, key=key or b"").digest()


def KDF(key, length, number, context):
    """libsodium's crypto_kdf_derive_from_key (§4)."""
    return hashlib.blake2b(b"", digest_size=length, key=key, salt=struct.pack("<QQ", number, 0),
                           person=context + bytes(8)).digest()


class VolumeKey:
    """What is derived from the volume key of one image (§4)."""

    def __init__(self, key, image_id):
        self.key = key
        self.image_id = image_id
        self.commitment = H(key, b"vdisk key commitment" + image_id)
        self.header_key = KDF(key, 32, 1, b"vdisk_v1")
        self._super = KDF(key, 32, 2, b"vdisk_v1")
        self._epoch = KDF(key, 32, 3, b"vdisk_v1")

    def superblock_secret(self, salt):
        return H(self._super, b"super" + self.image_id + salt)

    def epoch_secret(self, epoch, salt):
        return H(self._epoch, b"epoch" + self.image_id + struct.pack("<I", epoch) + salt)

    def table_secret(self):
        return H(self._epoch, b"table" + self.image_id)


# ---------------------------------------------------------------------------------------------
# §5 Sealing


class Seal:
    """The keys of one secret (§4, §5), as OpenSSL contexts that are used again and again."""

    IV = ctypes.create_string_buffer(12)
    SCRATCH = ctypes.create_string_buffer(64)
    OUTLEN = ctypes.create_string_buffer(8)

    def __init__(self, secret, image_id):
        self.image_id = image_id
        self._xts = self._context(CRYPTO.EVP_aes_256_xts(), KDF(secret, 64, 1, b"vdiskxts"), False)
        self._mac = self._context(CRYPTO.EVP_aes_256_gcm(), KDF(secret, 32, 2, b"vdiskmac"), True)
        self._prf = self._context(CRYPTO.EVP_aes_256_ecb(), KDF(secret, 32, 3, b"vdiskprf"), True)
        CRYPTO.EVP_CIPHER_CTX_set_padding(self._prf, 0)

    def __del__(self):
        for name in ("_xts", "_mac", "_prf"):
            if name in self.__dict__ and CRYPTO is not None:
                CRYPTO.EVP_CIPHER_CTX_free(self.__dict__.pop(name))

    @staticmethod
    def _context(cipher, key, encrypt):
        context = CRYPTO.EVP_CIPHER_CTX_new()
        init = CRYPTO.EVP_EncryptInit_ex if encrypt else CRYPTO.EVP_DecryptInit_ex
        if not context or init(context, cipher, None, key, None) != 1:
            raise VdiskError("libcrypto refuses the cipher")
        return context

    def context(self, stamp, address, length, kind, detail=0, extra=0):
        """The 64 bytes of context (§5)."""
        return struct.pack("<16sQQIBBHQ16x", self.image_id, stamp, address, length, kind, detail, 0, extra)

    def tags(self, contexts, address, length, count=1):
        """The tags of `count` pieces of `length` bytes that follow one another in memory."""
        iv, scratch, outlen = self.IV, self.SCRATCH, self.OUTLEN
        init, update, final = CRYPTO.EVP_EncryptInit_ex, CRYPTO.EVP_EncryptUpdate, CRYPTO.EVP_EncryptFinal_ex
        control, mac = CRYPTO.EVP_CIPHER_CTX_ctrl, self._mac
        source = ctypes.create_string_buffer(contexts, len(contexts))
        hashes = ctypes.create_string_buffer(16 * count)
        result = ctypes.create_string_buffer(16 * count)
        context_at, hash_at = ctypes.addressof(source), ctypes.addressof(hashes)
        good = 1
        for _ in range(count):
            good &= init(mac, None, None, None, iv)
            good &= update(mac, None, outlen, context_at, 64)
            good &= update(mac, None, outlen, address, length)
            good &= final(mac, scratch, outlen)
            good &= control(mac, GET_TAG, 16, hash_at)
            context_at += 64
            hash_at += 16
            address += length
        good &= update(self._prf, result, outlen, hashes, 16 * count)
        if good != 1:
            raise VdiskError("libcrypto failed")
        return result.raw

    def decrypt(self, stamp, count, source, target, length):
        """Decrypts `count` pieces with stamps that follow one another from `source` to `target`."""
        init, update, xts, outlen = CRYPTO.EVP_DecryptInit_ex, CRYPTO.EVP_DecryptUpdate, self._xts, self.OUTLEN
        good = 1
        for i in range(count):
            good &= init(xts, None, None, None, struct.pack("<QQ", stamp + i, 0))
            good &= update(xts, target, outlen, source, length)
            source += length
            target += length
        if good != 1:
            raise VdiskError("libcrypto failed")

    def open(self, sealed, tag, stamp, address, kind, detail=0, extra=0, encrypted=True):
        """Opens one piece; None where it is not authentic."""
        length = len(sealed)
        source = Buffer(length)
        source.view[:] = sealed
        context = self.context(stamp, address, length, kind, detail, extra)
        if not hmac.compare_digest(self.tags(context, source.address, length), bytes(tag)):
            return None
        if encrypted:
            self.decrypt(stamp, 1, source.address, source.address, length)
        return bytes(source.bytes)


# ---------------------------------------------------------------------------------------------
# §7 Keyslots


class Keyslot:
    """One slot of 256 bytes (§7)."""

    def __init__(self, raw):
        self.raw = raw
        self.kind, self.passes, self.memory = raw[0], *struct.unpack_from("<II", raw, 4)
        self.salt, self.nonce = raw[16:32], raw[32:56]
        self.wrapped, self.recipient = raw[64:144], raw[144:176]

    def validate(self):
        if self.kind == 0:
            return require(is_zero(self.raw), "an empty keyslot is not zero")
        require(self.kind <= 3, f"keyslot of unknown kind {self.kind}")
        require(is_zero(self.raw[1:4] + self.raw[12:16] + self.raw[176:]), "keyslot: zero field is not zero")
        if self.kind == 3:
            require(is_zero(self.raw[4:12] + self.salt + self.nonce), "keyslot: zero field is not zero")
            return None
        require(is_zero(self.wrapped[48:] + self.recipient), "keyslot: zero field is not zero")
        if self.kind == 1 or self.passes:
            require(1 <= self.passes <= 16 and 8 <= self.memory <= 1 << 20, "keyslot: Argon2id cost out of bounds")
        return None

    def argon2id(self, secret):
        out = ctypes.create_string_buffer(32)
        if SODIUM.crypto_pwhash(out, 32, secret, len(secret), self.salt, self.passes, self.memory * 1024, 2) != 0:
            raise VdiskError("Argon2id failed: not enough memory?")
        return out.raw

    def unwrap(self, kek, image_id):
        data = b"vdisk keyslot" + image_id + self.raw[:32]
        out = ctypes.create_string_buffer(32)
        failed = SODIUM.crypto_aead_xchacha20poly1305_ietf_decrypt(
            out, None, None, self.wrapped[:48], 48, data, len(data), self.nonce, kek)
        return None if failed else out.raw


class PassphraseKey:
    def __init__(self, secret):
        self.secret = secret

    def unlock(self, slot, image_id):
        return slot.unwrap(slot.argon2id(self.secret), image_id) if slot.kind == 1 else None


class FileKey:
    def __init__(self, content):
        self.content = content

    def unlock(self, slot, image_id):
        if slot.kind != 2:
            return None
        if slot.passes:
            return slot.unwrap(slot.argon2id(self.content), image_id)
        if len(self.content) < 32:
            return None
        return slot.unwrap(H(None, b"vdisk key file" + slot.salt + self.content), image_id)


class IdentityKey:
    def __init__(self, secret):
        self.secret = secret
        public = ctypes.create_string_buffer(32)
        SODIUM.crypto_scalarmult_base(public, secret)
        self.public = public.raw

    def unlock(self, slot, _image_id):
        if slot.kind != 3 or slot.recipient != self.public:
            return None
        out = ctypes.create_string_buffer(32)
        failed = SODIUM.crypto_box_seal_open(out, slot.wrapped, 80, self.public, self.secret)
        return None if failed else out.raw


class KnownKey:
    """The volume key itself, as an overlay has that of its base (§17)."""

    def __init__(self, key):
        self.key = key
