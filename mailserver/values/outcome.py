"""What became of one recipient in one attempt: the fields of its report (RFC 3464 §2.3)."""

from __future__ import annotations

from mailserver.values.attempt import Facts
from mailserver.values.envelope import Recipient
from mailserver.values.value import value

STOPPING, SERVER_STOPS = "4.3.2", "the server is stopping"
"""Status and words of what the end of the server has kept from being tried (RFC 3463 §3.4)."""


@value(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """``status`` is an enhanced status (RFC 3463); ``diagnostic`` one printable line: the remote
    server's reply, or our own words; ``remote_mta`` the name of the host that spoke, ``""`` when
    nobody did; ``relay`` where it went, as the log shows it (``mx.b.test[192.0.2.1]:25``,
    ``maildir``); ``facts`` how it went, where the way out keeps that."""

    recipient: Recipient
    status: str
    diagnostic: str
    remote_mta: str = ""
    relay: str = "none"
    facts: Facts | None = None


@value(frozen=True, slots=True, kw_only=True)
class Delivered(_Outcome):
    """In a mailbox of ours, durably."""


@value(frozen=True, slots=True, kw_only=True)
class Relayed(_Outcome):
    """Another server has answered for it with a 2yz. ``notifies`` tells that it will also send the
    DSNs that were asked for (it announced DSN, RFC 3461 §5.2.2)."""

    notifies: bool = False


@value(frozen=True, slots=True, kw_only=True)
class Expanded(_Outcome):
    """It stands for others, who are recipients of their own now (RFC 3464 §2.3.3)."""


@value(frozen=True, slots=True, kw_only=True)
class Delayed(_Outcome):
    """Not yet. ``retry_at`` (seconds since the epoch) is filled in by the runner, from the schedule."""

    retry_at: float = 0.0
    warned: bool = False


@value(frozen=True, slots=True, kw_only=True)
class Failed(_Outcome):
    """Never."""


Outcome = Delivered | Relayed | Expanded | Delayed | Failed
