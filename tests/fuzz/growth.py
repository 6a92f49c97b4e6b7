"""Hostile octets of any size, and what they cost: ``python -m tests.fuzz.growth`` prints it for 12 KB."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from mailserver.wire import grammar, smtp_parameters
from mailserver.wire.mailboxes import UnreadableField, addresses_in
from mailserver.wire.pop3_downgrade import downgraded
from mailserver.wire.seven_bit import NotReencodable, in_seven_bits
from mailserver.wire.smtp_chunks import BinaryScanner, TextScanner
from mailserver.wire.smtp_data import ContentScanner
from mailserver.wire.strays import stray_protocol
from tests.fuzz.targets import OFFERS
from tests.wire.smtp_peer import Peer

Reader = Callable[[bytes], object]

SMALL = 12_000
"""Octets; a hostile address of this size has to cost less than a millisecond."""


def _path(text: bytes) -> object:
    try:
        return grammar.path(b"TO:" + text, b"TO:")
    except grammar.Malformed:
        return None


def _parameters(text: bytes) -> object:
    try:
        return smtp_parameters.parse(text, smtp_parameters.MAIL_PARAMETERS)
    except smtp_parameters.Unacceptable:
        return None


def _field(text: bytes) -> object:
    try:
        return addresses_in(text)
    except UnreadableField:
        return None


def _binary(text: bytes) -> object:
    scanner = BinaryScanner(10**8)
    return scanner.scan(text), scanner.finish()


def _seven_bit(text: bytes) -> object:
    try:
        return in_seven_bits(text)
    except NotReencodable:
        return None


def _session(text: bytes) -> object:
    return Peer(OFFERS[0]).say(b"EHLO x\r\nMAIL FROM:<a@b.test>\r\n" + text)


ADDRESSES: dict[str, tuple[bytes, bytes, bytes]] = {
    "quotes": (b"<", b'"', b""),
    "backslashes": (b'<"', b"\\", b""),
    "quoted pairs": (b'<"', b'\\"', b'"@c.test>'),
    "atoms": (b"<", b"a.", b"@c.test>"),
    "one atom": (b"<", b"a", b"@c.test>"),
    "labels": (b"<a@", b"a.", b">"),
    "hyphens": (b"<a@", b"a-", b">"),
    "bare hyphens": (b"<a@", b"-", b">"),
    "a route without an end": (b"<", b"@a,", b":a@b>"),
    "a route": (b"<@a", b",@a", b":a@b>"),
    "a literal": (b"<a@[", b"1.", b"]>"),
    "IPv6": (b"<a@[IPv6:", b":", b"]>"),
    "brackets": (b"", b"<", b">"),
    "parentheses": (b"<", b"(", b""),
    "U-labels": (b"<a@", "ü.".encode(), b"test>"),
    "one U-label": (b"<a@", "ü".encode(), b">"),
    "combining marks": (b"<a", "\u0308".encode(), b"@c.test>"),
    "A-labels": (b"<a@", b"xn--bcher-kva.", b"test>"),
    "spaces": (b"", b" ", b"x"),
    "at signs": (b"<a", b"@a", b">"),
}
"""What stands in front, what is repeated, what stands behind."""

OTHERS: dict[str, tuple[Reader, bytes, bytes, bytes]] = {
    "spaces among parameters": (_parameters, b"", b" ", b"X"),
    "parameters": (_parameters, b"", b"SIZE=1 ", b""),
    "xtext": (_parameters, b"ENVID=", b"+41", b""),
    "one keyword": (_parameters, b"", b"A-", b""),
    "commas in From": (_field, b"", b"a@b,", b""),
    "comments in From": (_field, b"", b"(", b""),
    "quotes in From": (_field, b"", b'"\\"', b""),
    "angles in From": (_field, b"", b"a@b <a@b>,", b""),
    "dots": (lambda t: ContentScanner(10**8).scan(t), b"", b"\r\n..", b"\r\n.\r\n"),
    "false ends, mended": (
        lambda t: ContentScanner(10**8, normalize=True).scan(t),
        b"",
        b"\n.",
        b"\r\n.\r\n",
    ),
    "bare line ends": (lambda t: ContentScanner(10**8).scan(t), b"", b"\r\n\r", b"\r\n.\r\n"),
    "one line": (lambda t: TextScanner(10**8).scan(t), b"", b"x", b""),
    "comments in Content-Type": (_binary, b"Content-Type: ", b"(", b"\r\n\r\n"),
    "comments in comments": (_binary, b"Content-Type: ", b"(()", b"\r\n\r\n"),
    "comments deep in comments": (_binary, b"Content-Type: " + b"(" * 9000, b")", b"\r\n\r\n"),
    "a folded Content-Type": (_binary, b"Content-Type: x", b"\r\n x", b"\r\n\r\n"),
    "parameters of Content-Type": (_binary, b"Content-Type: multipart/x", b";\r\n a=b", b"\r\n\r\n"),
    "boundaries": (_binary, b"Content-Type: multipart/x; boundary=b\r\n\r\n", b"\r\n--", b"b--\r\n"),
    "binary parts": (_binary, b"Content-Type: multipart/x; boundary=b\r\n\r\n", b"\r\n--b\r\n\r\n", b""),
    "commands": (_session, b"", b"X\r\n", b""),
    "recipients": (_session, b"", b"RCPT TO:<a>\r\n", b""),
    "empty commands": (_session, b"", b"\r\n", b""),
    "a line without an end": (_session, b"", b"x", b""),
    "chunks": (_session, b"RCPT TO:<a@b.test>\r\n", b"BDAT 1\r\nx", b""),
    "stray octets": (stray_protocol, b"GET /", b"x", b""),
    "a header for old readers": (
        lambda t: b"".join(downgraded(iter([t]))),
        b"Subject: ",
        "ü ".encode(),
        b"\r\n\r\n",
    ),
    "words for old readers": (
        lambda t: b"".join(downgraded(iter([t]))),
        b"To: ",
        "<ü@b>,".encode(),
        b"\r\n\r\n",
    ),
    "parts to be made ASCII": (
        _seven_bit,
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n",
        "--b\r\n\r\nü\r\n".encode(),
        b"--b--\r\n",
    ),
    "parameters to be made ASCII": (
        _seven_bit,
        b"Content-Type: text/plain",
        b";\r\n a*1=b",
        "\r\n\r\nü\r\n".encode(),
    ),
}

CASES: dict[str, tuple[Reader, bytes, bytes, bytes]] = {
    **{f"address: {name}": (_path, *parts) for name, parts in ADDRESSES.items()},
    **OTHERS,
}


def hostile(name: str, octets: int) -> tuple[Reader, bytes]:
    """Who reads it, and about so many octets of it."""
    reader, before, repeated, after = CASES[name]
    return reader, before + repeated * (octets // len(repeated)) + after


def seconds(name: str, octets: int, times: int = 5) -> float:
    """Processor time of this thread, the least of some tries: what others do on the machine counts little."""
    reader, text = hostile(name, octets)
    tries = []
    for _ in range(times):
        begin = time.thread_time()
        reader(text)
        tries.append(time.thread_time() - begin)
    return min(tries)


def main() -> None:
    for name in CASES:
        small, large = seconds(name, SMALL, 20), seconds(name, 16 * SMALL)
        grown = f"{large / small:5.1f} times that for 16 times as many"
        sys.stdout.write(f"{name:32} {small * 1e6:8.0f} µs for {SMALL} octets, {grown}\n")


if __name__ == "__main__":
    main()
