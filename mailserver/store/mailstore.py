"""The message store: every account's mailbox, in its own format, below one folder."""

from __future__ import annotations

import os
from pathlib import Path

from mailserver.durable import Disk
from mailserver.interfaces import IMailbox
from mailserver.store.maildir import MaildirMailbox, Maildirs
from mailserver.store.mbox import MboxDeliveries, MboxMailbox
from mailserver.store.paths import MBOX, mailbox_path
from mailserver.store.sweep import Sweeper, sweep_tmp
from mailserver.values.account import Account

FORMATS = ("maildir", "mbox")

_MAILBOXES_REMEMBERED = 10_000


class MailStore:
    """Makes mailboxes and owns the threads that write to them.

    ``format`` is ``"maildir"`` or ``"mbox"``, for accounts that name none.  ``at_once`` chooses
    where the file calls of a Maildir delivery are made: in the caller's thread, with only the sync
    in the store's own, or all in the store's own, which costs less processor time beside a busy
    reactor, since no file is then made while a sync runs (``batches.py``).  ``patience`` is how many
    seconds an mbox may stay locked by somebody else before its deliveries are given up for now.
    ``sweeps``: whether it looks for what is left behind; one of several processes does.
    """

    def __init__(
        self,
        root: Path,
        format: str,
        disk: Disk,
        hostname: str,
        *,
        at_once: bool = False,
        patience: float = 10.0,
        sweeps: bool = False,
    ) -> None:
        if format not in FORMATS:
            raise ValueError(f"{format!r} is not a mailbox format; expected one of {', '.join(FORMATS)}")
        self._root = os.path.abspath(root)
        self._format = format
        self._disk = disk
        self._maildirs = Maildirs(disk, hostname, at_once)
        self._mbox_deliveries = MboxDeliveries(disk, patience)
        self._mailboxes: dict[Account, IMailbox] = {}
        self._sweeper = Sweeper(self._root, self._sweep) if sweeps else None

    def start(self) -> None:
        """Make the root and begin to serve; ``OSError`` when the root cannot be made or synced."""
        self._disk.make_folder(self._root)
        self._maildirs.writer.sync_each = not self._disk.sync_filesystem(self._root)
        self._maildirs.batches.start()
        self._mbox_deliveries.start()
        if self._sweeper:
            self._sweeper.start()

    def stop(self) -> None:
        """Finish every delivery that was accepted, then end the threads. Blocks; harmless twice."""
        if self._sweeper:
            self._sweeper.stop()
        self._maildirs.batches.stop()
        self._mbox_deliveries.stop()

    def mailbox(self, account: Account) -> IMailbox:
        """The account's mailbox; nothing is made on the disk before the first delivery or log-in."""
        mailbox = self._mailboxes.get(account)
        if mailbox is None:
            if len(self._mailboxes) >= _MAILBOXES_REMEMBERED:
                self._mailboxes.clear()
            mailbox = self._mailboxes[account] = self._make(account)
        return mailbox

    def format_of(self, account: Account) -> str:
        """``"maildir"`` or ``"mbox"``."""
        return account.format or self._format

    def _sweep(self, path: str, now: float) -> None:
        sweep_tmp(path, now)

    def _make(self, account: Account) -> IMailbox:
        path = mailbox_path(self._root, account.address)
        if self.format_of(account) == "mbox":
            return MboxMailbox(self._mbox_deliveries, path + MBOX)
        return MaildirMailbox(self._maildirs, path)
