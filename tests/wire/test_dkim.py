"""DKIM signatures, checked by another implementation (dkimpy), and the canonical forms of RFC 6376."""

from base64 import b64encode
from functools import lru_cache

import dkim
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from mailserver.wire.dkim import Signer, relaxed_body, relaxed_field, signed

MESSAGE = (
    b"From: <postmaster@a.test>\r\nTo: <tls@b.test>\r\nSubject: Report Domain: b.test\r\n"
    b" Submitter:  mx.a.test\r\nDate: Sun, 29 Nov 2026 12:00:00 +0000\r\n"
    b"\r\nOne  line \r\n\r\nand more\r\n\r\n\r\n"
)


@lru_cache
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def sign(octets: bytes) -> bytes:
    return key().sign(octets, padding.PKCS1v15(), hashes.SHA256())


SIGNER = Signer("a.test", "tlsrpt", sign)


def is_good(message: bytes) -> bool:
    octets = key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    record = b"v=DKIM1; k=rsa; p=" + b64encode(octets)
    return bool(dkim.verify(message, dnsfunc=lambda name, timeout: record))


def test_another_implementation_finds_it_good() -> None:
    message = signed(MESSAGE, SIGNER, 1_700_000_000.5)
    assert message.endswith(MESSAGE)
    assert is_good(message)
    header = message[: -len(MESSAGE)]
    assert b"t=1700000000;" in header
    assert b"d=a.test;" in header
    assert all(len(line) <= 78 for line in header.splitlines())


def test_what_the_way_may_change_does_not_break_it() -> None:
    message = signed(MESSAGE, SIGNER, 0)
    assert is_good(b"Received: from mx.a.test\r\n" + message)
    assert is_good(message.replace(b"Subject: Report Domain", b"SUBJECT:  Report \tDomain"))
    assert is_good(message.replace(b"One  line \r\n", b"One line\r\n").rstrip(b"\r\n") + b"\r\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"tls@b.test", b"tls@c.test"),
        (b"and more", b"and less"),
        (b"From: <post", b"From: <evil@c.test>\r\nFrom: <post"),
        (b"\r\n\r\nOne", b"\r\nFrom: <evil@c.test>\r\n\r\nOne"),
        (b"Subject: ", b"Subject: x"),
    ],
)
def test_what_it_must_not_change_breaks_it(old: bytes, new: bytes) -> None:
    message = signed(MESSAGE, SIGNER, 0)
    assert message.count(old) == 1
    assert not is_good(message.replace(old, new))


def test_canonical_forms() -> None:
    # RFC 6376 §3.4.5.
    assert relaxed_field(b"A", b" X") == b"a:X"
    assert relaxed_field(b"B ", b" Y\t\r\n\tZ  ") == b"b:Y Z"
    assert relaxed_body(b" C \r\nD \t E\r\n\r\n\r\n") == b" C\r\nD E\r\n"
    assert relaxed_body(b"") == relaxed_body(b"\r\n\r\n") == b""
    assert relaxed_body(b"no end") == b"no end\r\n"


def test_a_message_without_a_body() -> None:
    assert is_good(signed(b"From: <a@a.test>\r\nSubject: x\r\n\r\n", SIGNER, 0))


LINE = st.text(st.characters(min_codepoint=9, max_codepoint=126, exclude_characters="\n\r\v\f"), max_size=90)


@settings(max_examples=60, deadline=None)
@given(st.lists(LINE, max_size=8), st.lists(LINE, max_size=20))
def test_any_message(texts: list[str], body: list[str]) -> None:
    fields = "".join([f"X-Field-{number % 3}: {text}\r\n" for number, text in enumerate(texts)])
    message = f"From: <a@a.test>\r\n{fields}\r\n" + "".join([f"{line}\r\n" for line in body])
    assert is_good(signed(message.encode(), SIGNER, 0))
