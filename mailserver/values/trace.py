"""Trace fields: Received and Return-Path (RFC 5321 §4.4, RFC 3848, RFC 6531 §4.3)."""

from __future__ import annotations

from mailserver.values.address import Address
from mailserver.values.dates import header_date
from mailserver.values.session import SessionFacts


def transmission_type(session: SessionFacts, smtputf8: bool) -> str:
    """The WITH word: SMTP, ESMTP, ESMTPS, ESMTPA, ESMTPSA, LMTP… (RFC 3848), UTF8SMTP… (RFC 6531)."""
    if not session.extended:
        return "SMTP"
    base = "LMTP" if session.role == "lmtp" else "SMTP"
    base = f"UTF8{base}" if smtputf8 else base if base == "LMTP" else "ESMTP"
    return base + ("S" if session.tls else "") + ("A" if session.account else "")


def address_literal(host: str) -> str:
    """``[192.0.2.1]`` or ``[IPv6:2001:db8::1]`` (RFC 5321 §4.1.3)."""
    return f"[IPv6:{host}]" if ":" in host else f"[{host}]"


def received(
    session: SessionFacts,
    hostname: str,
    queue_id: str,
    arrived: float,
    smtputf8: bool = False,
    recipient: Address | None = None,
    hide_client: bool = False,
) -> bytes:
    """The Received field, CRLF at the end of each line.

    With ``hide_client`` it tells neither name nor address of the client, for users who write from
    home; FROM must be there all the same (RFC 5321 §4.4), so it names what nobody is called.
    ``recipient`` may be given only when the message has exactly one (RFC 5321 §4.4, §7.2).
    """
    tls = f"\r\n\t(using {session.tls.version} with cipher {session.tls.cipher})" if session.tls else ""
    wanted = f"\r\n\tfor <{recipient}>" if recipient else ""
    client = f"{session.client_name} {address_literal(session.client_host)}".lstrip()
    whom = "client.invalid" if hide_client else f"{session.hello or 'unknown'} ({client})"
    return (
        f"Received: from {whom}{tls}\r\n"
        f"\tby {hostname} with {transmission_type(session, smtputf8)} id {queue_id}{wanted};\r\n"
        f"\t{header_date(arrived)}\r\n"
    ).encode()


def return_path(reverse_path: Address) -> bytes:
    """The Return-Path field that final delivery puts first (RFC 5321 §4.4)."""
    return f"Return-Path: <{reverse_path}>\r\n".encode()
