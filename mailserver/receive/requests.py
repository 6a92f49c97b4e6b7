"""What MAIL's parameters ask beyond taking the message: when, by when, how urgently, how safely."""

from __future__ import annotations

from typing import Any

from mailserver.values.reply import Reply, reply
from mailserver.values.session import SessionFacts
from mailserver.wire.smtp_events import MailFrom

_TOO_LATE = reply(
    501, "5.5.4", "The release is later than this server keeps messages back; EHLO tells the limit"
)
_TOO_EARLY = reply(501, "5.5.4", "HOLDUNTIL is in the past")
_OVER_BEFORE = reply(501, "5.5.4", "BY would be over before the release")


MOST_URGENT = 9
"""The highest priority (RFC 6710 §3)."""


def requests_of(
    mail: MailFrom, session: SessionFacts, longest_hold: float, now: float, most_urgent: int = MOST_URGENT
) -> dict[str, Any] | Reply:
    """The fields of the envelope that ``mail`` sets, or why it is refused.

    ``longest_hold`` is in seconds, ``now`` in seconds since the epoch; a higher priority than
    ``most_urgent`` becomes that.
    """
    seconds, by_mode = mail.by
    if not (by_mode or mail.hold_for or mail.hold_until or mail.priority or mail.require_tls or mail.auth):
        return {}
    fields: dict[str, Any] = {"priority": min(mail.priority, most_urgent), "require_tls": mail.require_tls}
    release_at = mail.hold_until or (now + mail.hold_for if mail.hold_for else 0.0)
    if release_at:
        if release_at <= now:
            return _TOO_EARLY
        if release_at > now + longest_hold:
            return _TOO_LATE
        fields["release_at"] = release_at
    if by_mode:
        if release_at and now + seconds <= release_at:
            return _OVER_BEFORE
        fields["deliver_by"] = now + seconds
        fields["by_mode"] = by_mode
    if mail.auth:
        # Who submitted it is believed only of those we know (RFC 4954 §5).
        fields["auth"] = mail.auth if session.account is not None or session.trusted else "<>"
    return fields
