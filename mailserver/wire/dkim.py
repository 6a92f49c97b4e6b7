"""A DKIM signature over a message of our own: octets in, signed octets out (RFC 6376, relaxed/relaxed)."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass

_WHITE = re.compile(rb"[ \t]+")
_NEVER_SIGNED = frozenset({b"received", b"return-path", b"dkim-signature"})
"""What is added on the way (RFC 6376 §5.4); our own messages begin without."""
_LINE = 72


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs: the public key is at ``selector._domainkey.domain``; ``sign`` makes an RSA signature
    with SHA-256 (PKCS #1 v1.5, RFC 6376 §3.3.1)."""

    domain: str
    selector: str
    sign: Callable[[bytes], bytes]


def signed(message: bytes, signer: Signer, now: float) -> bytes:
    """``message``, whose lines end in CRLF, with a DKIM-Signature before its header.

    Every field is signed, and From once more than it is there: nobody can add a second one (§8.15).
    """
    header, _, body = message.partition(b"\r\n\r\n")
    fields = [(name, text) for name, text in _fields(header) if name not in _NEVER_SIGNED]
    # Of fields with one name the last is signed first (§5.4.2).
    fields.reverse()
    names = [name.decode("ascii") for name, _ in fields] + ["from"]
    tags = [
        "a=rsa-sha256",
        "c=relaxed/relaxed",
        f"d={signer.domain}",
        f"s={signer.selector}",
        f"t={int(now)}",
        f"h={':'.join(names)}",
        f"bh={_base64(hashlib.sha256(relaxed_body(body)).digest())}",
    ]
    unsigned = _folded("DKIM-Signature: v=1;", [f"{tag};" for tag in tags]) + b"\r\n\tb="
    hashed = b"".join([relaxed_field(name, text) + b"\r\n" for name, text in fields])
    name, _, text = unsigned.partition(b":")
    signature = _base64(signer.sign(hashed + relaxed_field(name, text)))
    lines = [signature[start : start + _LINE] for start in range(0, len(signature), _LINE)]
    return unsigned + "\r\n\t ".join(lines).encode("ascii") + b"\r\n" + message


def relaxed_field(name: bytes, text: bytes) -> bytes:
    """One field as §3.4.2 wants it, without its line end; ``text`` is what follows the colon."""
    return name.lower().rstrip(b" \t") + b":" + _WHITE.sub(b" ", text.replace(b"\r\n", b"")).strip(b" ")


def relaxed_body(body: bytes) -> bytes:
    """A body as §3.4.4 wants it: runs of white space are one space, none ends a line, no empty line ends
    the body."""
    lines = [_WHITE.sub(b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
    while lines and not lines[-1]:
        lines.pop()
    return b"\r\n".join([*lines, b""]) if lines else b""


def _fields(header: bytes) -> list[tuple[bytes, bytes]]:
    """Names in lower case, and what follows their colons, lines still folded."""
    found = []
    for field in re.split(rb"\r\n(?![ \t])", header):
        name, colon, text = field.partition(b":")
        if colon:
            found.append((name.rstrip(b" \t").lower(), text))
    return found


def _folded(line: str, tags: list[str]) -> bytes:
    """``line`` and tags in lines of bearable length; a long list of names is broken at its colons (§3.5)."""
    lines = []
    for tag in tags:
        for piece in re.findall(r"[^:]*:|[^:]+$", tag) if tag.startswith("h=") else [tag]:
            gap = "" if not line or line.endswith(":") else " "
            if len(line) + len(gap) + len(piece) > _LINE:
                lines.append(line)
                line, gap = "", ""
            line += gap + piece
    return "\r\n\t".join([*lines, line]).encode("ascii")


def _base64(octets: bytes) -> str:
    return b64encode(octets).decode("ascii")
