"""One account's mailbox in both formats, as the commands of an administrator use it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from mailserver.durable import Disk
from mailserver.interfaces import MaildropInUse
from mailserver.store.adding import Addition, MaildirAddition, MboxAddition
from mailserver.store.kept_ids import read_kept
from mailserver.store.locks import MboxLocks
from mailserver.store.maildir_files import MaildirWriter
from mailserver.store.maildrop import MaildropLock
from mailserver.store.mbox_rewrite import finish_rewrite
from mailserver.store.paths import CONVERTING, MAILDROP_LOCK, MBOX
from mailserver.store.stored import Stored, stored_in, stored_in_mbox

LOCK_NAME = "maildrop.lock"
"""The maildrop's lock in a Maildir."""

_PAUSE = 0.1


class Mailboxes:
    """One account's mailbox in both formats, as the commands of an administrator use them."""

    def __init__(self, disk: Disk, path: str, hostname: str, patience: float = 10.0) -> None:
        """``path`` is ``paths.mailbox_path``; ``patience``: seconds to wait for a lock."""
        self.disk = disk
        self.maildir = path
        self.mbox = path + MBOX
        self.marker = path + CONVERTING
        self.locks = MboxLocks(patience, partial(finish_rewrite, disk))
        self.host = hostname
        self._patience = patience

    def path(self, format: str) -> str:
        """Where the mailbox is in that format."""
        return self.mbox if format == "mbox" else self.maildir

    def addition(self, format: str) -> Addition:
        """The way to add messages to it."""
        if format == "mbox":
            return MboxAddition(self.disk, self.locks, self.mbox)
        return MaildirAddition(self.disk, self.writer(), self.host, self.maildir)

    def writer(self) -> MaildirWriter:
        """What knows how Maildirs are made."""
        return MaildirWriter(self.disk, self.host)

    @contextmanager
    def locked(self, *formats: str) -> Iterator[None]:
        """Keep POP3 sessions out; ``MaildropInUse`` when one does not end in time."""
        with ExitStack() as stack:
            for format in formats:
                stack.callback(self._lock(format).release)
            yield

    def _lock(self, format: str) -> MaildropLock:
        if format == "maildir":
            self.writer().prepare(self.maildir)
            path = f"{self.maildir}/{LOCK_NAME}"
        else:
            self.disk.make_folder(os.path.dirname(self.mbox))
            path = self.mbox + MAILDROP_LOCK
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return MaildropLock(path)
            except MaildropInUse:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_PAUSE)

    @contextmanager
    def listed(self, format: str) -> Iterator[list[Stored]]:
        """Its messages, as long as they are read: an mbox is copied first, so that nobody waits for us.

        Raises:
            MailboxUnavailable: another program keeps an mbox locked.
            OSError: it cannot be read.
        """
        if format == "maildir":
            yield stored_in(self.maildir)
            return
        copy = f"{self.mbox}.{os.getpid()}.copy{CONVERTING}"
        try:
            with self.locks.hold(self.mbox) as held:
                if held.fd < 0:
                    yield []
                    return
                with suppress(FileNotFoundError):
                    os.unlink(copy)
                with self.disk.create(copy) as file:
                    _copy(held.fd, file.fd)
            yield stored_in_mbox(copy, read_kept(self.mbox))
        finally:
            with suppress(FileNotFoundError):
                os.unlink(copy)

    def remains(self) -> list[str]:
        """Files beside the mailbox that a killed command has left behind."""
        name = os.path.basename(self.maildir)
        folder = os.path.dirname(self.maildir)
        with suppress(FileNotFoundError):
            return [
                f"{folder}/{other}"
                for other in os.listdir(folder)
                if other.startswith(f"{name}{MBOX}.") and other.endswith(CONVERTING)
            ]
        return []


def _copy(source: int, target: int) -> None:
    with open(os.dup(source), "rb") as read, open(os.dup(target), "wb") as written:
        read.seek(0)
        shutil.copyfileobj(read, written, 1024 * 1024)
