"""Large contents on their way into files of their own, with bounded memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mailserver.durable import Disk, DurableFile
from mailserver.interfaces import SpoolUnavailable
from mailserver.promise import Promise
from mailserver.spool.committer import spool_error
from mailserver.values.envelope import queue_id

_THREADS = 4
_WRITE_OCTETS = 192 * 1024
_HIGH_OCTETS = 512 * 1024
_LOW_OCTETS = 128 * 1024


class Bodies:
    """The folder of large contents and the threads that write them."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder = folder
        self._disk = disk
        self._threads = ThreadPoolExecutor(_THREADS, "spool-body")

    def path(self, number: int) -> Path:
        """Where the content of an entry is."""
        return self._folder / queue_id(number)

    def sweep(self, wanted: Collection[int]) -> None:
        """Make the folder, and remove what a crash left behind: files that no entry names.

        Raises:
            OSError: the folder cannot be read or changed.
        """
        self._disk.make_folder(self._folder)
        names = {queue_id(number) for number in wanted}
        for name in os.listdir(self._folder):
            if name not in names:
                self._disk.remove(self._folder / name)

    def begin(self, number: int) -> BodyStream:
        """Start a file. Never blocks."""
        return BodyStream(self._folder, queue_id(number), self._disk, self._threads)

    def remove(self, numbers: Iterable[int]) -> None:
        """Remove files whose entries are gone, some time soon."""
        paths = [self.path(number) for number in numbers]
        try:
            self._threads.submit(self._remove, paths)
        except RuntimeError:  # closed: the spool stops, and nobody waits for this thread either
            self._remove(paths)

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            try:
                self._disk.remove(path)
            except OSError:
                pass  # swept at the next start

    def stop(self) -> None:
        """Wait for what is being written; later streams fail."""
        self._threads.shutdown(wait=True)


class BodyStream:
    """One file that is being written.

    ``write``, ``finish`` and ``discard`` are for one caller's thread; at most one thread of the
    pool writes at a time, so the octets keep their order.
    """

    def __init__(self, folder: Path, name: str, disk: Disk, threads: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._path = folder / name
        self._disk = disk
        self._threads = threads
        self._lock = threading.Lock()
        self._pending: list[bytes] = []
        self._pending_octets = 0
        self._busy = False
        self._room: Future[None] | None = None
        self._reading: Future[Path] | None = None
        self._ending: Future[Path] | None = None
        self._discarded = False
        self._file: DurableFile | None = None
        self._error: BaseException | None = None

    def write(self, chunk: bytes) -> Future[None] | None:
        """Append; a future when more than ``_HIGH_OCTETS`` wait for the disk."""
        with self._lock:
            if self._error is not None or self._discarded:
                return None
            self._pending.append(chunk)
            self._pending_octets += len(chunk)
            # A thread that is called for each chunk costs more than what it does.
            if self._pending_octets >= _WRITE_OCTETS:
                self._work_soon()
            if self._pending_octets < _HIGH_OCTETS or self._error is not None:
                return None
            if self._room is None:
                self._room = Future()
            return self._room

    def readable(self) -> Future[Path]:
        """The file's path when all octets that were written can be read from it; nothing is synced.

        Fails with ``SpoolUnavailable``; ``finish`` then tells the same.  To be asked once.
        """
        with self._lock:
            reading: Future[Path] = Promise()
            self._reading = reading
            self._work_soon()
        return reading

    def finish(self) -> Future[Path]:
        """The file's path when its octets and its name are synced.

        Fails with ``SpoolUnavailable``; then the file is removed.
        """
        with self._lock:
            ending: Future[Path] = Promise()
            self._ending = ending
            self._work_soon()
        return ending

    def discard(self) -> None:
        """Forget what was written. Harmless twice."""
        with self._lock:
            self._discarded = True
            self._pending = []
            self._pending_octets = 0
            self._work_soon()

    def _work_soon(self) -> None:
        """Have a thread of the pool look at what there is to do; the lock is held."""
        if self._busy:
            return
        try:
            self._threads.submit(self._work)
            self._busy = True
        except RuntimeError:
            self._error = SpoolUnavailable("the spool is closed")
            self._pending = []
            self._pending_octets = 0
            for asked in filter(None, (self._reading, self._ending)):
                asked.set_exception(self._error)
            self._reading = self._ending = None

    def _work(self) -> None:
        while True:
            self._give_room()
            with self._lock:
                pieces, self._pending = self._pending, []
                self._pending_octets = 0
                reading: Future[Path] | None = None
                ending: Future[Path] | None = None
                if not pieces:
                    reading, self._reading = self._reading, None
                    if reading is None:
                        ending, self._ending = self._ending, None
                    if not (reading or ending or (self._discarded and self._file is not None)):
                        self._busy = False
                        return
            if pieces:
                self._append(pieces)
            elif reading is not None:
                self._show(reading)
            elif ending is not None:
                self._end(ending)
            else:
                self._clear_away()

    def _give_room(self) -> None:
        with self._lock:
            if self._room is None or self._pending_octets > _LOW_OCTETS:
                return
            room, self._room = self._room, None
        room.set_result(None)

    def _append(self, pieces: list[bytes]) -> None:
        if self._error is not None:
            return
        try:
            if self._file is None:
                self._file = self._disk.create(self._path)
            self._file.write(*pieces)
        except OSError as error:
            self._error = error

    def _show(self, reading: Future[Path]) -> None:
        if self._error is None and not self._discarded:
            reading.set_result(self._path)
        else:
            reading.set_exception(spool_error(self._error or SpoolUnavailable("aborted")))

    def _end(self, ending: Future[Path]) -> None:
        try:
            if self._error is None and self._file is not None:
                self._file.sync()
                self._file.close()
                self._disk.sync_folder(self._folder)
        except OSError as error:
            self._error = error
        if self._error is None and not self._discarded:
            ending.set_result(self._path)
            return
        self._clear_away()
        ending.set_exception(spool_error(self._error or SpoolUnavailable("aborted")))

    def _clear_away(self) -> None:
        """Close and remove the file; what cannot be removed is swept at the next start."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
            self._disk.remove(self._path)
        except OSError:
            pass
