"""Many deliveries, one sync: the thread that makes Maildir files durable for all who are waiting."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import NamedTuple

from mailserver.durable import Disk
from mailserver.interfaces import Delivery, MailboxFull, MailboxUnavailable
from mailserver.promise import Promise
from mailserver.store.maildir_files import IN_MEMORY_OCTETS, MaildirWriter
from mailserver.store.maildirsize import stored_octets
from mailserver.store.quota import MailboxQuota

BATCH = 50
"""How many messages share a sync at most: more gain little and make the first one wait."""


class _Waiting(NamedTuple):
    """A delivery whose future is not done; ``path`` is empty until its file is in the mailbox."""

    mailbox: str
    delivery: Delivery
    future: Future[None]
    path: str
    quota: MailboxQuota | None


class MaildirBatches:
    """Takes deliveries from any thread; their futures are done once a sync covers them.

    With ``at_once`` a small message's file is written in the caller's thread and only the sync is
    left to this one; without it the thread does everything.
    """

    def __init__(self, disk: Disk, writer: MaildirWriter, at_once: bool) -> None:
        self._disk = disk
        self._writer = writer
        self._at_once = at_once
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._lock = Lock()

    def start(self) -> None:
        """Begin to serve."""
        self._thread = Thread(target=self._run, name="maildir", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what was accepted, then end the thread; later deliveries fail."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()

    def deliver(self, mailbox: str, delivery: Delivery, quota: MailboxQuota | None = None) -> Future[None]:
        """See ``IMailbox.deliver``; a ``quota`` is asked first."""
        future: Future[None] = Promise()
        path = ""
        if (
            self._at_once
            and quota is None
            and not delivery.repeated
            and delivery.content.size <= IN_MEMORY_OCTETS
            and self._writer.knows(mailbox)
        ):
            try:
                path = self._writer.place(mailbox, delivery)
            except Exception as error:
                future.set_exception(error)
                return future
        with self._lock:
            stopped = self._thread is None
            if not stopped:
                self._queue.put(_Waiting(mailbox, delivery, future, path, quota))
        if stopped:
            if path:
                self._writer.take_back(mailbox, delivery)
            future.set_exception(MailboxUnavailable("the message store is stopped"))
        return future

    def _run(self) -> None:
        going_on = True
        while going_on:
            batch = []
            first = self._queue.get()
            with suppress(Empty):
                while first is not None:
                    batch.append(first)
                    if len(batch) == BATCH:
                        break
                    first = self._queue.get_nowait()
            going_on = first is not None
            self._finish([waiting for waiting in map(self._placed, batch) if waiting.path])

    def _placed(self, waiting: _Waiting) -> _Waiting:
        """The delivery with its file in the mailbox, or its future failed: nobody else's."""
        if waiting.path:
            return waiting
        try:
            if waiting.quota is not None:
                self._admit(waiting, waiting.quota)
            placed = waiting._replace(path=self._writer.place(waiting.mailbox, waiting.delivery))
            if waiting.quota is not None:
                # At once: whoever counts the mailbox anew for the next delivery sees this one's file.
                _count(waiting.quota, placed)
            return placed
        except Exception as error:
            waiting.future.set_exception(error)
            return waiting

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
            self._sync(batch)
        except Exception as error:
            # Which of them the disk has lost is not told, and a second sync would not tell either.
            for waiting in batch:
                self._writer.take_back(waiting.mailbox, waiting.delivery)
            for waiting in batch:
                if waiting.quota is not None:
                    waiting.quota.forget()
                waiting.future.set_exception(error)
            return
        for waiting in batch:
            waiting.future.set_result(None)

    def _sync(self, batch: Iterable[_Waiting]) -> None:
        if self._writer.sync_each:
            for folder in {os.path.dirname(waiting.path) for waiting in batch}:
                self._disk.sync_folder(folder)
        else:
            for folder in {self._writer.filesystem(waiting.mailbox) for waiting in batch}:
                self._disk.sync_filesystem(folder)


def _count(quota: MailboxQuota, waiting: _Waiting) -> None:
    """After a message was placed; how much a repeated one has added is not known."""
    if waiting.delivery.repeated:
        quota.forget()
    else:
        quota.add(stored_octets(waiting.path) or 0, 1)
