"""XCLIENT: a proxy that we trust tells whom it speaks for, as Dovecot's POP3 proxies do before log-in."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from mailserver.wire.pop3_table import SyntaxWrong

_LONGEST_SESSION = 100


@dataclass(frozen=True, slots=True)
class Client:
    """``host`` and ``session`` are ``""`` and ``port`` is 0 where the proxy said nothing of them."""

    host: str = ""
    port: int = 0
    session: str = ""


def xclient(rest: bytes) -> Client:
    """The arguments of XCLIENT, ``NAME=value`` each; names that we do not know are passed over.

    Raises:
        SyntaxWrong: one that we know has no value that it can have.
    """
    try:
        words = rest.decode("ascii").split()
        told = dict(word.split("=", 1) for word in words)
        host = str(ip_address(told["ADDR"].removeprefix("IPV6:"))) if "ADDR" in told else ""
    except ValueError:
        raise SyntaxWrong from None
    port, session = told.get("PORT", "0"), told.get("SESSION", "")
    if not words or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise SyntaxWrong
    if len(session) > _LONGEST_SESSION or not session.isprintable():
        raise SyntaxWrong
    return Client(host, int(port), session)
