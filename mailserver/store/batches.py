"""Many deliveries, one sync: the thread that makes Maildir files durable for all who are waiting."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from mailserver.durable import Disk
from mailserver.interfaces import Delivery, MailboxFull, MailboxUnavailable
from mailserver.promise import Promise
from mailserver.store.maildir_files import MaildirWriter, Placed
from mailserver.store.maildirsize import stored_octets
from mailserver.store.quota import MailboxQuota

BATCH = 50
"""How many messages share a sync at most: more gain little and make the first one wait."""

Soon = Callable[[Callable[[], None]], object]
"""Runs what it is given when the reactor's turn ends."""


class _Waiting:
    """A delivery whose future is not done; ``placed`` once its file is in the mailbox."""

    __slots__ = ("delivery", "future", "mailbox", "placed", "quota")

    def __init__(self, mailbox: str, delivery: Delivery, quota: MailboxQuota | None) -> None:
        self.mailbox = mailbox
        self.delivery = delivery
        self.quota = quota
        self.future: Future[None] = Promise()
        self.placed: Placed | None = None


class MaildirBatches:
    """Takes deliveries; their futures are done once a sync covers them.

    One thread makes the files and syncs them, so that none is made while a sync runs.  With ``soon`` it
    gets what one turn of the reactor brings in one piece: nobody can be answered before that anyway, and
    a thread that wakes for each of twenty fights for the interpreter twenty times.
    """

    def __init__(self, disk: Disk, writer: MaildirWriter, soon: Soon | None = None) -> None:
        self._disk = disk
        self._soon = soon
        self._gathered: list[_Waiting] = []
        self._writer = writer
        self._queue: SimpleQueue[list[_Waiting] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._lock = Lock()

    def start(self) -> None:
        """Begin to serve."""
        self._thread = Thread(target=self._run, name="maildir", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what was accepted, then end the thread; later deliveries fail."""
        self._hand_over()
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()

    def deliver(self, mailbox: str, delivery: Delivery, quota: MailboxQuota | None = None) -> Future[None]:
        """See ``IMailbox.deliver``; a ``quota`` is asked first. With ``soon``: in the reactor's thread."""
        waiting = _Waiting(mailbox, delivery, quota)
        if self._soon is None or self._thread is None:
            self._put([waiting])
        else:
            if not self._gathered:
                self._soon(self._hand_over)
            self._gathered.append(waiting)
        return waiting.future

    def deliver_from_thread(self, mailbox: str, delivery: Delivery) -> Future[None]:
        """The same from any thread."""
        waiting = _Waiting(mailbox, delivery, None)
        self._put([waiting])
        return waiting.future

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._put(gathered)

    def _put(self, deliveries: list[_Waiting]) -> None:
        with self._lock:
            stopped = self._thread is None
            if not stopped:
                self._queue.put(deliveries)
        if stopped:
            for waiting in deliveries:
                waiting.future.set_exception(MailboxUnavailable("the message store is stopped"))

    def _run(self) -> None:
        handed = self._queue.get()
        while handed is not None:
            batch = list(handed)
            with suppress(Empty):
                while len(batch) < BATCH and (handed := self._queue.get_nowait()) is not None:
                    batch += handed
            for begin in range(0, len(batch), BATCH):
                part = batch[begin : begin + BATCH]
                self._finish([waiting for waiting in part if self._is_placed(waiting)])
            if handed is not None:
                handed = self._queue.get()

    def _is_placed(self, waiting: _Waiting) -> bool:
        """Put the file into the mailbox; if that fails so does the delivery's future, and nobody else's."""
        try:
            if waiting.quota is not None:
                self._admit(waiting, waiting.quota)
            placed = waiting.placed = self._writer.place(waiting.mailbox, waiting.delivery)
            if waiting.quota is not None:
                # At once: whoever counts the mailbox anew for the next delivery sees this one's file.
                _count(waiting.quota, waiting.delivery, placed)
        except Exception as error:
            self._close(waiting)
            waiting.future.set_exception(error)
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

    def _finish(self, batch: list[_Waiting]) -> None:
        try:
            self._sync([(waiting.mailbox, waiting.placed) for waiting in batch if waiting.placed])
        except Exception as error:
            # Which of them the disk has lost is not told, and a second sync would not tell either.
            for waiting in batch:
                self._close(waiting)
                self._writer.take_back(waiting.mailbox, waiting.delivery)
            for waiting in batch:
                if waiting.quota is not None:
                    waiting.quota.forget()
                waiting.future.set_exception(error)
            return
        for waiting in batch:
            waiting.future.set_result(None)

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


def _count(quota: MailboxQuota, delivery: Delivery, placed: Placed) -> None:
    """After a message was placed; how much a repeated one has added is not known."""
    if delivery.repeated:
        quota.forget()
    else:
        quota.add(stored_octets(placed.path) or 0, 1)
