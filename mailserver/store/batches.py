"""Many deliveries, one sync: the thread that makes Maildir files durable for all who are waiting."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from mailserver.durable import Disk
from mailserver.group_commit import GroupCommit
from mailserver.interfaces import Delivery, MailboxFull, MailboxUnavailable
from mailserver.promise import Promise
from mailserver.store.maildir_files import MaildirWriter, Placed
from mailserver.store.maildirsize import stored_octets
from mailserver.store.quota import MailboxQuota

BATCH = 100
"""How many messages share a sync at most: more gain little and make the first one wait."""

SLOW_SECONDS = 0.05
"""A batch whose files took longer was not written at memory's speed."""

AVOID_SECONDS = 30.0
"""How long the thread makes the files after that."""


class _Waiting:
    """A delivery whose future is not done; ``placed`` once its file is in the mailbox, and ``counted`` the
    octets of it that the quota has been told."""

    __slots__ = ("counted", "delivery", "future", "mailbox", "placed", "quota")

    def __init__(self, mailbox: str, delivery: Delivery, quota: MailboxQuota | None) -> None:
        self.mailbox = mailbox
        self.delivery = delivery
        self.quota = quota
        self.future: Future[None] = Promise()
        self.placed: Placed | None = None
        self.counted = 0

    def settle(self, error: Exception | None) -> None:
        """Tell whoever waits."""
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


_Settled = list[tuple[_Waiting, Exception | None]]


class MaildirBatches:
    """Takes deliveries; their futures are done once a sync covers them.

    One thread syncs, and nobody makes a file while a sync runs: it would wait for the same journal.
    With ``group`` the reactor's thread makes the files, as long as the disk takes them as fast as memory
    does: opening, writing and naming a small file costs 60 µs, and a thread that does it gives the
    interpreter away and fights for it again at each of these four calls, which costs more.  What needs
    patience is left to the thread: a large file, a quota, a folder not known yet, a network's file
    system, a disk that was slow a short time ago; and without ``group`` all of it.
    """

    def __init__(
        self,
        disk: Disk,
        writer: MaildirWriter,
        group: GroupCommit | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disk = disk
        self._group = group
        self._departure = group.departure(self._set_out) if group is not None else None
        self._now = now
        self._writer = writer
        self._gathered: list[_Waiting] = []
        self._slow_until = 0.0
        self._queue: SimpleQueue[list[_Waiting] | None] = SimpleQueue()
        self._settled: deque[_Settled] = deque()
        self._under_way = 0
        self._thread: Thread | None = None
        self._lock = Lock()

    def start(self) -> None:
        """Begin to serve."""
        self._thread = Thread(target=self._run, name="maildir", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what was accepted, then end the thread; later deliveries fail."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._put(gathered)
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()
        self._settle()

    def deliver(self, mailbox: str, delivery: Delivery, quota: MailboxQuota | None = None) -> Future[None]:
        """See ``IMailbox.deliver``; a ``quota`` is asked first. With ``group``: in the reactor's thread."""
        waiting = _Waiting(mailbox, delivery, quota)
        if self._departure is None or self._thread is None:
            self._put([waiting])
        else:
            # While a sync runs they gather, and set out together when it has ended.
            self._gathered.append(waiting)
            if not self._under_way:
                self._departure.gathered(len(self._gathered) >= BATCH)
        return waiting.future

    def deliver_from_thread(self, mailbox: str, delivery: Delivery) -> Future[None]:
        """The same from any thread."""
        waiting = _Waiting(mailbox, delivery, None)
        self._put([waiting])
        return waiting.future

    # -- in the reactor's thread -----------------------------------------------------------------

    def _set_out(self) -> None:
        """Place what has gathered, and let the thread sync it; but not while it is at another batch."""
        if self._under_way or not self._gathered:
            return
        batch, self._gathered = self._gathered[:BATCH], self._gathered[BATCH:]
        began = self._now()
        if began >= self._slow_until:
            batch = [waiting for waiting in batch if not self._is_quick(waiting) or self._is_placed(waiting)]
            if self._now() - began > SLOW_SECONDS:
                self._slow_until = self._now() + AVOID_SECONDS
        if batch:
            self._put(batch)
        else:
            self._gather()

    def _is_quick(self, waiting: _Waiting) -> bool:
        return waiting.quota is None and self._writer.is_quick(waiting.mailbox, waiting.delivery)

    def _settle(self) -> None:
        """Tell whoever waits for what the thread has finished; then the next set out."""
        if self._departure is not None:
            self._departure.arrived()
        while self._settled:
            for waiting, error in self._settled.popleft():
                waiting.settle(error)
        self._gather()

    def _gather(self) -> None:
        if self._gathered and self._departure is not None:
            self._departure.gathered(len(self._gathered) >= BATCH)

    # -- in any thread ---------------------------------------------------------------------------

    def _put(self, deliveries: list[_Waiting]) -> None:
        with self._lock:
            stopped = self._thread is None
            if not stopped:
                self._under_way += 1
                self._queue.put(deliveries)
        if stopped:
            for waiting in deliveries:
                waiting.settle(MailboxUnavailable("the message store is stopped"))

    # -- in the thread of its own ----------------------------------------------------------------

    def _run(self) -> None:
        handed = self._queue.get()
        while handed is not None:
            batch, lists = list(handed), 1
            with suppress(Empty):
                while len(batch) < BATCH and (handed := self._queue.get_nowait()) is not None:
                    batch += handed
                    lists += 1
            settled: _Settled = []
            for begin in range(0, len(batch), BATCH):
                settled += self._finish(batch[begin : begin + BATCH])
            with self._lock:
                self._under_way -= lists
            self._hand_back(settled)
            if handed is not None:
                handed = self._queue.get()

    def _hand_back(self, settled: _Settled) -> None:
        if self._group is not None:
            self._settled.append(settled)
            self._group.turns.call(self._settle)
            return
        for waiting, error in settled:
            waiting.settle(error)

    def _is_placed(self, waiting: _Waiting) -> bool:
        """Put the file into the mailbox; if that fails so does the delivery's future, and nobody else's."""
        try:
            if waiting.quota is not None:
                self._admit(waiting, waiting.quota)
            placed = waiting.placed = self._writer.place(waiting.mailbox, waiting.delivery)
            if waiting.quota is not None:
                # At once: whoever counts the mailbox anew for the next delivery sees this one's file.
                if placed.is_found:
                    waiting.quota.forget()
                else:
                    waiting.counted = stored_octets(placed.path) or 0
                    waiting.quota.add(waiting.counted, 1, warns=False)
        except Exception as error:
            self._close(waiting)
            waiting.settle(error)
            return False
        return True

    def _close(self, waiting: _Waiting) -> None:
        if waiting.placed is not None and waiting.placed.file is not None:
            waiting.placed.file.close()

    def _admit(self, waiting: _Waiting, quota: MailboxQuota) -> None:
        delivery = waiting.delivery
        try:
            quota.admit(len(delivery.header) + delivery.content.size)
        except MailboxFull:
            # Never refuse what an earlier attempt has put there.
            if not delivery.repeated or not self._writer.has(waiting.mailbox, delivery):
                raise

    def _finish(self, batch: list[_Waiting]) -> _Settled:
        """Place those that are not placed yet, and sync all."""
        self._count_anew(batch)
        with self._writer.names.one_look():
            placed = [waiting for waiting in batch if waiting.placed is not None or self._is_placed(waiting)]
        try:
            self._sync([(waiting.mailbox, waiting.placed) for waiting in placed if waiting.placed])
        except Exception as error:
            # Which of them the disk has lost is not told, and a second sync would not tell either.
            for waiting in placed:
                self._close(waiting)
                self._writer.take_back(waiting.mailbox, waiting.delivery)
            for waiting in placed:
                if waiting.quota is not None:
                    if waiting.counted:
                        waiting.quota.add(-waiting.counted, -1, warns=False)
                    waiting.quota.forget()
            return [(waiting, error) for waiting in placed]
        for quota in {waiting.quota for waiting in placed if waiting.quota is not None}:
            quota.warn()
        return [(waiting, None) for waiting in placed]

    @staticmethod
    def _count_anew(batch: Iterable[_Waiting]) -> None:
        """Whether what an earlier attempt has left was counted then is not known."""
        for quota in {waiting.quota for waiting in batch if waiting.delivery.repeated}:
            if quota is not None:
                quota.forget()

    def _sync(self, batch: Iterable[tuple[str, Placed]]) -> None:
        """Make all of ``batch`` durable: those with a file of their own one by one, the others together."""
        folders, filesystems = set(), set()
        for mailbox, placed in batch:
            if placed.file is not None:
                placed.file.sync()
                placed.file.close()
            if placed.file is not None or self._writer.sync_each:
                folders.add(os.path.dirname(placed.path))
            else:
                filesystems.add(self._writer.filesystem(mailbox))
        for folder in filesystems:
            self._disk.sync_filesystem(folder)
        for folder in folders:
            self._disk.sync_folder(folder)
