"""A mailbox in mbox format: appending, mending what a crash has left, removing messages.

States of an append: nothing; a torn tail (only where the last attempt was never reported as done,
so the spool still owes it and its next attempt cuts the tail off); a synced message.  States of a
rewrite: the old file, with or without a ``.rewrite`` beside it that the next one overwrites; the new
file.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Condition

from zope.interface import implementer

from mailserver.durable import Disk, DurableFile
from mailserver.interfaces import Delivery, IMailbox, IMaildrop, MailboxFull, MailboxUnavailable
from mailserver.promise import Promise
from mailserver.store.locks import HeldMbox, MboxLocks
from mailserver.store.maildrop import MaildropLock, nothing
from mailserver.store.mbox_file import Region, find_copies, message_pieces, separator
from mailserver.store.mbox_maildrop import MboxMaildrop, bring_back_mbox
from mailserver.store.mbox_rewrite import finish_rewrite, rewrite_without
from mailserver.store.paths import MAILDROP_LOCK
from mailserver.store.quota import MailboxQuota

THREADS = 4
"""How many mailboxes are appended to at once; one that somebody keeps locked holds up one thread."""

_AT_ONCE = 50
_GIVE_WAY = 0.03  # seconds between two turns at one mbox: other programs look for its locks now and then
_WRITE_OCTETS = 256 * 1024

_Waiting = tuple[Delivery, "Future[None]", "MailboxQuota | None"]


class MboxDeliveries:
    """Takes deliveries from any thread; those for one mbox are made in order, under one lock."""

    def __init__(self, disk: Disk, patience: float, undelete: bool = False) -> None:
        self.disk = disk
        self.undelete = undelete
        self.locks = MboxLocks(patience, partial(finish_rewrite, disk))
        self._threads: ThreadPoolExecutor | None = None
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._changed = Condition()
        self._named: set[str] = set()

    def start(self) -> None:
        """Begin to serve."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="mbox")

    def stop(self) -> None:
        """Finish what was accepted, then end the threads; later deliveries fail."""
        with self._changed:
            threads, self._threads = self._threads, None
            if threads is None:
                return
            # _serve goes on with what waits: it keeps its own reference to the threads.
            self._changed.wait_for(lambda: not self._waiting)
        threads.shutdown()

    def deliver(self, path: str, delivery: Delivery, quota: MailboxQuota | None = None) -> Future[None]:
        """See ``IMailbox.deliver``; a ``quota`` is asked first."""
        future: Future[None] = Promise()
        with self._changed:
            threads = self._threads
            if threads is not None:
                if path in self._waiting:
                    self._waiting[path].append((delivery, future, quota))
                else:
                    self._waiting[path] = deque([(delivery, future, quota)])
                    threads.submit(self._serve, path, threads)
        if threads is None:
            future.set_exception(MailboxUnavailable("the message store is stopped"))
        return future

    def _serve(self, path: str, threads: ThreadPoolExecutor) -> None:
        """Deliver some of what waits for one mbox, then let other mailboxes have the thread."""
        with self._changed:
            waiting = self._waiting[path]
            some = [waiting.popleft() for _ in range(min(_AT_ONCE, len(waiting)))]
        try:
            errors = self._deliver_all(path, some)
        except Exception as error:
            errors = [error] * len(some)
        for (_, future, _), failed in zip(some, errors, strict=True):
            if failed is None:
                future.set_result(None)
            else:
                future.set_exception(failed)
        with self._changed:
            goes_on = bool(waiting)
        if goes_on:
            time.sleep(_GIVE_WAY)
        with self._changed:
            if waiting:
                threads.submit(self._serve, path, threads)
            else:
                del self._waiting[path]
                self._changed.notify_all()

    def _deliver_all(self, path: str, some: Iterable[_Waiting]) -> list[Exception | None]:
        """What became of each; told when the locks are free again, so that nobody waits for us."""
        errors: list[Exception | None] = []
        self.disk.make_folder(os.path.dirname(path))
        with self.locks.hold(path) as held:
            self._make_name_durable(held)
            for delivery, _, quota in some:
                try:
                    if quota is not None:
                        _admit(quota, held, delivery)
                    size = held.size
                    deliver(self.disk, held, delivery)
                    if quota is not None and held.size > size:
                        quota.add(held.size - size, 1)
                except Exception as error:
                    errors.append(error)
                else:
                    errors.append(None)
        return errors

    def _make_name_durable(self, held: HeldMbox) -> None:
        """Once for each mbox: a file that an earlier process made may have a name that is not synced."""
        if held.fd < 0:
            self.disk.create(held.path).close()
            held.adopt(held.path)
            self._named.discard(held.path)
        if held.path not in self._named:
            self.disk.sync_folder(os.path.dirname(held.path))
            self._named.add(held.path)


def _admit(quota: MailboxQuota, held: HeldMbox, delivery: Delivery) -> None:
    try:
        quota.admit(len(delivery.header) + delivery.content.size)
    except MailboxFull:
        # Never refuse what an earlier attempt has put there.
        if not delivery.repeated or find_copies(held.fd, held.size, delivery)[0] is None:
            raise


def deliver(disk: Disk, held: HeldMbox, delivery: Delivery) -> None:
    """Append one message to a locked mbox, durably; a message that is there already stays alone.

    Raises:
        OSError: the disk's own reason; what was written is cut off again.
    """
    if delivery.repeated and _mend(disk, held, delivery):
        disk.sync_file(held.path)
        return
    size = held.size
    with disk.extend(held.path) as file:
        try:
            _write(file, separator(held.fd, size), delivery)
            file.sync()
        except BaseException:
            with suppress(OSError):
                file.truncate(size)
            raise


def _mend(disk: Disk, held: HeldMbox, delivery: Delivery) -> bool:
    """Remove what torn attempts have left; whether the whole message is there."""
    whole, torn = find_copies(held.fd, held.size, delivery)
    if torn and torn[-1][1] == held.size:
        with disk.extend(held.path) as file:
            file.truncate(torn.pop()[0])
            file.sync()
    if torn:
        rewrite_without(disk, held, _merged(torn))
    return whole is not None


def _merged(torn: Sequence[Region]) -> list[Region]:
    """The regions without overlaps: a hole inside a torn message may look like a second one."""
    merged: list[Region] = []
    for start, end in torn:
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _write(file: DurableFile, separated: bytes, delivery: Delivery) -> None:
    """Few large writes of bounded memory."""
    pieces = [separated]
    octets = 0
    for piece in message_pieces(delivery):
        pieces.append(piece)
        octets += len(piece)
        if octets >= _WRITE_OCTETS:
            file.write(b"".join(pieces))
            pieces.clear()
            octets = 0
    file.write(b"".join(pieces))


@implementer(IMailbox)
class MboxMailbox:
    """One user's mbox."""

    format = "mbox"

    def __init__(self, shared: MboxDeliveries, path: str, quota: MailboxQuota | None = None) -> None:
        self._shared = shared
        self._path = path
        self._quota = quota

    def deliver(self, delivery: Delivery) -> Future[None]:
        """See ``IMailbox``."""
        return self._shared.deliver(self._path, delivery, self._quota)

    def over_quota(self) -> bool:
        """See ``IMailbox``."""
        return self._quota is not None and self._quota.over()

    def undelete(self, since: float) -> int:
        """Bring back what POP3 has deleted since then; how many messages. Blocks.

        Raises:
            MailboxUnavailable: somebody else keeps the mbox locked.
            OSError: the disk's own reason; what was not brought back is still in the trash.
        """
        with self._shared.locks.hold(self._path) as held:
            if held.fd < 0:
                self._shared.disk.create(held.path).close()
                held.adopt(held.path)
                self._shared.disk.sync_folder(os.path.dirname(held.path))
            return bring_back_mbox(self._shared.disk, held, since)

    def maildrop(self, locked: Callable[[], None] = nothing) -> IMaildrop:
        """See ``IMailbox``; an mbox that a delivery or another program keeps locked is ``OSError``."""
        self._shared.disk.make_folder(os.path.dirname(self._path))
        lock = MaildropLock(self._path + MAILDROP_LOCK)
        try:
            locked()
            return MboxMaildrop(
                self._shared.disk, self._shared.locks, self._path, lock, self._shared.undelete
            )
        except MailboxUnavailable as error:
            lock.release()
            raise OSError(str(error)) from error
        except BaseException:
            lock.release()
            raise
