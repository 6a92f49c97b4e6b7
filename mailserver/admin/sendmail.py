"""``mailserver sendmail``: sendmail's options, for cron, PHP and others; works while the server is down."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import formatdate, getaddresses, make_msgid
from typing import BinaryIO

import click

from mailserver.admin.local_mail import drop_into, sender_of
from mailserver.admin.operator import Operator, Refusal
from mailserver.values.address import NULL_SENDER, Address, address_from

_WITH_VALUE = "BCDFfhLNORrVXp"
"""Options that take a value, in the same word or the next one; ``-o`` and ``-b`` have theirs in the word."""


@dataclass
class Options:
    """What a command line of sendmail asks for."""

    mode: str = "m"
    sender: str | None = None
    name: str = ""
    from_header: bool = False
    dot_ends: bool = True
    flush: bool = False
    recipients: list[str] = field(default_factory=list)


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: mailserver sendmail -t -i",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def sendmail(operator: Operator, words: tuple[str, ...]) -> int:
    """Take a message on standard input as sendmail does: -t -i -oi -f -F -bm -bs -bp -bv -q."""
    options = parse(words)
    if options.mode == "p":
        from mailserver.admin.queue import list_

        click.get_current_context().invoke(list_, as_json=False)
        return os.EX_OK
    if options.mode == "v":
        return _verify(operator, options)
    if options.mode == "s":
        from mailserver.admin.sendmail_session import Session

        return Session(operator, sys.stdin.buffer, sys.stdout.buffer).run()
    if options.flush:
        return os.EX_OK  # the server looks at the folder each second, and retries by itself
    return _send(operator, options)


def parse(words: Sequence[str]) -> Options:
    """The options, and everything else as recipients.

    Raises:
        Refusal: 64, an option that changes what happens and that there is not here.
    """
    options = Options()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            options.recipients += rest
            break
        if len(word) < 2 or word[0] != "-":
            options.recipients.append(word)
            continue
        letter, value = word[1], word[2:]
        if letter in _WITH_VALUE and not value:
            if not rest:
                raise Refusal(os.EX_USAGE, f"-{letter} needs a value")
            value = rest.pop(0)
        _apply(options, letter, value)
    return options


def _apply(options: Options, letter: str, value: str) -> None:
    if letter == "b":
        if value not in ("m", "s", "p", "v"):
            raise Refusal(os.EX_USAGE, f"-b{value} is not here; there are -bm, -bs, -bp and -bv")
        options.mode = value
    elif letter in "fr":
        options.sender = value
    elif letter == "F":
        options.name = value
    elif letter == "t":
        options.from_header = True
        if "i" in value:  # -ti, as some programs write it
            options.dot_ends = False
    elif letter == "i" or (letter == "o" and value in ("i", "iTrue", "itrue")):
        options.dot_ends = False
    elif letter == "q":
        options.flush = True
    # Everything else (-om, -oem, -v, -n, -N, -R, -B ...) changes nothing here.


def read_message(stream: BinaryIO, dot_ends: bool) -> bytes:
    """Standard input, to its end, or to a line with a dot alone."""
    if not dot_ends:
        return stream.read()
    lines: list[bytes] = []
    for line in stream:
        if line.rstrip(b"\r\n") == b".":
            break
        lines.append(line)
    return b"".join(lines)


def _send(operator: Operator, options: Options) -> int:
    content = read_message(sys.stdin.buffer, options.dot_ends)
    head = Head(content)
    names = list(options.recipients)
    if options.from_header:
        # Postfix and exim differ on recipients that are named too; qmail and Postfix add them.
        names += head.recipients
    recipients = [qualified(operator, name) for name in names]
    if not recipients:
        missing = (
            "the header names nobody in To, Cc or Bcc"
            if options.from_header
            else "name recipients, or use -t"
        )
        raise Refusal(os.EX_USAGE, f"nobody to send it to; {missing}")
    sender = own_sender(operator, options.sender)
    drop_into(operator, sender, recipients, head.completed(sender, options, operator.settings.hostname))
    return os.EX_OK


def own_sender(operator: Operator, given: str | None) -> Address:
    """``-f``'s address; ``<>`` for none; without ``-f`` the user's name at the first domain."""
    if given is None:
        return sender_of(operator)
    given = given.strip().removeprefix("<").removesuffix(">")
    return qualified(operator, given) if given else NULL_SENDER


def qualified(operator: Operator, name: str) -> Address:
    """An address; a bare name is one of the first domain's.

    Raises:
        Refusal: 65, it is no address.
    """
    name = name.strip().removeprefix("<").removesuffix(">")
    try:
        return address_from(name if "@" in name else f"{name}@{operator.settings.domains[0]}")
    except ValueError as error:
        raise Refusal(os.EX_DATAERR, str(error)) from error


def _verify(operator: Operator, options: Options) -> int:
    from mailserver.values.account import Alias, LocalUser, NoSuchUser

    code = os.EX_OK
    with operator.directory() as directory:
        for name in options.recipients:
            address = qualified(operator, name)
            answer = directory.resolve(address)
            if isinstance(answer, NoSuchUser):
                click.echo(f"{address}: no such user here")
                code = os.EX_NOUSER
            elif isinstance(answer, Alias):
                click.echo(f"{address}: goes to {', '.join(map(str, answer.targets))}")
            else:
                where = "a user here" if isinstance(answer, LocalUser) else "elsewhere"
                click.echo(f"{address}: {where}")
    return code


class Head:
    """The header of a message from a program: who it names, and what it lacks."""

    def __init__(self, content: bytes) -> None:
        lines = content.replace(b"\r\n", b"\n").split(b"\n")
        self._fields: list[tuple[str, bytes]] = []
        count = 0
        for line in lines:
            name, colon, _ = line.partition(b":")
            if line[:1] in (b" ", b"\t") and self._fields:
                name_before, text = self._fields[-1]
                self._fields[-1] = (name_before, text + b"\n" + line)
            elif colon and name and not any(c in b" \t\x7f" or c < 33 for c in name):
                self._fields.append((name.decode("ascii", "replace").lower(), line))
            else:
                break
            count += 1
        rest = lines[count:]
        # Text without a header, or without an empty line behind it, gets one.
        self._body = b"\n".join(rest if not rest or rest[0] == b"" else [b"", *rest])

    @property
    def recipients(self) -> list[str]:
        """Whom To, Cc and Bcc name."""
        wanted = [
            text.partition(b":")[2].decode("utf-8", "replace").replace("\n", " ")
            for name, text in self._fields
            if name in ("to", "cc", "bcc")
        ]
        return [address for _, address in getaddresses(wanted) if address]

    def completed(self, sender: Address, options: Options, hostname: str) -> bytes:
        """The message without Bcc, with From, Date and Message-ID (RFC 5322 §3.6)."""
        has = {name for name, _ in self._fields}
        kept = [text for name, text in self._fields if name != "bcc"]
        if "from" not in has:
            kept.append(_from_field(sender, options.name))
        if "date" not in has:
            kept.append(f"Date: {formatdate(localtime=True)}".encode())
        if "message-id" not in has:
            kept.append(f"Message-ID: {make_msgid(domain=hostname)}".encode())
        return b"\n".join(kept) + b"\n" + self._body


def _from_field(sender: Address, name: str) -> bytes:
    if not name:
        try:
            name = pwd.getpwuid(os.getuid()).pw_gecos.partition(",")[0]
        except KeyError:
            name = ""
    shown = "".join(c for c in name if c.isprintable()).replace("\\", "").replace('"', "")
    address = str(sender) or "MAILER-DAEMON"
    return (f'From: "{shown}" <{address}>' if shown else f"From: {address}").encode()
