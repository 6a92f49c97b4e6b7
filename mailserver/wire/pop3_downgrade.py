"""A header in UTF-8 for a client that has not asked for UTF8: the same in ASCII, as RFC 6858 has it."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator

HEAD_OCTETS = 64 * 1024
"""How much of a message is searched for the end of its header."""

_FIELD = re.compile(rb"[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")
_ADDRESSES = {
    b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc", b"return-path", b"delivered-to",
    b"resent-from", b"resent-sender", b"resent-to", b"resent-cc", b"resent-bcc", b"resent-reply-to",
}  # fmt: skip
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|<[^<>]*>|[^\s<>",;:()]+|\s+|.', re.DOTALL)
_ENCODED_OCTETS = 45  # 60 characters of base64: an encoded word has at most 75 (RFC 2047 §2)


def downgraded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The message with an ASCII header; the same pieces where its header is ASCII, or no UTF-8.

    Bodies are left alone: 8-bit text in them has been POP3's since RFC 1939.  An address outside
    ASCII cannot be told in ASCII; in its place stands an empty group that shows it (RFC 6858 §3.1).
    """
    head = b""
    for piece in pieces:
        head += piece
        end = head.find(b"\r\n\r\n")
        if end >= 0 or len(head) >= HEAD_OCTETS:
            break
    else:
        end = len(head) - 2 if head.endswith(b"\r\n") else -1
    if end >= 0 and not head.isascii():
        header = head[: end + 2]
        if not header.isascii() and _is_utf8(header):
            head = b"".join(map(_field, _FIELD.findall(header))) + head[end + 2 :]
    yield head
    yield from pieces


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


def _field(field: bytes) -> bytes:
    if field.isascii():
        return field
    name, colon, value = field.partition(b":")
    if not colon or not name.isascii():
        return b"X-Downgraded: " + _encoded(field.decode().strip()).encode() + b"\r\n"
    text = " ".join(value.decode().split())
    if name.strip().lower() in _ADDRESSES:
        return name + b": " + ",\r\n ".join(map(_address, _split(text))).encode() + b"\r\n"
    words = [word if word.isascii() else None for word in text.split(" ")]
    return name + b": " + _runs(text.split(" "), words).encode() + b"\r\n"


def _runs(words: list[str], plain: list[str | None]) -> str:
    """ASCII words as they are; runs of others encoded together: spaces between encoded words vanish."""
    out: list[str] = []
    run: list[str] = []
    for word, ascii_word in zip(words, plain, strict=True):
        if ascii_word is None:
            run.append(word)
            continue
        if run:
            out.append(_encoded(" ".join(run)))
            run = []
        out.append(ascii_word)
    if run:
        out.append(_encoded(" ".join(run)))
    return "\r\n ".join(out) if len(out) > 8 else " ".join(out)


def _encoded(text: str) -> str:
    """Encoded words (RFC 2047), each of whole characters."""
    words: list[str] = []
    octets = b""
    for character in text:
        more = character.encode()
        if len(octets) + len(more) > _ENCODED_OCTETS:
            words.append(octets.decode())
            octets = b""
        octets += more
    words.append(octets.decode())
    return "\r\n ".join(f"=?utf-8?b?{b64encode(word.encode()).decode()}?=" for word in words)


def _split(text: str) -> Iterator[str]:
    """Addresses, by the commas that are in no quotes and no comment."""
    depth, current = 0, ""
    for token in _WORD.findall(text):
        depth += (token == "(") - (token == ")" and depth > 0)
        if token == "," and not depth:
            yield current.strip()
            current = ""
        else:
            current += token
    yield current.strip()


def _address(text: str) -> str:
    if text.isascii():
        return text
    name, angle, rest = text.rpartition("<")
    address, closing, after = rest.partition(">")
    if not angle or not closing:
        address, name, after = text, "", ""
    if not address.isascii():
        return f"{_encoded(text)} :;"
    shown = name.strip().strip('"').replace('\\"', '"')
    comment = f" {_encoded(after)}" if after.strip() and not after.isascii() else after
    return f"{shown if shown.isascii() else _encoded(shown)} <{address}>{comment}"
