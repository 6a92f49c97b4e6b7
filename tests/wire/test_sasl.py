"""SASL mechanisms: what they accept, and how they refuse (RFC 4616, draft-murchison-sasl-login)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.wire.sasl import (
    MAX_NAME_OCTETS,
    MAX_PASSWORD_OCTETS,
    AuthorizationRefused,
    Challenge,
    Login,
    Plain,
    PlainCredentials,
    SaslError,
    decode_base64,
    encode_base64,
)


@pytest.mark.parametrize(
    ("text", "octets"),
    [(b"", b""), (b"=", b""), (b"AGFkYQBzZWNyZXQ=", b"\0ada\0secret"), (b"/+8=", b"\xff\xef")],
)
def test_base64_is_decoded(text: bytes, octets: bytes) -> None:
    assert decode_base64(text) == octets


@pytest.mark.parametrize(
    "text",
    [b"A", b"AA", b"AAA", b"AA==A", b"====", b"AA AA", b"AA\nAA", b"AA==\r", b"_-8=", b"\xff", b"=AAA"],
)
def test_base64_is_strict(text: bytes) -> None:
    with pytest.raises(SaslError):
        decode_base64(text)


@given(st.binary(max_size=200))
def test_base64_goes_round(octets: bytes) -> None:
    assert decode_base64(encode_base64(octets)) == octets


def test_plain_with_an_initial_response() -> None:
    assert Plain().step(b"\0ada\0secret") == PlainCredentials("ada", "secret", "")


def test_plain_asks_when_none_was_given() -> None:
    plain = Plain()
    assert plain.step(None) == Challenge(b"")
    assert plain.step(b"\0ada\0secret") == PlainCredentials("ada", "secret", "")


def test_plain_is_utf8() -> None:
    name, password = "оля@пошта.укр", "رمز ğüş"
    assert Plain().step(f"\0{name}\0{password}".encode()) == PlainCredentials(name, password, "")


def test_plain_may_name_the_same_authorization() -> None:
    assert Plain().step(b"ada\0ada\0x") == PlainCredentials("ada", "x", "ada")


@pytest.mark.parametrize("other", [b"bob", b"ADA", b"ada "])
def test_plain_refuses_another_authorization(other: bytes) -> None:
    with pytest.raises(AuthorizationRefused):
        Plain().step(other + b"\0ada\0x")


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"ada",
        b"\0ada",
        b"ada\0secret",
        b"\0\0secret",
        b"\0ada\0",
        b"\0ada\0secret\0",
        b"\0ada\0sec\0ret",
        b"\0\xff\0secret",
        b"\0ada\0\xc3",
        b"\xed\xa0\x80\0ada\0x",
        b"\0" + b"a" * (MAX_NAME_OCTETS + 1) + b"\0x",
        b"a" * (MAX_NAME_OCTETS + 1) + b"\0a\0x",
        b"\0a\0" + b"x" * (MAX_PASSWORD_OCTETS + 1),
    ],
)
def test_plain_refuses(response: bytes) -> None:
    with pytest.raises(SaslError):
        Plain().step(response)


def test_plain_accepts_what_the_rfc_asks_for() -> None:
    name, password = "n" * 255, "p" * 255
    assert Plain().step(f"\0{name}\0{password}".encode()) == PlainCredentials(name, password, "")


def test_login_asks_twice() -> None:
    login = Login()
    assert login.step(None) == Challenge(b"Username:")
    assert login.step(b"ada") == Challenge(b"Password:")
    assert login.step(b"secret") == PlainCredentials("ada", "secret", "")


def test_login_takes_an_initial_response_as_the_name() -> None:
    login = Login()
    assert login.step(b"ada") == Challenge(b"Password:")
    assert login.step(b"secret") == PlainCredentials("ada", "secret", "")


@pytest.mark.parametrize(
    "responses",
    [
        [None, b""],
        [None, None],
        [b""],
        [b"\xff"],
        [b"a\0b"],
        [b"a" * (MAX_NAME_OCTETS + 1)],
        [b"ada", b""],
        [b"ada", b"x\0"],
        [b"ada", b"x" * (MAX_PASSWORD_OCTETS + 1)],
    ],
)
def test_login_refuses(responses: list[bytes | None]) -> None:
    login = Login()
    for response in responses[:-1]:
        login.step(response)
    with pytest.raises(SaslError):
        login.step(responses[-1])


def test_a_finished_exchange_takes_no_more() -> None:
    for mechanism, responses in ((Plain(), [b"\0ada\0x"]), (Login(), [b"ada", b"x"])):
        for response in responses:
            mechanism.step(response)
        with pytest.raises(SaslError):
            mechanism.step(b"\0ada\0x")


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(PlainCredentials("ada", "secret"))
