"""``mailserver mailbox``: mail at rest."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from mailserver.admin.history import history
from mailserver.admin.mailbox_check import repair, verify
from mailserver.admin.mailbox_move import (
    account_of,
    convert,
    effective_format,
    export,
    import_,
    mailboxes_of,
)
from mailserver.admin.operator import ADDRESS, Operator, Refusal, become_owner
from mailserver.admin.output import Output, json_option
from mailserver.values.account import Account
from mailserver.values.address import Address
from mailserver.values.units import seconds_from

if TYPE_CHECKING:
    from mailserver.store.mailstore import MailStore


@click.group(epilog="Example: mailserver mailbox undelete ada@example.test")
def mailbox() -> None:
    """Convert, export, import, verify and repair mailboxes; bring back deleted mail; see who fetched what."""


for command in (history, convert, export, import_, verify, repair):
    mailbox.add_command(command)


@mailbox.command(epilog="Example: mailserver mailbox undelete ada@example.test --since 2h")
@click.argument("address", type=ADDRESS)
@click.option(
    "--since", metavar="TIME", default="", help="Only what was deleted so long ago or later, as 2h or 3d."
)
@json_option
@click.pass_obj
def undelete(operator: Operator, address: Address, since: str, as_json: bool) -> None:
    """Bring back what POP3 has deleted from the mailbox of ADDRESS. Works while the server runs.

    What comes back keeps its unique id: a client that has fetched it before does not fetch it again.
    """
    from mailserver.interfaces import MailboxUnavailable

    output = Output(as_json)
    try:
        earliest = time.time() - seconds_from(since) if since else 0.0
    except ValueError as error:
        raise click.UsageError(f"{error}.", click.get_current_context()) from None
    account = account_of(operator, address)
    with store(operator) as opened:
        try:
            count = opened.undelete(account, earliest)
            count += _from_the_other_format(operator, opened, account, earliest)
        except MailboxUnavailable as error:
            raise Refusal(os.EX_TEMPFAIL, str(error)) from error
    output.done(
        f"{count} messages are back in the mailbox of {address}", address=str(address), messages=count
    )


def _from_the_other_format(operator: Operator, opened: MailStore, account: Account, earliest: float) -> int:
    """What was deleted before a conversion lies in the trash of the format that the mailbox had then."""
    from mailserver.store.conversion import Conversion
    from mailserver.store.trash import deletions

    now = effective_format(operator, account)
    other = "maildir" if now == "mbox" else "mbox"
    with mailboxes_of(operator, account) as mailboxes:
        if not deletions(mailboxes.path(other)):
            return 0
        count = opened.undelete(replace(account, format=other), earliest)
        if count:
            Conversion(mailboxes, now).run(now, lambda: None, lambda octets: None)
        return count


@contextmanager
def store(operator: Operator) -> Iterator[MailStore]:
    """The store as the server has it, for calls that block."""
    from mailserver.durable import Disk
    from mailserver.store.mailstore import MailStore

    settings = operator.settings
    become_owner(settings.store.path)
    disk = Disk()
    opened = MailStore(
        settings.store.path,
        settings.store.format,
        disk,
        settings.hostname,
        undelete_for=settings.store.undelete_for,
    )
    opened.start()
    try:
        yield opened
    finally:
        opened.stop()
        disk.close()
