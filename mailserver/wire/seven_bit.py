"""A message with 8-bit or binary parts, re-encoded so that seven bits carry it (RFC 6152 §3, RFC 2045 §6)."""

from __future__ import annotations

import binascii
import email
import email.policy
import quopri
import re
from email.message import Message

_POLICY = email.policy.compat32.clone(linesep="\r\n", max_line_length=0)
_OPAQUE = ("application/pkcs7-mime", "application/x-pkcs7-mime", "multipart/signed", "multipart/encrypted")
_MOST_MULTIPARTS = 100
"""The library's parser compares each line with the boundaries of all parts that are open."""
_MULTIPART = re.compile(rb"boundary[ \t]*=", re.IGNORECASE)
_SIGNED_FIELDS = ("DKIM-Signature", "ARC-Message-Signature", "DomainKey-Signature")


class NotReencodable(Exception):
    """It must stay as it is; the text says why."""


def in_seven_bits(octets: bytes) -> bytes:
    """The same message with every part in 7bit, quoted-printable or base64.

    Raises:
        NotReencodable: it is signed, its header is not ASCII, it is no MIME message, or one with too
            many parts in parts.
    """
    end = octets.find(b"\r\n\r\n")
    header = octets[: end if end >= 0 else len(octets)]
    if not header.isascii():
        raise NotReencodable("its header is not ASCII")
    if sum(1 for _ in _MULTIPART.finditer(octets)) > _MOST_MULTIPARTS:
        raise NotReencodable(f"it has more than {_MOST_MULTIPARTS} multiparts")
    try:
        return _reencoded(octets)
    except RecursionError:
        raise NotReencodable("its parts are too deep within each other") from None


def _reencoded(octets: bytes) -> bytes:
    message = email.message_from_bytes(octets, policy=_POLICY)
    if any(message.get(name) is not None for name in _SIGNED_FIELDS):
        raise NotReencodable("it is signed")
    if message.get("MIME-Version") is None:
        raise NotReencodable("it does not say what its octets mean (no MIME-Version)")
    _convert(message)
    result = message.as_bytes(policy=_POLICY)
    if not result.isascii():
        raise NotReencodable("a part of it cannot be re-encoded")
    return result if result.endswith(b"\r\n") else result + b"\r\n"


def _convert(part: Message) -> None:
    if part.get_content_type() in _OPAQUE:
        raise NotReencodable("it is signed or encrypted")
    encoding = str(part.get("Content-Transfer-Encoding", "7bit")).strip().lower()
    if part.is_multipart():
        for inner in part.get_payload():
            assert isinstance(inner, Message)
            _convert(inner)
        if encoding in ("8bit", "binary"):
            part.replace_header("Content-Transfer-Encoding", "7bit")
        return
    if encoding in ("quoted-printable", "base64"):
        return
    body = part.get_payload(decode=True)
    assert isinstance(body, bytes)
    if body.isascii() and encoding != "binary":
        return
    del part["Content-Transfer-Encoding"]
    if part.get_content_maintype() == "text" and encoding != "binary":
        part["Content-Transfer-Encoding"] = "quoted-printable"
        lines = body.replace(b"\r\n", b"\n")
        part.set_payload(quopri.encodestring(lines).decode("ascii"))
    else:
        part["Content-Transfer-Encoding"] = "base64"
        pieces = [body[start : start + 57] for start in range(0, len(body), 57)]
        part.set_payload(b"".join(binascii.b2a_base64(piece) for piece in pieces).decode("ascii"))
