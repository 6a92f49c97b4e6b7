"""What can be wrong with an mbox that several programs write to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial

from mailserver.interfaces import MailboxUnavailable
from mailserver.store.adding import Progress
from mailserver.store.findings import Finding, check_kept_ids
from mailserver.store.mailboxes import Mailboxes
from mailserver.store.mbox_messages import messages_of, unique_ids
from mailserver.store.mbox_rewrite import rewrite_with_beginning
from mailserver.store.octets import open_regular
from mailserver.store.paths import REWRITE

_OTHERS = 0o077


class MboxCheck:
    """Looks at one mbox; read-only until somebody calls a finding's ``mend``."""

    def __init__(self, mailboxes: Mailboxes, progress: Progress) -> None:
        self._mailboxes = mailboxes
        self._path = mailboxes.mbox
        self._name = os.path.basename(self._path)
        self._progress = progress

    def findings(self) -> Iterator[Finding]:
        """Everything; nothing where there is no mbox."""
        if not os.path.lexists(self._path):
            return
        found = os.lstat(self._path)
        if not stat.S_ISREG(found.st_mode):
            yield Finding("foreign", self._name, "it is not a regular file: nothing is delivered to it")
            return
        yield from self._file(found)
        if os.path.lexists(self._path + REWRITE):
            text = "a rewrite was killed; the next delivery or session ends it"
            yield Finding("remains", self._name + REWRITE, text, self._end_rewrite)
        fd = open_regular(self._path)
        try:
            if found.st_size and os.pread(fd, 5, 0) != b"From ":
                text = "it does not begin with a From_ line: the text before the first one is not served"
                yield Finding("text", self._name, text, self._begin)
            naturals = unique_ids(messages_of(fd, found.st_size))
        finally:
            os.close(fd)
        self._progress(found.st_size)
        yield from check_kept_ids(self._mailboxes.disk, self._path, self._name, naturals)

    def _file(self, found: os.stat_result) -> Iterator[Finding]:
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid != os.geteuid():
            text = f"it belongs to uid {found.st_uid}, not to {os.geteuid()}: nothing is delivered to it"
            yield Finding("permissions", self._name, text)
        elif mode & _OTHERS or mode & 0o600 != 0o600:
            text = f"its mode is {mode:04o}, expected 0600"
            yield Finding("permissions", self._name, text, partial(os.chmod, self._path, 0o600))
        if found.st_nlink != 1:
            yield Finding(
                "foreign", self._name, "it has a second name (hard link): nothing is delivered to it"
            )

    def _end_rewrite(self) -> None:
        try:
            with self._mailboxes.locks.hold(self._path):
                pass  # whoever locks it ends the rewrite
        except MailboxUnavailable as error:
            raise OSError(str(error)) from error

    def _begin(self) -> None:
        """Make a message of the text that belongs to none."""
        try:
            with self._mailboxes.locks.hold(self._path) as held:
                if held.size and os.pread(held.fd, 5, 0) != b"From ":
                    rewrite_with_beginning(self._mailboxes.disk, held)
        except MailboxUnavailable as error:
            raise OSError(str(error)) from error
