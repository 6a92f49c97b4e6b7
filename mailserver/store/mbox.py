"""Mailboxes in mbox format: who waits for which, in order, under one lock."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Condition

from zope.interface import implementer

from mailserver.durable import Disk
from mailserver.interfaces import Delivery, IMailbox, IMaildrop, MailboxUnavailable, StoreStopping
from mailserver.promise import Promise
from mailserver.store.locks import HeldMbox, MboxLocks
from mailserver.store.maildrop import MaildropLock, nothing
from mailserver.store.mbox_append import append_all
from mailserver.store.mbox_maildrop import MboxMaildrop, bring_back_mbox
from mailserver.store.mbox_rewrite import finish_rewrite
from mailserver.store.paths import MAILDROP_LOCK
from mailserver.store.quota import MailboxQuota
from mailserver.values.outcome import SERVER_STOPS

THREADS = 4
"""How many mailboxes are appended to at once; one that somebody keeps locked holds up one thread."""

_AT_ONCE = 50

_AGAIN_AT_ONCE = 1000
"""After a crash: for these the whole mbox is looked through, once for all of them."""

_GIVE_WAY = 0.03  # seconds between two turns at one mbox: other programs look for its locks now and then

_Waiting = tuple[Delivery, "Future[None]", "MailboxQuota | None"]


class MboxDeliveries:
    """Takes deliveries from any thread; those for one mbox are made in order, under one lock."""

    def __init__(self, disk: Disk, patience: float, undelete: bool = False) -> None:
        self.disk = disk
        self.undelete = undelete
        self.locks = MboxLocks(patience, partial(finish_rewrite, disk))
        self._threads: ThreadPoolExecutor | None = None
        self._is_open = False
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._changed = Condition()
        self._named: set[str] = set()
        self._distrusted: set[str] = set()

    def start(self) -> None:
        """Begin to serve."""
        self._threads, self._is_open = ThreadPoolExecutor(THREADS, thread_name_prefix="mbox"), True

    def hurry(self) -> None:
        """The server stops: what is under way is finished, all else waits for the next start."""
        with self._changed:
            self._is_open = False
            left = [waiting for line in self._waiting.values() for waiting in line]
            for line in self._waiting.values():
                line.clear()
        _tell(left, [_stopping()] * len(left))

    def stop(self) -> None:
        """Finish what was accepted, then end the threads; later deliveries fail."""
        with self._changed:
            self._is_open = False
            self._changed.wait_for(lambda: not self._waiting)
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()

    def deliver(self, path: str, delivery: Delivery, quota: MailboxQuota | None = None) -> Future[None]:
        """See ``IMailbox.deliver``; a ``quota`` is asked first."""
        future: Future[None] = Promise()
        with self._changed:
            is_open = self._is_open
            if is_open and path in self._waiting:
                self._waiting[path].append((delivery, future, quota))
            elif is_open:
                self._waiting[path] = deque([(delivery, future, quota)])
                self._begin(path)
        if not is_open:
            future.set_exception(_stopping())
        return future

    def _begin(self, path: str) -> None:
        assert self._threads is not None  # for as long as somebody waits
        self._threads.submit(self._serve, path)

    def _serve(self, path: str) -> None:
        """Deliver some of what waits for one mbox, then let other mailboxes have the thread."""
        some = self._next(path)
        try:
            errors = self._deliver_all(path, some) if some else []  # none: the server is in a hurry
        except Exception as error:
            if isinstance(error, MailboxUnavailable):
                # Locked for as long as we wait, and so it is for all who stand in this line.
                some += self._next(path, most=math.inf)
            errors = [error] * len(some)
        _tell(some, errors)
        with self._changed:
            goes_on = bool(self._waiting[path])
        if goes_on:
            time.sleep(_GIVE_WAY)
        with self._changed:
            if self._waiting[path]:
                self._begin(path)
            else:
                del self._waiting[path]
                self._changed.notify_all()

    def _next(self, path: str, most: float = _AT_ONCE) -> list[_Waiting]:
        with self._changed:
            waiting = self._waiting[path]
            if waiting and waiting[0][0].repeated:
                most = max(most, _AGAIN_AT_ONCE)
            return [waiting.popleft() for _ in range(int(min(most, len(waiting))))]

    def _deliver_all(self, path: str, some: Sequence[_Waiting]) -> list[Exception | None]:
        """What became of each; told when the locks are free again, so that nobody waits for us."""
        self.disk.make_folder(os.path.dirname(path))
        with self.locks.hold(path) as held:
            self._make_name_durable(held)
            wanted = [(delivery, quota) for delivery, _, quota in some]
            errors, is_synced = append_all(self.disk, held, wanted, path not in self._distrusted)
            if not is_synced:
                self._distrusted.add(path)
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


def _tell(some: Sequence[_Waiting], errors: Sequence[Exception | None]) -> None:
    for (_, future, _), failed in zip(some, errors, strict=True):
        if failed is None:
            future.set_result(None)
        else:
            future.set_exception(failed)


def _stopping() -> Exception:
    return StoreStopping(SERVER_STOPS)


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
