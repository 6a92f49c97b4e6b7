"""What a POP3 session has done, for the log and for the history."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mailserver import maillog
from mailserver.retrieve.history import MOST_MESSAGES, Visit
from mailserver.values.listing import Listings


class Tally:
    """``user`` is what the client called itself, ``account`` whose maildrop it is; ``""`` before log-in."""

    def __init__(self) -> None:
        self.user = self.account = ""
        self._sizes: Sequence[int] = ()
        self._unique_ids: Sequence[str] = ()
        self._fetched: list[str] = []
        self._removed: list[str] = []
        self._retrieved = self._octets = self._deleted = self._left = self._failed = 0

    def began(self, user: str, account: str, listings: Listings) -> None:
        """Somebody has logged in, and this is the maildrop."""
        self.user, self.account = user, account
        self._sizes, self._unique_ids = listings.octets, listings.unique_ids
        self._left = len(listings)

    def fetched(self, index: int) -> None:
        """A message was sent, whole."""
        self._retrieved += 1
        self._octets += self._sizes[index]
        if self._retrieved <= MOST_MESSAGES:
            self._fetched.append(self._unique_ids[index])

    def removed(self, indexes: Sequence[int], failed: int) -> None:
        """QUIT: these were to be deleted, and so many of them are still there."""
        self._deleted, self._failed = len(indexes) - failed, failed
        self._removed = [self._unique_ids[index] for index in indexes[:MOST_MESSAGES]]
        self._left -= self._deleted

    def tell(self, host: str, tls: bool, ending: str, visited: Callable[[Visit], object] | None) -> None:
        """The session is over: a line for the log, and what is worth it for the history."""
        maillog.pop3_session(
            client=host,
            user=self.user,
            reason=ending,
            retrieved=self._retrieved,
            octets=self._octets,
            deleted=self._deleted,
            left=self._left,
        )
        if visited is not None and (self._fetched or self._removed):
            visited(
                Visit(
                    ended=time.time(),
                    user=self.account,
                    client=host,
                    tls=tls,
                    ending=ending,
                    octets=self._octets,
                    fetched_count=self._retrieved,
                    fetched=self._fetched,
                    deleted_count=self._deleted,
                    deleted=self._removed,
                    failed=self._failed,
                )
            )
