"""LOGIN-DELAY: when each account has logged in last (RFC 2449 §6.5), for all processes and over restarts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


class LoginTimes:
    """One empty file for each account, whose time of change is that of its last log-in.

    ``delay`` in seconds; ``now`` gives seconds since the epoch.
    """

    def __init__(self, folder: Path, delay: float, now: Callable[[], float]) -> None:
        self._folder = folder
        self.delay = delay
        self._now = now

    def may_log_in(self, name: str) -> bool:
        """Whether enough time has passed; if so, a log-in is noted. Blocks; call it with the maildrop locked.

        Raises:
            OSError: the file cannot be written.
        """
        path = self._folder / hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        now = self._now()
        try:
            # A clock that was set back must not keep anybody out for ever.
            if 0 <= now - path.stat().st_mtime < self.delay:
                return False
        except FileNotFoundError:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600)
        os.utime(path, (now, now))
        return True
