"""From what a server said, or failed to say, to an outcome for the report (RFC 3463, RFC 3464)."""

from __future__ import annotations

from collections.abc import Sequence

from mailserver.relay.sessions import Target
from mailserver.values.attempt import Facts
from mailserver.values.envelope import Recipient
from mailserver.values.outcome import Delayed, Failed, Outcome, Relayed
from mailserver.values.reply import Reply
from mailserver.values.text import printable
from mailserver.wire.client_events import SessionEnded, Stage

_OPENING = (Stage.GREETING, Stage.EHLO, Stage.HELO)


def from_reply(
    recipient: Recipient, reply: Reply, target: Target, notifies: bool, facts: Facts | None = None
) -> Outcome:
    """The server's last word on one recipient: 2yz Relayed, 5yz Failed, everything else Delayed."""
    kind = reply.code // 100
    diagnostic, relay = printable(reply.text), str(target)
    if kind == 2:
        return Relayed(
            recipient=recipient,
            status=reply.enhanced or "2.0.0",
            diagnostic=diagnostic,
            remote_mta=target.host,
            relay=relay,
            notifies=notifies,
            facts=facts,
        )
    outcome = Failed if kind == 5 else Delayed
    status = reply.enhanced if kind in (4, 5) and reply.enhanced else "5.0.0" if kind == 5 else "4.0.0"
    return outcome(
        recipient=recipient,
        status=status,
        diagnostic=diagnostic,
        remote_mta=target.host,
        relay=relay,
        facts=facts,
    )


def failed_here(recipient: Recipient, status: str, diagnostic: str, target: Target | None = None) -> Failed:
    """We refuse for good, in our own words; with ``target``, because of what it does not offer."""
    return Failed(
        recipient=recipient,
        status=status,
        diagnostic=printable(diagnostic),
        remote_mta=target.host if target else "",
        relay=str(target) if target else "none",
    )


def delayed_here(recipient: Recipient, status: str, diagnostic: str, relay: str = "none") -> Delayed:
    """Not now, in our own words."""
    return Delayed(recipient=recipient, status=status, diagnostic=printable(diagnostic), relay=relay)


def cut_off(recipient: Recipient, ended: SessionEnded, target: Target) -> Delayed:
    """The session ended before the server had decided about this recipient, or before we heard it."""
    reply = ended.reply
    status = "4.3.0" if ended.stage is Stage.CONTENT and reply is None else "4.4.2"
    if reply is not None and reply.enhanced.startswith("4"):
        status = reply.enhanced
    if ended.stage is Stage.CONNECT:
        status = "4.4.1"
    if ended.stage is Stage.AUTH:
        # Our password, or the file it is in: to be mended here, and no reason to return mail.
        status = "4.7.8"
    if ended.status:
        status = "4" + ended.status[1:]
    spoke = reply is not None
    return Delayed(
        recipient=recipient,
        status=status,
        diagnostic=printable(reply.text if reply is not None else ended.reason),
        remote_mta=target.host if spoke else "",
        relay=str(target),
    )


def nowhere_left(
    recipient: Recipient, troubles: Sequence[tuple[Target, SessionEnded]], all_tried: bool
) -> Outcome:
    """No address would take the message: Failed only if every single one said 5yz at the door.

    One host that is down may be the one that would have said yes.
    """
    if not troubles:
        return delayed_here(recipient, "4.4.1", "the mail exchange has no address to connect to")
    if all_tried and all(ended.status.startswith("5") for _, ended in troubles):
        target, ended = troubles[-1]
        return failed_here(recipient, ended.status, ended.reason, target)
    target, ended = next((t for t in reversed(troubles) if t[1].reply is not None), troubles[-1])
    refusals = [e.reply for _, e in troubles if e.stage in _OPENING and e.reply and e.reply.code >= 500]
    if all_tried and len(refusals) == len(troubles) and ended.reply is not None:
        return from_reply(recipient, ended.reply, target, notifies=False)
    return cut_off(recipient, ended, target)
