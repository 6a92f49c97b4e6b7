"""A mailbox in Maildir format: a folder with ``tmp``, ``new`` and ``cur``, one file for each message."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from zope.interface import implementer

from mailserver.durable import Disk
from mailserver.group_commit import GroupCommit
from mailserver.interfaces import Delivery, IMailbox, IMaildrop, MailboxUnavailable, MaildropUnusable
from mailserver.store.batches import MaildirBatches
from mailserver.store.maildir_files import MaildirWriter
from mailserver.store.maildir_maildrop import MaildirMaildrop
from mailserver.store.maildir_snapshot import Snapshots
from mailserver.store.maildrop import MaildropLock, nothing
from mailserver.store.quota import MailboxQuota
from mailserver.store.trash import bring_back_maildir

LOCK_NAME = "maildrop.lock"

_SIZES_REMEMBERED = 100_000


class Maildirs:
    """What all Maildirs of one store share: the writer, the thread that syncs, counted sizes."""

    def __init__(
        self, disk: Disk, hostname: str, undelete: bool = False, group: GroupCommit | None = None
    ) -> None:
        self.disk = disk
        self.undelete = undelete
        self.writer = MaildirWriter(disk, hostname)
        self.batches = MaildirBatches(disk, self.writer, group)
        self.snapshots = Snapshots()
        self._sizes: dict[str, dict[str, int]] = {}

    def sizes(self, path: str) -> dict[str, int]:
        """What was counted before in this mailbox, by the base names of its files."""
        if sum(map(len, self._sizes.values())) > _SIZES_REMEMBERED:
            self._sizes.clear()
        return self._sizes.setdefault(path, {})


@implementer(IMailbox)
class MaildirMailbox:
    """One user's Maildir."""

    format = "maildir"

    def __init__(self, shared: Maildirs, path: str, quota: MailboxQuota | None = None) -> None:
        self._shared = shared
        self._path = path
        self._quota = quota

    def deliver(self, delivery: Delivery) -> Future[None]:
        """See ``IMailbox``."""
        return self._shared.batches.deliver(self._path, delivery, self._quota)

    def over_quota(self) -> bool:
        """See ``IMailbox``."""
        return self._quota is not None and self._quota.over()

    def undelete(self, since: float) -> int:
        """Bring back what POP3 has deleted since then; how many messages. Blocks.

        Raises:
            MailboxUnavailable: the folders are not ours to use.
            OSError: the disk's own reason; each message is here or still in the trash.
        """
        self._shared.writer.prepare(self._path)
        count = bring_back_maildir(self._shared.disk, self._path, since)
        if count and self._quota is not None:
            self._quota.forget()
        return count

    def maildrop(self, locked: Callable[[], None] = nothing) -> IMaildrop:
        """See ``IMailbox``."""
        try:
            self._shared.writer.prepare(self._path)
        except MailboxUnavailable as error:
            raise MaildropUnusable(str(error)) from error
        lock = MaildropLock(f"{self._path}/{LOCK_NAME}")
        try:
            locked()
            return MaildirMaildrop(
                self._shared.disk,
                self._path,
                lock,
                self._shared.sizes(self._path),
                self._shared.snapshots,
                self._quota,
                self._shared.undelete,
            )
        except BaseException:
            lock.release()
            raise
