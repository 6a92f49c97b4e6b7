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
from mailserver.words import header_text, known, say

_COMMANDS = {
    "queue list": "hold.list",
    "queue release --sender {account}": "hold.release",
    "queue remove --held --sender {account}": "hold.remove",
    "user password {account}": "hold.password",
}


def hold_notice(
    account: Account,
    postmaster: Address,
    reason: str,
    hostname: str,
    resolve: Callable[[Address], Resolution],
    now: float,
    language: str = "en",
) -> Notice:
    """One message to the account's owner and to the postmaster of its domain, from the null sender, in the
    owner's language."""
    asked = [(account.address, "", frozenset({"NEVER"})), (postmaster, "", frozenset({"NEVER"}))]
    words = _words(language, str(account.address), reason, hostname)
    subject = header_text(say(language, "hold.subject")).replace("\r\n", "\n")
    content = (
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>\n"
        f"To: <{account.address}>, <{postmaster}>\n"
        f"Subject: {subject}\n"
        f"Date: {header_date(now)}\n"
        f"Message-ID: <{secrets.token_hex(12)}@{hostname}>\n"
        "Auto-Submitted: auto-generated\n"
        "MIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=utf-8\n"
        "Content-Transfer-Encoding: 8bit\n"
        f"Content-Language: {known(language)}\n"
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


def _words(language: str, account: str, reason: str, hostname: str) -> str:
    lines = [say(language, "hold.text", account=account, reason=reason, hostname=hostname)]
    lines += [say(language, "hold.administrator"), ""]
    for command, name in _COMMANDS.items():
        lines += [f"    mailserver {command.format(account=account)}", f"        {say(language, name)}"]
    return "\n".join([*lines, ""])
