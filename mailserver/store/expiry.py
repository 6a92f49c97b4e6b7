"""Retention: what has lain in a mailbox for longer than an administrator keeps it goes (RFC 2449 §6.7).

It goes as if a POP3 session had deleted it: under the maildrop's lock, through the trash, with the
quota told.  A mailbox that somebody reads just now is left for the next sweep.
"""

from __future__ import annotations

import math

from mailserver.interfaces import IMailbox, MaildropInUse
from mailserver.store.paths import MBOX
from mailserver.store.stored import arrival_in, names_in, stored_in


def expire(mailbox: IMailbox, path: str, older: float) -> int:
    """Remove what arrived before ``older``, in seconds since the epoch; how many messages. Blocks.

    Raises:
        OSError: the disk's own reason.
    """
    older = math.floor(older)  # names tell whole seconds, and nothing may go a moment too early
    if not path.endswith(MBOX) and not _has_old(path, older):
        return 0
    try:
        drop = mailbox.maildrop()
    except MaildropInUse:
        return 0
    try:
        old = {stored.unique_id for stored in stored_in(path) if stored.arrived < older}
        if not old:
            return 0
        for index, identity in enumerate(drop.listings.unique_ids):
            if identity in old:
                drop.mark(index)
        return len(drop.marked) - drop.commit()
    finally:
        drop.release()


def _has_old(maildir: str, older: float) -> bool:
    """Whether it is worth the lock, by names alone where they tell the time."""
    return any(arrival_in(maildir, folder, name) < older for folder, name in names_in(maildir))
