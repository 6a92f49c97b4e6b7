"""Clients that speak another protocol to a mail port: known by their first octets."""

from __future__ import annotations

HTTP_METHODS = frozenset(
    {"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "PATCH", "TRACE", "PRI"}
)
"""No mail command is called like one of these (RFC 9110 §9.1, RFC 9113 §3.4)."""

_METHODS = tuple(f"{method} ".encode() for method in HTTP_METHODS)


def stray_protocol(octets: bytes) -> str:
    """What the first octets of a connection are, if not mail: ``"TLS"``, ``"HTTP"``, or ``""``.

    A TLS record of a handshake begins 0x16 0x03 (RFC 8446 §5.1).  A browser can be led to send
    mail commands in the body of a request, so nothing behind a request line may be read.
    """
    if octets.startswith(b"\x16\x03"):
        return "TLS"
    return "HTTP" if octets.startswith(_METHODS) else ""
