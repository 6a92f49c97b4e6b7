"""Re-encoding: the same text and the same files, in seven bits; what is signed stays as it is."""

import email
import email.policy

import pytest

from mailserver.wire.seven_bit import NotReencodable, in_seven_bits

TEXT = "Grüße aus Kraków\r\n.dot\r\nFrom here\r\n"


MULTIPARTS = b"".join(
    b"MIME\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(101)
)


def plain(body: bytes, extra: str = "") -> bytes:
    header = (
        "From: ada@a.test\r\nSubject: =?utf-8?q?x?=\r\nMIME-Version: 1.0\r\n"
        f"{extra}Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    )
    return header.encode() + body


def test_text_becomes_quoted_printable_and_reads_the_same() -> None:
    result = in_seven_bits(plain(TEXT.encode()))
    assert result.isascii()
    assert b"\n" not in result.replace(b"\r\n", b"")
    assert max(map(len, result.split(b"\r\n"))) <= 76
    read = email.message_from_bytes(result, policy=email.policy.default)
    assert read["Content-Transfer-Encoding"] == "quoted-printable"
    assert read.get_content().splitlines() == TEXT.splitlines()
    assert read["Subject"] == "x"


def test_parts_are_re_encoded_each_by_itself() -> None:
    octets = bytes(range(256)).replace(b"\r", b"").replace(b"\n", b"") * 3
    message = (
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n"
        b"Content-Transfer-Encoding: 8bit\r\n\r\n"
        b"--b\r\nContent-Type: text/plain\r\n\r\nplain\r\n"
        b"--b\r\nContent-Type: image/x-odd\r\nContent-Transfer-Encoding: binary\r\n\r\n"
        + octets
        + b"\r\n--b--\r\n"
    )
    result = in_seven_bits(message)
    assert result.isascii()
    first, second = email.message_from_bytes(result).get_payload()
    assert first.get_payload() == "plain"
    assert second.get_payload(decode=True) == octets


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (plain(TEXT.encode(), "DKIM-Signature: v=1\r\n"), "signed"),
        (
            plain(TEXT.encode()).replace(b"text/plain; charset=utf-8", b"multipart/signed; boundary=b"),
            "signed",
        ),
        (b"Subject: \xc3\xbc\r\nMIME-Version: 1.0\r\n\r\n" + TEXT.encode(), "header"),
        (b"Subject: x\r\n\r\n" + TEXT.encode(), "MIME-Version"),
        (MULTIPARTS.replace(b"MIME", b"MIME-Version: 1.0") + TEXT.encode(), "multiparts"),
        (b"MIME-Version: 1.0\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * 2000 + b"\xff", "too deep"),
    ],
)
def test_what_must_stay_as_it_is(message: bytes, why: str) -> None:
    with pytest.raises(NotReencodable, match=why):
        in_seven_bits(message)
