"""What holds for those who have logged in: whom they write as, and when their mail leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mailserver.values.account import Account
from mailserver.values.address import Address
from mailserver.values.envelope import Entry
from mailserver.values.reply import Reply


def _free(account: Account, recipients: Sequence[Address]) -> str:
    return ""


def _any_priority(account: Account) -> int:
    return 9


def _untold(account: Account, entry: Entry) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Submission:
    """Handed in by ``house.py``; an ``Intake`` without one takes no submissions.

    ``may_use`` and ``objection`` are ``policy.submission.SenderRights``'s.  ``hide_client`` leaves
    the client out of Received.  ``delay`` is how many seconds a message waits before it leaves.
    ``charge`` counts a message and the forward-paths that were given against its account's limits,
    and gives the reason to hold it, or ``""``; ``held`` hears of each message that is.
    ``highest_priority`` is what MT-PRIORITY may ask for.
    """

    may_use: Callable[[Account, Address], bool]
    objection: Callable[[Account, Address], Reply | None]
    hide_client: bool = False
    delay: float = 0.0
    charge: Callable[[Account, Sequence[Address]], str | Awaitable[str]] = _free
    held: Callable[[Account, Entry], None] = _untold
    highest_priority: Callable[[Account], int] = _any_priority
