"""The message store: every account's mailbox, in its own format, below one folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from mailserver.durable import Disk
from mailserver.group_commit import GroupCommit
from mailserver.interfaces import IMailbox
from mailserver.store import maildirsize
from mailserver.store.expiry import expire
from mailserver.store.maildir import MaildirMailbox, Maildirs
from mailserver.store.mbox import MboxDeliveries, MboxMailbox
from mailserver.store.paths import MBOX, mailbox_path
from mailserver.store.quota import DomainUsage, MailboxQuota, QuotaLimits
from mailserver.store.quota_notice import quota_notice
from mailserver.store.sweep import Sweeper, sweep_tmp
from mailserver.store.trash import sweep_trash
from mailserver.values.account import Account
from mailserver.values.address import domain_key

FORMATS = ("maildir", "mbox")

_MAILBOXES_REMEMBERED = 10_000


def _unheard(mailbox: str, count: int) -> None:
    """Where nobody wants to know."""


class MailStore:
    """Makes mailboxes and owns the threads that write to them.

    ``format`` is ``"maildir"`` or ``"mbox"``, for accounts that name none.  ``patience`` is how many seconds
    an mbox may stay locked by somebody else before its deliveries are given up for now.
    ``sweeps``: whether it looks for what is left behind; one of several processes does.
    ``undelete_for``: seconds for which what POP3 deletes can be brought back; ``expire_after``: those
    after which a sweep removes a message, 0 for never, of which ``expired`` hears in the sweep's thread.
    ``group`` lets deliveries share their syncs: see ``batches.py``.
    """

    def __init__(
        self,
        root: Path,
        format: str,
        disk: Disk,
        hostname: str,
        *,
        patience: float = 10.0,
        sweeps: bool = False,
        quota: QuotaLimits | None = None,
        undelete_for: float = 0.0,
        expire_after: float = 0.0,
        expired: Callable[[str, int], None] = _unheard,
        language: str = "en",
        group: GroupCommit | None = None,
    ) -> None:
        if format not in FORMATS:
            raise ValueError(f"{format!r} is not a mailbox format; expected one of {', '.join(FORMATS)}")
        self._root = os.path.abspath(root)
        self._format = format
        self._disk = disk
        self._hostname = hostname
        self._maildirs = Maildirs(disk, hostname, undelete_for > 0, group)
        self._mbox_deliveries = MboxDeliveries(disk, patience, undelete_for > 0)
        self._mailboxes: dict[Account, IMailbox] = {}
        self._undelete_for = undelete_for
        self._expire_after = expire_after
        self._expired = expired
        self._quota = quota or QuotaLimits()
        self._quotas: dict[str, MailboxQuota] = {}
        self._language = language
        self._languages: dict[str, str] = {}
        self._domains: dict[str, DomainUsage] = {}
        self._later = ThreadPoolExecutor(1, thread_name_prefix="quota")
        self._sweeper = Sweeper(self._root, self._sweep) if sweeps else None

    def start(self) -> None:
        """Make the root and begin to serve; ``OSError`` when the root cannot be made or synced."""
        self._disk.make_folder(self._root)
        self._maildirs.writer.sync_each = not self._disk.sync_filesystem(self._root)
        self._maildirs.batches.start()
        self._mbox_deliveries.start()
        if self._sweeper:
            self._sweeper.start()

    def hurry(self) -> None:
        """The server stops: what waits for an mbox, which may take minutes, fails with ``StoreStopping``."""
        self._mbox_deliveries.hurry()

    def stop(self) -> None:
        """Finish every delivery that was accepted, then end the threads. Blocks; harmless twice."""
        if self._sweeper:
            self._sweeper.stop()
        self._later.shutdown()
        self._maildirs.batches.stop()
        self._mbox_deliveries.stop()

    def undelete(self, account: Account, since: float) -> int:
        """Bring back what POP3 has deleted from the account's mailbox; how many messages. Blocks.

        Raises:
            MailboxUnavailable: the mailbox is not ours to use, or is kept locked.
            OSError: the disk's own reason; nothing is lost.
        """
        mailbox = self.mailbox(account)
        assert isinstance(mailbox, MaildirMailbox | MboxMailbox)
        return mailbox.undelete(since)

    def mailbox(self, account: Account) -> IMailbox:
        """The account's mailbox; nothing is made on the disk before the first delivery or log-in."""
        mailbox = self._mailboxes.get(account)
        if mailbox is None:
            if len(self._mailboxes) >= _MAILBOXES_REMEMBERED:
                self._mailboxes.clear()
            mailbox = self._mailboxes[account] = self._make(account)
        return mailbox

    def file(self, path: str) -> IMailbox:
        """An mbox that an administrator names, anywhere; without a quota."""
        return MboxMailbox(self._mbox_deliveries, path, None)

    def format_of(self, account: Account) -> str:
        """``"maildir"`` or ``"mbox"``."""
        return account.format or self._format

    def _sweep(self, path: str, now: float) -> None:
        sweep_tmp(path, now)
        sweep_trash(path, now - self._undelete_for)
        if self._expire_after:
            self._expire(path, now - self._expire_after)

    def _expire(self, path: str, older: float) -> None:
        quota = self._quotas.get(path)
        if path.endswith(MBOX):
            mailbox: IMailbox = MboxMailbox(self._mbox_deliveries, path, quota)
        else:
            mailbox = MaildirMailbox(self._maildirs, path, quota)
        if count := expire(mailbox, path, older):
            if quota is None:
                with suppress(OSError):  # nobody has asked for it since the start; it is counted anew
                    os.unlink(f"{path}/{maildirsize.NAME}")
            self._expired(os.path.relpath(path, self._root), count)

    def _make(self, account: Account) -> IMailbox:
        path = mailbox_path(self._root, account.address)
        if self.format_of(account) == "mbox":
            return MboxMailbox(self._mbox_deliveries, path + MBOX, self._quota_of(account, path + MBOX))
        return MaildirMailbox(self._maildirs, path, self._quota_of(account, path))

    def over_quota(self, account: Account) -> bool:
        """Whether there is room for nothing more in the account's mailbox; see ``IMailbox``."""
        return bool(self._quota or account.quota) and self.mailbox(account).over_quota()

    def _quota_of(self, account: Account, path: str) -> MailboxQuota | None:
        """The mailbox's quota, one object for all who ask; ``None`` without one."""
        limits = self._quota
        if not limits and not account.quota:
            return None
        domain = domain_key(account.address.domain)
        octets = limits.named.get(f"{account.address.local.lower()}@{domain}", limits.octets)
        octets = octets if account.quota is None else account.quota
        whole = limits.named.get(f"@{domain}", 0)
        if not (octets or limits.messages or whole):
            return None
        if whole and domain not in self._domains:
            self._domains[domain] = DomainUsage(os.path.dirname(path), whole)
        self._languages[path] = account.language  # chosen anew, it counts for the next notice
        if path not in self._quotas or self._quotas[path].octets != octets:
            self._quotas[path] = MailboxQuota(
                path,
                octets,
                limits,
                self._domains.get(domain),
                self._later,
                lambda percent: self._warn(account, path, percent),
            )
        return self._quotas[path]

    def _warn(self, account: Account, path: str, percent: int) -> None:
        """Put a notice into the mailbox itself, whatever room is left."""
        language = self._languages[path] or self._language
        delivery = quota_notice(account.address, percent, self._hostname, language)
        if path.endswith(MBOX):
            future = self._mbox_deliveries.deliver(path, delivery)
        else:
            future = self._maildirs.batches.deliver_from_thread(path, delivery)
        octets = delivery.content.size - sum(chunk.count(b"\n") for chunk in delivery.content.chunks())
        quota = self._quotas[path]
        future.add_done_callback(lambda done: quota.add(octets, 1) if not done.exception() else None)
