"""What nobody needs any more in the mailboxes: looked for now and then, in a thread of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Event, Thread

from mailserver.store.paths import CONVERTING, MBOX, TRASH

TMP_SECONDS = 36 * 3600.0
"""DJB's: a file in ``tmp`` that is older has lost its writer."""

_FIRST = 60.0
_EVERY = 6 * 3600.0
_PAUSE = 0.002
"""Slept after each mailbox, so that a sweep is never in anybody's way."""


class Sweeper:
    """Walks through all mailboxes a minute after the start and every six hours."""

    def __init__(self, root: str, sweep: Callable[[str, float], None]) -> None:
        """``sweep`` gets the path of each mailbox and the time, and may raise ``OSError``."""
        self._root = root
        self._sweep = sweep
        self._stop = Event()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._stop.clear()
        self._thread = Thread(target=self._run, name="sweep", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the mailbox in hand; harmless twice."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        pause = _FIRST
        while not self._stop.wait(pause):
            pause = _EVERY
            for path in mailboxes(self._root):
                with suppress(OSError):
                    self._sweep(path, time.time())
                if self._stop.wait(_PAUSE):
                    return


def mailboxes(root: str) -> Iterator[str]:
    """The paths of all Maildirs and mboxes below the store's root; a folder that cannot be read has none."""
    with suppress(OSError):
        for domain in sorted(os.listdir(root)):
            yield from mailboxes_of(f"{root}/{domain}")


def mailboxes_of(folder: str) -> Iterator[str]:
    """The same for one domain's folder."""
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            path = f"{folder}/{name}"
            if name.endswith(MBOX) or (os.path.isdir(path) and not name.endswith((TRASH, CONVERTING))):
                yield path
            elif name.endswith(MBOX + TRASH) and not os.path.lexists(mbox := path.removesuffix(TRASH)):
                yield mbox  # converted since; what was deleted before is still to go in time


def sweep_tmp(maildir: str, now: float) -> int:
    """Remove what has lain in ``tmp`` for 36 hours unread and unwritten; how many files."""
    swept = 0
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(f"{maildir}/tmp") as entries:
        for entry in entries:
            with suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                if (
                    entry.is_file(follow_symlinks=False)
                    and max(found.st_atime, found.st_mtime) < now - TMP_SECONDS
                ):
                    os.unlink(entry.path)
                    swept += 1
    return swept
