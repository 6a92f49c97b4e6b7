"""The dotlock of an mbox: ``<mbox>.lock``, as Debian's mail programs make and respect it."""

from __future__ import annotations

import os
import threading
import time

from mailserver.interfaces import MailboxUnavailable

STALE_SECONDS = 600.0
"""A dotlock older than this has lost its owner."""

PAUSE = 0.02
"""Seconds between two looks at a lock that somebody else has."""

_DOT = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def shown(path: str) -> str:
    """A file as a report to the sender may name it: without the path of the store."""
    return os.path.basename(path)


class Dotlock:
    """``<mbox>.lock``, which holds the process id and host of its owner."""

    def __init__(self, path: str, deadline: float) -> None:
        self._path = path
        while not self._take():
            if self._is_stale():
                self._break()
            elif time.monotonic() >= deadline:
                raise MailboxUnavailable(f"{shown(path)} is held by another program")
            else:
                time.sleep(PAUSE)

    def release(self) -> None:
        """Remove the lock file, unless somebody has broken it and put his own in its place."""
        try:
            if os.path.samestat(os.lstat(self._path), self._mine):
                os.unlink(self._path)
        except FileNotFoundError:
            pass

    def _take(self) -> bool:
        try:
            fd = os.open(self._path, _DOT, 0o600)
        except FileExistsError:
            return False
        try:
            os.write(fd, f"{os.getpid()} {os.uname().nodename}\n".encode())
            self._mine = os.fstat(fd)
        finally:
            os.close(fd)
        return True

    def _is_stale(self) -> bool:
        try:
            self._seen = os.lstat(self._path)
            return time.time() - self._seen.st_mtime > STALE_SECONDS or self._owner_is_dead()
        except FileNotFoundError:
            return False

    def _owner_is_dead(self) -> bool:
        """Whether a process of this host left the lock behind: so a crash costs no ten minutes."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            number, _, host = os.read(fd, 300).decode("ascii", "replace").strip().partition(" ")
        finally:
            os.close(fd)
        if host != os.uname().nodename or not number.isdecimal():
            return False
        if int(number) == os.getpid():
            return True  # threads of this process wait in MboxLocks, so it was an earlier one
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            pass
        return False

    def _break(self) -> None:
        """Take the stale lock away, but not a live one that has come in its place meanwhile."""
        aside = f"{self._path}.{os.getpid()}.{threading.get_ident()}"
        try:
            os.rename(self._path, aside)
        except FileNotFoundError:
            return
        if not os.path.samestat(os.lstat(aside), self._seen):
            try:
                os.link(aside, self._path, follow_symlinks=False)
            except FileExistsError:
                pass
        os.unlink(aside)
