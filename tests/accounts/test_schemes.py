"""Passwords from other servers' files; the hashes were made by glibc's crypt and by openssl."""

from __future__ import annotations

import base64
import hashlib

import pytest

from mailserver.accounts import schemes
from mailserver.accounts.passwords import DUMMY_HASH, hash_password
from mailserver.accounts.schemes import is_known, verify_password

SHA512 = "$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG."
SHA256 = "$5$rounds=1234$saltsaltsaltsalt$XN7WCGDKlBQViDBmKEXFpHA9qCA6yKWTqlO0omPYLsD"
ARGON = hash_password("secret")


def salted(name: str) -> str:
    return base64.b64encode(hashlib.new(name, b"secret" + b"salt").digest() + b"salt").decode()


@pytest.mark.parametrize(
    ("stored", "password"),
    [
        (SHA512, "secret"),
        ("{SHA512-CRYPT}" + SHA512, "secret"),
        ("{CRYPT}" + SHA512, "secret"),
        ("{sha256-crypt}" + SHA256, "Пароль ünï"),
        (SHA256, "Пароль ünï"),
        ("{ARGON2ID}" + ARGON, "secret"),
        (ARGON, "secret"),
        ("{SSHA512}" + salted("sha512"), "secret"),
        ("{SSHA256}" + salted("sha256"), "secret"),
    ],
    ids=[
        "sha512",
        "named",
        "crypt",
        "named sha256",
        "sha256",
        "named argon2",
        "argon2",
        "ssha512",
        "ssha256",
    ],
)
def test_fits(stored: str, password: str) -> None:
    assert is_known(stored)
    assert verify_password(stored, password)
    assert not verify_password(stored, password + "x")
    assert not verify_password(stored, "")


def test_a_quick_scheme_takes_as_long_as_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def verify(hash: str, password: str) -> bool:
        asked.append(hash)
        return False

    monkeypatch.setattr(schemes, "verify_argon2", verify)
    assert verify_password(SHA512, "secret")
    assert not verify_password("{PLAIN}secret", "secret")
    assert asked == [DUMMY_HASH] * 2


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "secret",
        "{PLAIN}secret",
        "{MD5}x",
        "{SHA}x",
        "$1$salt$x",
        "{CRYPT}ab1234567890",
        "{}",
        "{X",
        "!",
        "*",
    ],
)
def test_what_is_not_taken(stored: str) -> None:
    assert not is_known(stored)
    assert not verify_password(stored, "secret")


@pytest.mark.parametrize(
    "stored",
    ["$6$", "$6$abc", "{SSHA512}!!", "{SSHA512}" + base64.b64encode(b"x" * 64).decode(), "{ARGON2ID}x",
     "$6$rounds=999999999$salt$x"],
)  # fmt: skip
def test_junk_is_nobodys_password(stored: str) -> None:
    assert not verify_password(stored, "secret")
