"""Passwords from other servers' files: ``{SCHEME}hash`` as Dovecot writes them, and bare crypt hashes.

Plain and unsalted schemes, DES and MD5 are not taken: their users are refused until a new hash is set.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable

from mailserver.accounts.passwords import DUMMY_HASH
from mailserver.accounts.passwords import verify_password as verify_argon2

_SCHEME = re.compile(r"\{([A-Za-z0-9-]+)\}(.*)", re.DOTALL)
_CRYPT = re.compile(r"\$([56])\$(?:rounds=(\d{1,9})\$)?([^$]{0,16})[^$]*\$([./0-9A-Za-z]+)")
_DIGITS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LEAST_ROUNDS, _MOST_ROUNDS, _ROUNDS = 1000, 1_000_000, 5000
"""Of SHA-crypt; beyond a million a log-in would be a way to keep the server busy."""

# In which order the octets of a digest are written (Drepper, "Unix crypt using SHA-256 and SHA-512").
_ORDER = {
    "5": [(0, 10, 20), (21, 1, 11), (12, 22, 2), (3, 13, 23), (24, 4, 14), (15, 25, 5), (6, 16, 26),
          (27, 7, 17), (18, 28, 8), (9, 19, 29), (31, 30)],
    "6": [(0, 21, 42), (22, 43, 1), (44, 2, 23), (3, 24, 45), (25, 46, 4), (47, 5, 26), (6, 27, 48),
          (28, 49, 7), (50, 8, 29), (9, 30, 51), (31, 52, 10), (53, 11, 32), (12, 33, 54), (34, 55, 13),
          (56, 14, 35), (15, 36, 57), (37, 58, 16), (59, 17, 38), (18, 39, 60), (40, 61, 19), (62, 20, 41),
          (63,)],
}  # fmt: skip


def verify_password(stored: str, password: str) -> bool:
    """Whether the password fits what is stored, in any scheme here. Takes a while; junk is ``False``."""
    scheme, hash = split(stored)
    check = _CHECKS.get(scheme)
    if check is not verify_argon2:
        # As long as for those who do not exist: a quicker answer would tell who does.
        verify_argon2(DUMMY_HASH, password)
    try:
        return check is not None and check(hash, password)
    except (ValueError, binascii.Error):
        return False


def is_known(stored: str) -> bool:
    """Whether anybody could log in with it."""
    return split(stored)[0] in _CHECKS


def split(stored: str) -> tuple[str, str]:
    """The scheme in capitals, and the hash; a hash without a scheme says by itself what it is."""
    found = _SCHEME.fullmatch(stored)
    scheme, hash = (found[1].upper(), found[2]) if found else ("CRYPT", stored)
    if scheme == "CRYPT":
        for beginning, own in (("$argon2id$", "ARGON2ID"), ("$argon2i$", "ARGON2I")):
            if hash.startswith(beginning):
                return own, hash
        scheme = {"$5$": "SHA256-CRYPT", "$6$": "SHA512-CRYPT"}.get(hash[:3], scheme)
    return scheme, hash


def _salted(name: str, octets: int) -> Callable[[str, str], bool]:
    def check(hash: str, password: str) -> bool:
        kept = base64.b64decode(hash, validate=True)
        digest, salt = kept[:octets], kept[octets:]
        return bool(salt) and hmac.compare_digest(
            digest, hashlib.new(name, password.encode() + salt).digest()
        )

    return check


def sha_crypt(hash: str, password: str) -> bool:
    """glibc's ``$5$`` and ``$6$``."""
    found = _CRYPT.fullmatch(hash)
    if found is None or len(password) > 1024:
        return False
    rounds = int(found[2]) if found[2] else _ROUNDS
    if rounds > _MOST_ROUNDS:
        return False
    digest = _sha_crypt(found[1], password.encode(), found[3].encode(), max(rounds, _LEAST_ROUNDS))
    return hmac.compare_digest(found[4], _written(digest, _ORDER[found[1]]))


def _sha_crypt(kind: str, key: bytes, salt: bytes, rounds: int) -> bytes:
    sha = hashlib.sha256 if kind == "5" else hashlib.sha512
    other = sha(key + salt + key).digest()
    first = sha(key + salt + _repeated(other, len(key)))
    length = len(key)
    while length:
        first.update(other if length & 1 else key)
        length >>= 1
    digest = first.digest()
    keys = _repeated(sha(key * len(key)).digest(), len(key))
    salts = _repeated(sha(salt * (16 + digest[0])).digest(), len(salt))
    for number in range(rounds):
        odd = number & 1
        octets = keys if odd else digest
        if number % 3:
            octets += salts
        if number % 7:
            octets += keys
        digest = sha(octets + (digest if odd else keys)).digest()
    return digest


def _repeated(octets: bytes, length: int) -> bytes:
    return (octets * (length // len(octets) + 1))[:length]


def _written(digest: bytes, order: list[tuple[int, ...]]) -> str:
    text = ""
    for places in order:
        # A group of n octets is written in n + 1 digits of six bits, the lowest first.
        value = int.from_bytes(bytes(digest[place] for place in places), "big")
        text += "".join(_DIGITS[value >> 6 * n & 63] for n in range(len(places) + 1))
    return text


_CHECKS: dict[str, Callable[[str, str], bool]] = {
    "ARGON2ID": verify_argon2,
    "ARGON2I": verify_argon2,
    "SHA512-CRYPT": sha_crypt,
    "SHA256-CRYPT": sha_crypt,
    "SSHA512": _salted("sha512", 64),
    "SSHA256": _salted("sha256", 32),
}
SCHEMES = tuple(_CHECKS)
