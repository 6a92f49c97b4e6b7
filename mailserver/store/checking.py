"""Verification and repair of one account's mailbox, in the format it has and around it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from mailserver.store.adding import Progress
from mailserver.store.check_maildir import MaildirCheck
from mailserver.store.check_mbox import MboxCheck
from mailserver.store.findings import Finding
from mailserver.store.mailboxes import Mailboxes
from mailserver.store.stored import names_in


def verify(mailboxes: Mailboxes, format: str, progress: Progress) -> Iterator[Finding]:
    """What is wrong with the mailbox, which has that format; every message is read.

    Raises:
        OSError: it cannot be read at all.
    """
    check = MboxCheck if format == "mbox" else MaildirCheck
    yield from check(mailboxes, progress).findings()
    for path in mailboxes.remains():
        text = "a command was killed; nobody reads what it has left"
        yield Finding("remains", os.path.basename(path), text, partial(os.unlink, path))
    other = "maildir" if format == "mbox" else "mbox"
    where = os.path.basename(mailboxes.path(other))
    if os.path.lexists(mailboxes.marker):
        text = f"a conversion was killed; mailserver mailbox convert --to {format} ends it"
        yield Finding("format", os.path.basename(mailboxes.marker), text)
    elif names_in(mailboxes.maildir) if other == "maildir" else _has_octets(mailboxes.mbox):
        text = f"mail that nobody is shown, since the account's is {format}; "
        yield Finding("format", where, text + f"mailserver mailbox convert --to {format} brings it over")


def repair(
    mailboxes: Mailboxes, format: str, progress: Progress
) -> tuple[list[Finding], list[tuple[Finding, str]]]:
    """Mend what can be mended without losing anything; what was, and what was not, with the reason.

    Raises:
        MaildropInUse: a POP3 session does not end.
    """
    mended: list[Finding] = []
    left: list[tuple[Finding, str]] = []
    with mailboxes.locked(format):
        for finding in list(verify(mailboxes, format, progress)):
            if finding.mend is None:
                left.append((finding, "somebody has to decide"))
                continue
            try:
                finding.mend()
            except OSError as error:
                left.append((finding, error.strerror or str(error)))
            else:
                mended.append(finding)
    return mended, left


def _has_octets(path: str) -> bool:
    try:
        return os.lstat(path).st_size > 0
    except FileNotFoundError:
        return False
