"""``mailserver deliver USER``: a message on standard input for a user here."""

from __future__ import annotations

import os
import sys

import click

from mailserver.admin.local_mail import drop_into
from mailserver.admin.operator import Operator, Refusal
from mailserver.admin.sendmail import own_sender, qualified


@click.command(epilog="Example: mailserver deliver ada@example.test")
@click.argument("user")
@click.option(
    "-f", "--from", "sender", default=None, metavar="ADDRESS", help="The reverse-path; <> for none."
)
@click.pass_obj
def deliver(operator: Operator, user: str, sender: str | None) -> None:
    """Take a message on standard input, as it is, for USER; also while the server is down."""
    recipient = qualified(operator, user)
    content = sys.stdin.buffer.read()
    if not content:
        raise Refusal(os.EX_DATAERR, "standard input has no message")
    drop_into(operator, own_sender(operator, sender), [recipient], content)
