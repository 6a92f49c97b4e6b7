"""One command line becomes an event or a refusal: a pure function for each command that has an argument."""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Any

from mailserver.values.reply import Reply, reply
from mailserver.wire import grammar, smtp_parameters
from mailserver.wire.sasl_mechanisms import usable
from mailserver.wire.smtp_events import (
    AuthBegin,
    AuthResponse,
    DataBegin,
    Event,
    Expand,
    Hello,
    MailFrom,
    Offer,
    Quit,
    RcptTo,
    Reset,
    StartQueue,
    StartTLS,
    Verify,
)
from mailserver.wire.smtp_table import FULL, TLS, UTF8, VERIFY, Command

_NAME_OCTETS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:[]")
_CLEAN = bytes(n if n in _NAME_OCTETS else ord("?") for n in range(256))

_NAME_TOO_LONG = reply(501, "5.5.4", "A host name has at most 255 octets")
_BAD_BASE64 = reply(501, "5.5.2", "Not valid base64")
_BAD_MECHANISM = reply(504, "5.5.4", "Unknown authentication mechanism; EHLO lists them")
_TOO_MANY_RECIPIENTS = reply(452, "4.5.3", "Too many recipients; send the message again to the others")
_TOO_LARGE = reply(552, "5.3.4", "Message size exceeds the limit")
_NEEDS_SMTPUTF8 = reply(553, "5.6.7", "An address outside ASCII needs SMTPUTF8 on MAIL")
_WORD_NEEDS_SMTPUTF8 = reply(553, "5.6.7", "A name outside ASCII needs SMTPUTF8 behind it")
_TWO_RELEASES = reply(501, "5.5.4", "HOLDFOR and HOLDUNTIL exclude each other")
_NO_DOMAIN = reply(501, "5.5.4", "Syntax: ETRN domain")

Read = Event | Reply
Reader = Callable[[bytes, Command, Offer, int], Read]
"""The argument, its row, what the listener offers, and the facts (``smtp_table``) that are true."""


def shown(word: bytes) -> str:
    """What of an unknown verb may stand in a log: never an argument, which could be a password."""
    return word[:16].upper().translate(_CLEAN).decode("ascii")


def _hello(argument: bytes, command: Command, offer: Offer, facts: int) -> Read:
    if len(argument) > grammar.DOMAIN_OCTETS:
        return _NAME_TOO_LONG
    return Hello(argument.translate(_CLEAN).decode("ascii"), command.verb != "HELO")


def _mail(argument: bytes, command: Command, offer: Offer, facts: int) -> Read:
    try:
        path = grammar.path(argument, b"FROM:")
        if path is None:
            return command.bad_syntax
        fields: Any = smtp_parameters.parse(path.rest, smtp_parameters.MAIL_PARAMETERS, facts)
    except grammar.Malformed as why:
        return _bad_path("5.1.7", "sender", why, command)
    except smtp_parameters.Unacceptable as why:
        return why.reply
    # SEND, SOML and SAML are MAIL to terminals (RFC 821 §3.4).
    event = MailFrom(path.address, **fields, verb=command.verb)
    return _mail_refusal(event, offer) or event


def _mail_refusal(event: MailFrom, offer: Offer) -> Reply | None:
    if not event.path.domain and event.path.local:
        return reply(501, "5.1.7", "A sender address needs @ and a domain")
    if not event.smtputf8 and not event.path.is_ascii:
        return _NEEDS_SMTPUTF8
    if event.hold_for and event.hold_until:
        return _TWO_RELEASES
    return _TOO_LARGE if event.size > offer.message_size else None


def _rcpt(argument: bytes, command: Command, offer: Offer, facts: int) -> Read:
    try:
        path = grammar.path(argument, b"TO:")
        if path is None:
            return command.bad_syntax
        fields: Any = smtp_parameters.parse(path.rest, smtp_parameters.RCPT_PARAMETERS)
    except grammar.Malformed as why:
        return _bad_path("5.1.3", "recipient", why, command)
    except smtp_parameters.Unacceptable as why:
        return why.reply
    event = RcptTo(path.address, **fields)
    return _rcpt_refusal(event, facts) or event


def _rcpt_refusal(event: RcptTo, facts: int) -> Reply | None:
    if not event.path.local:
        return reply(501, "5.1.3", "A recipient address cannot be empty. Syntax: RCPT TO:<address>")
    if not facts & UTF8 and not (event.path.is_ascii and event.orcpt.isascii()):
        return _NEEDS_SMTPUTF8
    return _TOO_MANY_RECIPIENTS if facts & FULL else None


def _bad_path(enhanced: str, whose: str, why: Exception, command: Command) -> Reply:
    return reply(501, enhanced, f"Bad {whose} address: {why}. Syntax: {command.syntax}")


def _verify(argument: bytes, command: Command, offer: Offer, facts: int) -> Read:
    """RFC 5321 §3.5.1; SMTPUTF8 behind the name as RFC 6531 §3.7.4.2 has it."""
    name, _, parameter = argument.rpartition(b" ")
    smtputf8 = bool(name) and parameter.upper() == b"SMTPUTF8"
    try:
        text = grammar.decoded(name.rstrip(b" ") if smtputf8 else argument)
    except grammar.Malformed as why:
        return reply(501, "5.5.2", f"The argument is malformed: {why}")
    if not smtputf8 and not text.isascii():
        return _WORD_NEEDS_SMTPUTF8
    if command.verb == "EXPN":
        return Expand(text, smtputf8)
    return Verify(text, smtputf8, facts & VERIFY != 0)


def _etrn(argument: bytes, command: Command, offer: Offer, facts: int) -> Read:
    """RFC 1985 §5.2: ``@domain`` means its subdomains too, ``#name`` a queue by name; we have neither."""
    if argument[:1] in b"@#":
        return _NO_DOMAIN
    try:
        return StartQueue(grammar.mailbox(b"etrn@" + argument).domain)
    except grammar.Malformed:
        return _NO_DOMAIN


def _auth(argument: bytes, command: Command, offer: Offer, facts: int) -> Read:
    word, space, response = argument.partition(b" ")
    mechanism = word.upper().decode("latin-1")
    if mechanism not in usable(offer.mechanisms, facts & TLS != 0):
        return _BAD_MECHANISM
    if not space:
        return AuthBegin(mechanism, None)
    initial = b"" if response == b"=" else _from_base64(response)
    if initial is None or not response:
        return _BAD_BASE64
    return AuthBegin(mechanism, initial)


def auth_response(line: bytes) -> AuthResponse | Reply:
    """A line of an AUTH exchange (RFC 4954 §4)."""
    if line == b"*":
        return AuthResponse(None)
    octets = _from_base64(line)
    return _BAD_BASE64 if octets is None else AuthResponse(octets)


def _from_base64(text: bytes) -> bytes | None:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return None


READERS: dict[str, Reader] = {
    "EHLO": _hello,
    "LHLO": _hello,
    "HELO": _hello,
    "STARTTLS": lambda argument, command, offer, facts: StartTLS(),
    "AUTH": _auth,
    "MAIL": _mail,
    "SEND": _mail,
    "SOML": _mail,
    "SAML": _mail,
    "RCPT": _rcpt,
    "DATA": lambda argument, command, offer, facts: DataBegin(),
    "RSET": lambda argument, command, offer, facts: Reset(),
    "VRFY": _verify,
    "EXPN": _verify,
    "ETRN": _etrn,
    "QUIT": lambda argument, command, offer, facts: Quit(),
}
"""By verb; what is not here the machine answers by itself (``smtp_server``)."""
