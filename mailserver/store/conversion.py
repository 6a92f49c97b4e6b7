"""A mailbox goes from one format to the other, while the server runs, and nothing is lost.

The order, each step durable before the next:

1. ``NAME.converting`` says which format is coming;
2. every message is copied to it, with its unique id;
3. the account's format is changed: from now on the copy is the mailbox;
4. what is in the old one and not in the new one (it came meanwhile) is copied, then removed there, until
   nothing comes any more;
5. ``NAME.converting`` goes.

Killed before 3, the old mailbox is what it was, and the next conversion removes the copy first;
killed after it, the next one goes on with 4.  POP3 sessions are kept out by the maildrop's lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from mailserver.interfaces import MailboxUnavailable
from mailserver.store.adding import Progress
from mailserver.store.kept_ids import kept_path, read_kept
from mailserver.store.mailboxes import LOCK_NAME, Mailboxes
from mailserver.store.maildir_index import FILE_NAME as INDEX
from mailserver.store.maildirsize import NAME as MAILDIRSIZE
from mailserver.store.mbox_messages import messages_of, unique_ids
from mailserver.store.mbox_rewrite import rewrite_without
from mailserver.store.stored import Stored, names_in, stored_in, stored_in_mbox

_PAUSE = 0.1
_LEFT_BEHIND = (LOCK_NAME, MAILDIRSIZE, INDEX)


class ConversionRefused(Exception):
    """Nothing was changed; the text says why."""


@dataclass(frozen=True, slots=True)
class Converted:
    """``messages`` were copied; ``folders`` (``.Sent``) and what was deleted stay where they were."""

    messages: int
    folders: tuple[str, ...] = ()


class Conversion:
    """From the other format to ``to``."""

    def __init__(self, mailboxes: Mailboxes, to: str, settle: float = 1.0) -> None:
        """``settle``: after so many seconds without a new message the old mailbox gets none any more;
        longer than a server goes on with what it knows of an account."""
        self._mailboxes = mailboxes
        self._to = to
        self._from = "maildir" if to == "mbox" else "mbox"
        self._settle = settle
        self._disk = mailboxes.disk

    def total(self) -> int:
        """Octets that are to be copied, for a progress bar."""
        return sum(_size(path) for path in _files(self._mailboxes, self._from))

    def run(self, now: str, change: Callable[[], None], progress: Progress) -> Converted:
        """Convert the mailbox of an account whose format is ``now``; ``change`` gives it the other one.

        Raises:
            ConversionRefused: there is mail in both formats.
            MaildropInUse: a POP3 session does not end.
            MailboxUnavailable, OSError: as they say.  In all cases nothing is lost, and the same
                conversion may be tried again.
        """
        with self._mailboxes.locked("maildir", "mbox"):
            self._recover(now)
            if now == self._to:
                copied = self._drain(progress)
            else:
                copied = self._copy_all(progress)
                change()
                copied += self._drain(progress)
            self._forget_marker()
        folders = self._clear_away()
        return Converted(copied, folders)

    def _recover(self, now: str) -> None:
        """Finish, or undo, what was killed."""
        for path in self._mailboxes.remains():
            self._disk.remove(path)
        coming = self._marked()
        if coming and coming != now:
            discard(self._mailboxes, coming)
        elif coming and coming != self._to:
            Conversion(self._mailboxes, coming, self._settle)._drain(lambda octets: None)
        self._forget_marker()

    def _marked(self) -> str:
        try:
            with open(self._mailboxes.marker, "rb") as file:
                text = file.read(16).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return ""
        return text if text in ("maildir", "mbox") else ""

    def _forget_marker(self) -> None:
        with suppress(FileNotFoundError):
            self._disk.remove(self._mailboxes.marker)
            self._disk.sync_folder(os.path.dirname(self._mailboxes.marker))

    def _copy_all(self, progress: Progress) -> int:
        target = self._mailboxes.path(self._to)
        if stored_in(target):
            raise ConversionRefused(
                f"there is mail in {target} already, where the {self._to} would be; move it away, and "
                "bring it back afterwards with mailserver mailbox import"
            )
        with self._disk.create(self._mailboxes.marker) as file:
            file.write(f"{self._to}\n".encode())
            file.sync()
        self._disk.sync_folder(os.path.dirname(self._mailboxes.marker))
        with self._mailboxes.listed(self._from) as messages:
            if messages or self._to == "mbox":
                self._mailboxes.addition(self._to)(messages, progress)
            return len(messages)

    def _drain(self, progress: Progress) -> int:
        """Move what the old mailbox still has, until nothing comes any more; how many were copied."""
        copied = 0
        quiet_since = time.monotonic()
        while True:
            drained = self._drain_mbox if self._from == "mbox" else self._drain_maildir
            moved, added = drained(progress)
            copied += added
            if moved:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= self._settle:
                return copied
            time.sleep(_PAUSE)

    def _drain_maildir(self, progress: Progress) -> tuple[int, int]:
        maildir = self._mailboxes.maildir
        messages = stored_in(maildir)
        added = self._add_missing(messages, progress)
        bases = {message.name for message in messages}
        removed = 0
        for folder, name in names_in(maildir):
            if name.partition(":")[0] in bases:
                with suppress(FileNotFoundError):
                    self._disk.remove(f"{maildir}/{folder}/{name}")
                    removed += 1
        if removed:
            for folder in ("new", "cur"):
                self._disk.sync_folder(f"{maildir}/{folder}")
        return removed, added

    def _drain_mbox(self, progress: Progress) -> tuple[int, int]:
        mbox = self._mailboxes.mbox
        if not os.path.lexists(mbox):
            return 0, 0
        with self._mailboxes.locks.hold(mbox) as held:
            if held.fd < 0:
                return 0, 0
            found = messages_of(held.fd, held.size)
            if not found:
                return 0, 0
            messages = stored_in_mbox(mbox, read_kept(mbox))
            assert [m.natural for m in messages] == unique_ids(found)
            added = self._add_missing(messages, progress)
            rewrite_without(self._disk, held, [message.region for message in found])
            return len(found), added

    def _add_missing(self, messages: list[Stored], progress: Progress) -> int:
        if not messages:
            return 0
        there = {message.unique_id for message in stored_in(self._mailboxes.path(self._to))}
        missing = [message for message in messages if message.unique_id not in there]
        if missing:
            self._mailboxes.addition(self._to)(missing, progress)
        return len(missing)

    def _clear_away(self) -> tuple[str, ...]:
        """Remove what is left of the old mailbox, if nothing in it is anybody's; its folders that stay."""
        with suppress(FileNotFoundError):
            os.unlink(kept_path(self._mailboxes.path(self._from)))
        if self._from == "mbox":
            self._remove_empty_mbox()
            return ()
        return clear_away_maildir(self._mailboxes.maildir)

    def _remove_empty_mbox(self) -> None:
        mbox = self._mailboxes.mbox
        with suppress(MailboxUnavailable), self._mailboxes.locks.hold(mbox) as held:
            if held.fd >= 0 and not messages_of(held.fd, held.size):
                os.unlink(mbox)


def clear_away_maildir(maildir: str) -> tuple[str, ...]:
    """Remove an empty Maildir; what folders keep it there."""
    folders = maildir_folders(maildir)
    if folders or names_in(maildir):
        return folders
    for name in _LEFT_BEHIND:
        with suppress(OSError):
            os.unlink(f"{maildir}/{name}")
    for name in ("tmp", "new", "cur", "trash", ""):
        with suppress(OSError):
            os.rmdir(f"{maildir}/{name}")
    return ()


def maildir_folders(maildir: str) -> tuple[str, ...]:
    """Maildir++'s folders: ``.Sent``, ``.Archive.2026``."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return tuple(
            sorted(
                name
                for name in os.listdir(maildir)
                if name[0] == "." and name.strip(".") and os.path.isdir(f"{maildir}/{name}/cur")
            )
        )
    return ()


def discard(mailboxes: Mailboxes, format: str) -> None:
    """Remove the copy that a killed conversion has made: every message of it is in the other format."""
    with suppress(FileNotFoundError):
        os.unlink(kept_path(mailboxes.path(format)))
    if format == "mbox":
        with suppress(FileNotFoundError):
            mailboxes.disk.remove(mailboxes.mbox)
        return
    for folder in ("tmp", "new", "cur"):
        with suppress(FileNotFoundError):
            for name in os.listdir(f"{mailboxes.maildir}/{folder}"):
                if not os.path.isdir(f"{mailboxes.maildir}/{folder}/{name}"):
                    mailboxes.disk.remove(f"{mailboxes.maildir}/{folder}/{name}")


def _files(mailboxes: Mailboxes, format: str) -> Iterator[str]:
    if format == "mbox":
        yield mailboxes.mbox
    else:
        for folder, name in names_in(mailboxes.maildir):
            yield f"{mailboxes.maildir}/{folder}/{name}"


def _size(path: str) -> int:
    with suppress(OSError):
        return os.lstat(path).st_size
    return 0
