"""Outcomes -> DSN: what a sender is told about recipients that failed or wait long (RFC 3464)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from mailserver import maillog
from mailserver.dispatch.bounce_words import delayed_words, failed_words, subject, success_words
from mailserver.dispatch.delivery_status import delivery_status, is_international
from mailserver.interfaces import Notice
from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.content import Content
from mailserver.values.dates import header_date
from mailserver.values.envelope import Entry, Envelope, Recipient
from mailserver.values.outcome import Delayed, Delivered, Expanded, Failed, Outcome, Relayed
from mailserver.words import header_text, known

_FULL_OCTETS = 256 * 1024
"""Content up to this size goes back whole when the sender asks for it by RET=FULL."""

_FULL_UNASKED_OCTETS = 50 * 1024
"""Content up to this size goes back whole when the sender says nothing of RET."""

_HEADER_OCTETS = 64 * 1024

_Part = tuple[str, bytes]
"""A media type with its parameters, and a body that ends in CRLF."""


class Reporter:
    """Writes the DSNs of one host.

    ``hostname`` names the reporting MTA; ``gives_up_at(began)`` tells, in seconds since the
    epoch, how long a delayed message is tried; ``language_of`` which language a sender reads (a tag of
    ``words.LANGUAGES``); ``token`` gives a random word for boundary and Message-ID, and is for tests.
    """

    def __init__(
        self,
        hostname: str,
        gives_up_at: Callable[[float], float] | None = None,
        token: Callable[[], str] = lambda: secrets.token_hex(12),
        language_of: Callable[[Address], str] = lambda sender: "en",
    ) -> None:
        self._hostname = hostname
        self._language_of = language_of
        self._gives_up_at = gives_up_at
        self._token = token

    def report(self, entry: Entry, outcomes: Sequence[Outcome], now: float) -> Notice | None:
        """One DSN for all recipients in ``outcomes`` that failed and whose sender wants to know.

        ``None`` when there are none, and always for the null sender: a failed DSN makes nothing
        (RFC 5321 §4.5.5, §6.1).
        """
        failed = [o for o in outcomes if isinstance(o, Failed) and _wanted(o.recipient, "FAILURE")]
        if not failed or entry.envelope.reverse_path == NULL_SENDER:
            return None
        language = self._language(entry)
        words = failed_words(entry, failed, self._hostname, language)
        return self._notice(entry, failed, now, (language, words), _returned(entry))

    def warning(self, entry: Entry, outcomes: Sequence[Outcome], now: float) -> Notice | None:
        """One DSN for all recipients in ``outcomes`` that are delayed; ``None`` as in ``report``."""
        late = [o for o in outcomes if isinstance(o, Delayed) and _wanted(o.recipient, "DELAY")]
        if not late or entry.envelope.reverse_path == NULL_SENDER:
            return None
        language = self._language(entry)
        words = delayed_words(entry, late, self._hostname, self._end(entry), language)
        # RET speaks of failures only; a report of delay has the headers (RFC 3461 §4.3).
        return self._notice(entry, late, now, (language, words), _header_part(entry))

    def successes(self, entry: Entry, outcomes: Sequence[Outcome], now: float) -> list[Notice]:
        """One DSN for each kind of success that NOTIFY=SUCCESS asks to hear of, or BY's trace.

        A relay is reported when the next server will not report itself (RFC 3461 §5.2.2), or when
        BY asks for a trace (RFC 2852 §4); an expansion when nothing else will tell (§5.2.7.3).
        """
        envelope = entry.envelope
        if envelope.reverse_path == NULL_SENDER:
            return []
        trace = envelope.by_mode.endswith("T")
        kinds: dict[type[Outcome], list[Outcome]] = {}
        for outcome in outcomes:
            if _tells_success(outcome, trace):
                kinds.setdefault(type(outcome), []).append(outcome)
        language = self._language(entry) if kinds else ""
        # Only a report of failure ever has the whole message (RFC 3461 §4.3).
        return [
            self._notice(
                entry, told, now, (language, success_words(entry, told, kind, language)), _header_part(entry)
            )
            for kind, told in kinds.items()
        ]

    def _language(self, entry: Entry) -> str:
        """What the sender reads. Not knowing it must not cost the report."""
        try:
            return known(self._language_of(entry.envelope.reverse_path))
        except Exception as error:
            maillog.fault("asking the directory for a sender's language", error, entry.queue_id)
            return "en"

    def _end(self, entry: Entry) -> float | None:
        return None if self._gives_up_at is None else self._gives_up_at(entry.began)

    def _notice(
        self,
        entry: Entry,
        outcomes: Sequence[Outcome],
        now: float,
        told: tuple[str, str],
        returned: _Part | None,
    ) -> Notice:
        """``outcomes`` of one kind; ``told``: the language, and the text for people in it."""
        language, words = told
        status = delivery_status(entry, outcomes, self._hostname, now, self._end(entry))
        utf8 = is_international(entry, [outcome.recipient for outcome in outcomes])
        kind = "message/global-delivery-status" if utf8 else "message/delivery-status"
        text = words.replace("\n", "\r\n").encode("utf-8", "replace")
        charset = "us-ascii" if text.isascii() else "utf-8"
        parts = [(f"text/plain; charset={charset}\r\nContent-Language: {language}", text), (kind, status)]
        if returned is not None:
            parts.append(returned)
        sender = entry.envelope.reverse_path
        content = self._message(sender, subject(type(outcomes[0]), language), now, parts)
        return Notice(_envelope(sender, content), content)

    def _message(self, sender: Address, title: str, now: float, parts: Sequence[_Part]) -> bytes:
        """The whole message: header, then ``parts`` as multipart/report (RFC 6522 §3)."""
        token = self._token()
        while any(token.encode() in body for _, body in parts):
            token = self._token()
        encoding = _encoding([body for _, body in parts])
        header = (
            f"From: Mail Delivery System <MAILER-DAEMON@{self._hostname}>\r\n"
            f"To: <{sender}>\r\n"
            f"Subject: {header_text(title)}\r\n"
            f"Date: {header_date(now)}\r\n"
            f"Message-ID: <{token}@{self._hostname}>\r\n"
            "Auto-Submitted: auto-replied\r\n"
            "MIME-Version: 1.0\r\n"
            "Content-Type: multipart/report; report-type=delivery-status;\r\n"
            f'\tboundary="=_{token}"\r\n'
            f"Content-Transfer-Encoding: {encoding}\r\n"
            "\r\n"
            "This is a delivery report in MIME format (RFC 3464).\r\n"
        )
        pieces = [header.encode("utf-8", "replace")]
        for kind, body in parts:
            pieces.append(
                f"\r\n--=_{token}\r\nContent-Type: {kind}\r\n"
                f"Content-Transfer-Encoding: {_encoding([body])}\r\n\r\n".encode()
            )
            pieces.append(body)
        pieces.append(f"\r\n--=_{token}--\r\n".encode())
        return b"".join(pieces)


def _wanted(recipient: Recipient, word: str) -> bool:
    """Whether NOTIFY lets us report ``word``; without NOTIFY we do (RFC 3461 §4.1)."""
    return not recipient.notify or word in recipient.notify


def _tells_success(outcome: Outcome, trace: bool) -> bool:
    notify = outcome.recipient.notify
    if isinstance(outcome, Relayed):
        return ("SUCCESS" in notify and not outcome.notifies) or (trace and "NEVER" not in notify)
    if isinstance(outcome, Expanded):
        return outcome.recipient.is_expanded
    return isinstance(outcome, Delivered) and "SUCCESS" in notify


def _envelope(sender: Address, content: bytes) -> Envelope:
    return Envelope(
        reverse_path=NULL_SENDER,
        recipients=(Recipient(0, sender, sender),),
        body="7BIT" if content.isascii() else "8BITMIME",
        smtputf8=not sender.is_ascii,
    )


def _encoding(bodies: Sequence[bytes]) -> str:
    return "7bit" if all(body.isascii() for body in bodies) else "8bit"


# -- what of the message goes back ---------------------------------------------------------------


def _returned(entry: Entry) -> _Part | None:
    """The message, or its headers, as RET and size want it (RFC 3461 §4.3, §6.2)."""
    envelope, size = entry.envelope, entry.content.size
    limit = {"FULL": _FULL_OCTETS, "HDRS": 0}.get(envelope.ret, _FULL_UNASKED_OCTETS)
    # What must not be seen in clear is not sent back in a report that may be (RFC 8689 §4.2.4).
    if size > limit or envelope.body == "BINARYMIME" or envelope.require_tls:
        return _header_part(entry)
    try:
        octets = b"".join(entry.content.chunks())
    except OSError:
        return None
    return ("message/global" if _is_international(octets) else "message/rfc822"), octets


def _header_part(entry: Entry) -> _Part | None:
    try:
        octets = _header_of(entry.content)
    except OSError:
        return None
    return ("message/global-headers" if not octets.isascii() else "text/rfc822-headers"), octets


def _is_international(octets: bytes) -> bool:
    """Whether the header is outside ASCII (RFC 6532 §3.7); an 8-bit body alone is not."""
    end = octets.find(b"\r\n\r\n")
    return not octets[: end if end >= 0 else len(octets)].isascii()


def _header_of(content: Content) -> bytes:
    """The header fields with the last one's CRLF, whole lines of at most ``_HEADER_OCTETS``."""
    start = b""
    for chunk in content.chunks():
        start += chunk[: _HEADER_OCTETS + 4 - len(start)]
        if b"\r\n\r\n" in start or len(start) > _HEADER_OCTETS:
            break
    if start.startswith(b"\r\n"):
        return b""
    end = start.find(b"\r\n\r\n")
    if end >= 0:
        return start[: end + 2]
    return start if len(start) <= _HEADER_OCTETS else start[: start.rfind(b"\r\n", 0, _HEADER_OCTETS) + 2]
