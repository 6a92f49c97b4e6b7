"""What an account and its postmaster are told when its mail begins to be held."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from mailserver.interfaces import Notice
from mailserver.values.account import Account, Resolution
from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.dates import header_date
from mailserver.values.envelope import Envelope
from mailserver.values.expansion import final_recipients

_WORDS = """\
Mail from {account} is held by {hostname} and does not leave:

    {reason}.

Nothing is lost, and whatever is sent from now on is held too. If you did
not send that much yourself, somebody may know your password: change it
now, and tell your administrator.

For the administrator:

    mailserver queue list                       shows what is held
    mailserver queue release --sender {account}
                                                sends it, and ends the hold
    mailserver queue remove --sender {account}
                                                drops it, and ends the hold
    mailserver user password {account}
                                                locks out whoever knew the old one
"""


def hold_notice(
    account: Account,
    postmaster: Address,
    reason: str,
    hostname: str,
    resolve: Callable[[Address], Resolution],
    now: float,
) -> Notice:
    """One message to the account's owner and to the postmaster of its domain, from the null sender."""
    asked = [(account.address, "", frozenset({"NEVER"})), (postmaster, "", frozenset({"NEVER"}))]
    words = _WORDS.format(account=account.address, reason=reason, hostname=hostname)
    content = (
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>\n"
        f"To: <{account.address}>, <{postmaster}>\n"
        f"Subject: Your mail is held: too much in too short a time\n"
        f"Date: {header_date(now)}\n"
        f"Message-ID: <{secrets.token_hex(12)}@{hostname}>\n"
        "Auto-Submitted: auto-generated\n"
        "MIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=utf-8\n"
        "Content-Transfer-Encoding: 8bit\n"
        f"\n{words}"
    )
    octets = content.replace("\n", "\r\n").encode()
    envelope = Envelope(
        reverse_path=NULL_SENDER,
        recipients=final_recipients(resolve, asked),
        body="7BIT" if octets.isascii() else "8BITMIME",
        smtputf8=not account.address.is_ascii,
    )
    return Notice(envelope, octets)
