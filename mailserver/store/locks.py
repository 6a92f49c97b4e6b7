"""The locks of an mbox: dotlock, then fcntl, and never the one held while waiting for the other."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mailserver.interfaces import MailboxUnavailable
from mailserver.store.dotlock import PAUSE, Dotlock, shown
from mailserver.store.paths import DOTLOCK

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_BUSY = (errno.EAGAIN, errno.EACCES)


class MboxLocks:
    """Who holds which mbox in this process, in front of the locks that other programs see."""

    def __init__(self, patience: float, recover: Callable[[HeldMbox], None] | None = None) -> None:
        """``patience``: seconds to wait for all locks of one mbox together; ``recover`` is called with
        each mbox that was locked, to end what a crash has interrupted."""
        self._patience = patience
        self._recover = recover
        self._held: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, path: str) -> Iterator[HeldMbox]:
        """Lock the mbox, whether or not its file is there; its folder must be.

        Raises:
            MailboxUnavailable: somebody else keeps it locked, or it is not a file of ours.
            OSError: the disk's own reason.
        """
        deadline = time.monotonic() + self._patience
        self._enter(path)
        try:
            held, dotlock = _both(path, deadline)
            try:
                if self._recover is not None:
                    self._recover(held)
                yield held
            finally:
                held.close()
                dotlock.release()
        finally:
            with self._changed:
                self._held.discard(path)
                self._changed.notify_all()

    def _enter(self, path: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: path not in self._held, self._patience):
                raise MailboxUnavailable(f"{shown(path)} is in use by another delivery or session")
            self._held.add(path)


def _both(path: str, deadline: float) -> tuple[HeldMbox, Dotlock]:
    """Both locks, tried together: Debian's policy (11.6) lets programs begin with fcntl, or take both
    without blocking; so nobody who has the one waits for us, who have the other."""
    while True:
        dotlock = Dotlock(path + DOTLOCK, deadline)
        held = HeldMbox(path)
        try:
            held.lock()
            return held, dotlock
        except MboxLocked:
            held.close()
            dotlock.release()
            if time.monotonic() >= deadline:
                raise
        except BaseException:
            held.close()
            dotlock.release()
            raise
        time.sleep(PAUSE)


class MboxLocked(MailboxUnavailable):
    """Another program has the file locked."""


class HeldMbox:
    """An mbox that nobody else reads or writes. ``fd`` is open for reading, -1 without a file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1

    def lock(self) -> None:
        """Open and lock the file that has the name now, if there is one; ``MboxLocked`` at once."""
        while True:
            try:
                fd = os.open(self.path, _OPEN)
            except FileNotFoundError:
                return
            try:
                _lock_file(fd, self.path)
                if os.path.samestat(os.fstat(fd), os.lstat(self.path)):
                    _refuse_foreign(fd, self.path)
                    self.fd = fd
                    return
            except FileNotFoundError:
                pass  # removed between open and lock
            finally:
                if self.fd != fd:
                    os.close(fd)

    def adopt(self, path: str) -> None:
        """Lock and hold the file at ``path`` instead, which is about to take the mbox's name."""
        fd = os.open(path, _OPEN)
        try:
            _lock_file(fd, path)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self.fd = fd

    @property
    def size(self) -> int:
        """Octets in the file; 0 without one."""
        return os.fstat(self.fd).st_size if self.fd >= 0 else 0

    def close(self) -> None:
        """Let go of the file and its lock."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _lock_file(fd: int, path: str) -> None:
    try:
        _try_lock(fd)
    except OSError as error:
        if error.errno not in _BUSY:
            raise
        raise MboxLocked(f"{shown(path)} is locked by another program") from None


def _try_lock(fd: int) -> None:
    """An fcntl write lock of the whole file.

    A classic one would be dropped as soon as any descriptor of the file is closed anywhere in this
    process; Linux's kind belongs to the open file, and both kinds keep each other out.
    """
    command = getattr(fcntl, "F_OFD_SETLK", None)
    if command is None:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        fcntl.fcntl(fd, command, struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))


def _refuse_foreign(fd: int, path: str) -> None:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise MailboxUnavailable(f"{shown(path)} is not a regular file")
    if found.st_uid != os.geteuid():
        raise MailboxUnavailable(f"{shown(path)} belongs to another user")
    if found.st_nlink != 1:
        raise MailboxUnavailable(f"{shown(path)} has more than one name (hard links)")
