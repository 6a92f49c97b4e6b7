"""Names of our files in a Maildir: what they begin with, and where a message that comes again is."""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager

from mailserver.interfaces import Delivery

_PLAIN_NAME = re.compile(r"[0-9A-Za-z._-]{1,64}")

_SEEN = ("new", "cur")
"""The folders that readers look into. First new: what is moved from it meanwhile is met twice, not missed."""


def key_of(delivery: Delivery) -> str:
    """The beginning of the message's file name: the same in every attempt, whatever the host's name."""
    name = delivery.name
    if not _PLAIN_NAME.fullmatch(name):
        name = hashlib.sha256(name.encode()).hexdigest()[:40]
    second, part = divmod(delivery.arrived, 1)
    return f"{int(second)}.M{int(part * 1_000_000):06d}Q{name}."


def find(mailbox: str, key: str) -> list[str]:
    """The paths in ``new`` and ``cur`` whose names begin with ``key``."""
    return [
        f"{mailbox}/{folder}/{name}"
        for folder in _SEEN
        for name in os.listdir(f"{mailbox}/{folder}")
        if name.startswith(key)
    ]


class Names:
    """Finds messages that come again; in ``one_look`` for the thread alone that makes those."""

    def __init__(self) -> None:
        self._listed: dict[str, list[tuple[str, list[str]]]] | None = None
        self._found: set[tuple[str, str]] = set()

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """List each folder once for all that is found meanwhile: after a crash hundreds of messages come
        again, and a folder may have a hundred thousand files."""
        self._listed = {}
        try:
            yield
        finally:
            self._listed = None
            self._found.clear()

    def find(self, mailbox: str, key: str) -> list[str]:
        """As the function ``find``."""
        # What is asked for again may have been put there since the look.
        if self._listed is not None and (mailbox, key) not in self._found:
            self._found.add((mailbox, key))
            if mailbox not in self._listed:
                self._listed[mailbox] = [
                    (f"{mailbox}/{folder}/", sorted(os.listdir(f"{mailbox}/{folder}"))) for folder in _SEEN
                ]
            found = [
                folder + name for folder, names in self._listed[mailbox] for name in _beginning(names, key)
            ]
            if all(map(os.path.lexists, found)):
                return found
        return find(mailbox, key)  # a reader has moved it meanwhile


def _beginning(names: list[str], key: str) -> Iterator[str]:
    at = bisect_left(names, key)
    while at < len(names) and names[at].startswith(key):
        yield names[at]
        at += 1
