"""A mailbox as a Maildir or an mbox somewhere else, with its unique ids, for another server or a backup.

A Maildir gets our ``unique-ids``; an mbox has ``X-UIDL`` in each message.  Importing either brings
the ids back.
"""

from __future__ import annotations

import os
from contextlib import suppress

from mailserver.store.adding import MaildirAddition, Progress, mbox_form
from mailserver.store.conversion import maildir_folders
from mailserver.store.mailboxes import Mailboxes
from mailserver.store.paths import MBOX
from mailserver.store.stored import Stored, stored_in_maildir


class ExportRefused(Exception):
    """Nothing was written; the text says why."""


def export(mailboxes: Mailboxes, format: str, target: str, progress: Progress) -> tuple[int, int]:
    """Write the mailbox, which has that format, to ``target``, whose name says by ``.mbox`` that it is to
    be an mbox; how many messages, and how many more in folders.  A POP3 session is not disturbed.

    Raises:
        ExportRefused: there is something at ``target`` already.
        MailboxUnavailable, OSError: as they say; what was written is removed, if it is an mbox.
    """
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise ExportRefused(f"{target} is there already; name a new file or folder, or an empty one")
    with mailboxes.listed(format) as messages:
        if target.endswith(MBOX):
            _to_mbox(mailboxes, target, messages, progress)
            return len(messages), 0
        MaildirAddition(mailboxes.disk, mailboxes.writer(), mailboxes.host, target)(messages, progress)
        return len(messages), _folders(mailboxes, format, target, progress)


def _folders(mailboxes: Mailboxes, format: str, target: str, progress: Progress) -> int:
    count = 0
    for name in maildir_folders(mailboxes.maildir) if format == "maildir" else ():
        messages = stored_in_maildir(f"{mailboxes.maildir}/{name}", {})
        MaildirAddition(mailboxes.disk, mailboxes.writer(), mailboxes.host, target, name)(messages, progress)
        count += len(messages)
    return count


def _to_mbox(mailboxes: Mailboxes, target: str, messages: list[Stored], progress: Progress) -> None:
    file = mailboxes.disk.create(target)
    try:
        with file:
            for stored in messages:
                for piece in mbox_form(stored, f"X-UIDL: {stored.unique_id}\n".encode()):
                    file.write(piece)
                progress(stored.size)
            file.sync()
        mailboxes.disk.sync_folder(os.path.dirname(os.path.abspath(target)))
    except BaseException:
        with suppress(OSError):
            mailboxes.disk.remove(target)
        raise
