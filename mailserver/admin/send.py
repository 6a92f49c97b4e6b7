"""``mailserver send``: a message written on the command line."""

from __future__ import annotations

import mimetypes
import os
import sys
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import formatdate, make_msgid
from pathlib import Path

import click

from mailserver.admin.local_mail import drop_into, sender_of
from mailserver.admin.operator import ADDRESS, Operator, Refusal
from mailserver.admin.output import Output, json_option
from mailserver.values.address import Address


@click.command(epilog='Example: mailserver send ada@example.test --subject Hello --text "It works."')
@click.argument("recipients", type=ADDRESS, nargs=-1, required=True, metavar="ADDRESS...")
@click.option("--subject", default="", help="What it is about.")
@click.option("--text", default=None, help="What it says; else standard input is read.")
@click.option("--from", "sender", type=ADDRESS, default=None, metavar="ADDRESS", help="Who writes.")
@click.option(
    "--attach",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A file to add.",
)
@json_option
@click.pass_obj
def send(
    operator: Operator,
    recipients: tuple[Address, ...],
    subject: str,
    text: str | None,
    sender: Address | None,
    files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Send a message to ADDRESS; the server takes it within a second, or when it starts."""
    output = Output(as_json)
    if text is None:
        if sys.stdin.isatty():
            click.echo("Write the message; Ctrl-D ends it.", err=True)
        text = sys.stdin.read()
    if not text.strip() and not files:
        raise Refusal(os.EX_DATAERR, 'there is nothing to send; give --text "…", or write to standard input')
    author = sender or sender_of(operator)
    message, identity = _message(author, recipients, subject, text, files, operator.settings.hostname)
    drop_into(operator, author, recipients, message)
    told = ", ".join(map(str, recipients))
    output.done(
        f"on its way to {told}; `mailserver trace '{identity}'` tells where it is", message_id=identity
    )


def _message(
    author: Address,
    recipients: tuple[Address, ...],
    subject: str,
    text: str,
    files: tuple[Path, ...],
    host: str,
) -> tuple[bytes, str]:
    is_ascii = all(one.is_ascii for one in (author, *recipients))
    message = EmailMessage(policy=SMTP if is_ascii else SMTPUTF8)
    identity = make_msgid(domain=host)
    try:
        message["From"], message["To"] = str(author), ", ".join(map(str, recipients))
        message["Subject"], message["Date"], message["Message-ID"] = subject, formatdate(), identity
    except ValueError as error:
        raise Refusal(os.EX_DATAERR, f"the header cannot be written: {error}") from None
    message.set_content(text if text.endswith("\n") else f"{text}\n")
    for file in files:
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        main, _, sub = kind.partition("/")
        message.add_attachment(file.read_bytes(), maintype=main, subtype=sub, filename=file.name)
    return message.as_bytes(), identity
