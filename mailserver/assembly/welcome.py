"""The quick start's first words: an account to begin with, and what to type."""

from __future__ import annotations

from collections.abc import Iterator

from twisted.logger import Logger

from mailserver.accounts import passwords
from mailserver.accounts.directory import SqliteDirectory
from mailserver.accounts.secrets import secrets_of
from mailserver.values.address import Address

log = Logger(namespace="mailserver")

FIRST_ACCOUNT = "me"
"""The local part of the account that a quick start makes."""


def welcome(directory: SqliteDirectory, domain: str, smtp: int, pop3: int) -> None:
    """Make the first account where there is none, and show what to type; ports, 0 for none."""
    users = directory.users()
    if users:
        account, password = users[0].address, "<password>"
    else:
        account, password = Address(FIRST_ACCOUNT, domain), passwords.random_password()
        directory.add_user(account, secrets_of(password))
        log.info(
            "The first account is {user} with the password {password} (shown only now)",
            user=str(account),
            password=password,
        )
    for line in _lines(account, password, smtp, pop3):
        log.info("{line}", line=line)


def _lines(account: Address, password: str, smtp: int, pop3: int) -> Iterator[str]:
    yield "Try it:"
    if smtp:
        yield f"  telnet 127.0.0.1 {smtp}          then type HELP"
        yield (
            rf"  printf 'Subject: first\r\n\r\nHello.\r\n' | curl --url smtp://127.0.0.1:{smtp} "
            f"--mail-from you@example.test --mail-rcpt {account} --upload-file -"
        )
    if pop3:
        yield f"  curl --user '{account}:{password}' pop3://127.0.0.1:{pop3}/1"
