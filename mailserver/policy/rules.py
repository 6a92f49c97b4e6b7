"""The rules: each a small function that has an opinion on some facts, or none."""

from __future__ import annotations

from collections.abc import Callable

from mailserver.values.account import Account, Elsewhere, LocalUser, NoSuchUser
from mailserver.values.reply import Reply, reply
from mailserver.values.session import RecipientFacts
from mailserver.values.text import printable


def relay_only_for_our_own(facts: RecipientFacts) -> Reply | None:
    """Mail for other domains is taken from those who logged in and from trusted networks alone
    (RFC 5321 §7.9)."""
    session = facts.transaction.session
    if isinstance(facts.resolution, Elsewhere) and session.account is None and not session.trusted:
        return reply(
            550,
            "5.7.1",
            f"<{printable(str(facts.forward_path))}>: not a mailbox here; relaying is for users who log in",
        )
    return None


def recipient_has_room(
    over_quota: Callable[[Account], bool], refuse: bool
) -> Callable[[RecipientFacts], Reply | None]:
    """A rule that turns mail for full mailboxes away before it is sent: 452, or 552 where ``refuse``
    (RFC 5321 §4.2.3, RFC 3463 §3.3). ``over_quota`` answers at once, from memory."""

    def rule(facts: RecipientFacts) -> Reply | None:
        answer = facts.resolution
        if (
            isinstance(answer, LocalUser)
            and not answer.account.deliver  # no mailbox of ours
            and over_quota(answer.account)
        ):
            code, status = (552, "5.2.2") if refuse else (452, "4.2.2")
            return reply(code, status, f"<{printable(str(facts.forward_path))}>: the mailbox is full")
        return None

    return rule


def recipient_must_exist(facts: RecipientFacts) -> Reply | None:
    """Refused at RCPT, so that no bounce of ours ever goes to a forged sender."""
    if isinstance(facts.resolution, NoSuchUser):
        return reply(550, "5.1.1", f"<{printable(str(facts.forward_path))}>: no such user here")
    return None
