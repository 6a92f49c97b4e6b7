"""Mail from another server, or from a file, into a mailbox of ours, so that no client fetches it twice.

What has come once does not come again, also when its owner has deleted it meanwhile: ``imported-ids``
remembers, beside the mailbox.  It is written after the messages, so that a kill makes nobody miss one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from mailserver.store.adding import MaildirAddition, Progress
from mailserver.store.conversion import maildir_folders
from mailserver.store.foreign_ids import DOVECOT_FORMAT, dovecot_id, foreign_ids
from mailserver.store.kept_ids import is_unique_id
from mailserver.store.mailboxes import Mailboxes
from mailserver.store.maildrop import unique_id
from mailserver.store.mbox_messages import messages_of
from mailserver.store.octets import open_regular
from mailserver.store.paths import IMPORTED_IDS, MBOX
from mailserver.store.status_fields import without_fields
from mailserver.store.stored import MboxFields, Stored, stored_in, stored_in_maildir, stored_in_mbox

_NAME = "imported-ids"


class ImportRefused(Exception):
    """Nothing was imported; the text says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is to come: the messages, where their ids are from, and those in folders (``.Sent``)."""

    messages: Sequence[Stored]
    ids_from: str
    folders: dict[str, Sequence[Stored]] = field(default_factory=dict)

    @property
    def octets(self) -> int:
        """How much there is, for a progress bar."""
        everything = [*self.messages, *(stored for messages in self.folders.values() for stored in messages)]
        return sum(stored.size for stored in everything)


@dataclass(frozen=True, slots=True)
class Imported:
    """``messages`` came, ``present`` were there or had come before; ``folders`` by their names with the
    number that came; ``left`` are folders that an mbox cannot have; ``renamed`` ids were another's."""

    messages: int
    present: int
    folders: dict[str, int]
    left: tuple[str, ...]
    renamed: int


def source_at(path: Path, ids: str = "", format: str = DOVECOT_FORMAT) -> Source:
    """What lies at ``path``: a Maildir, perhaps with folders, or an mbox of any dialect.

    Raises:
        ImportRefused: it is neither.
        ForeignIdsError: the file with the ids is not what it should be.
        OSError: something cannot be read.
    """
    if path.is_dir():
        if not (path / "cur").is_dir() and not (path / "new").is_dir():
            raise ImportRefused(f"{path} is no Maildir: it has neither cur nor new; name the folder that has")
        found = foreign_ids(path, ids, format)
        folders: dict[str, Sequence[Stored]] = {
            name: stored_in_maildir(f"{path}/{name}", {}) for name in maildir_folders(str(path))
        }
        messages = [
            replace(
                stored,
                unique_id=found.by_name.get(stored.name)
                or found.by_name.get(stored.natural)
                or stored.natural,
            )
            for stored in stored_in_maildir(str(path), {})
        ]
        return Source(messages, found.source, folders)
    if ids:
        raise ImportRefused("--ids is for a Maildir; an mbox has its ids in its messages")
    return _mbox_source(path, format)


def _mbox_source(path: Path, format: str) -> Source:
    fd = open_regular(str(path))
    try:
        if os.fstat(fd).st_size and os.pread(fd, 5, 0) != b"From ":
            raise ImportRefused(
                f"{path} is neither a Maildir nor an mbox: it does not begin with a From_ line"
            )
    finally:
        os.close(fd)
    messages = stored_in_mbox(str(path), {})
    ids = _ids_in_mbox(str(path), format)
    source = "X-UIDL" if any(ids) else "the messages' octets"
    return Source(
        [
            replace(m, unique_id=identity or m.unique_id, pieces=partial(_without_id, m.pieces))
            for m, identity in zip(messages, ids, strict=True)
        ],
        source,
    )


def _without_id(pieces: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
    return without_fields(pieces(), frozenset((b"x-uidl",)))


def _ids_in_mbox(path: str, format: str) -> list[str]:
    """What ``X-UIDL`` says, else what Dovecot makes of ``X-UID`` and of the validity in ``X-IMAPbase``."""
    fd = open_regular(path)
    try:
        every = [MboxFields(fd, m.region) for m in messages_of(fd, os.fstat(fd).st_size)]
        first = MboxFields(fd, (0, os.fstat(fd).st_size))
    finally:
        os.close(fd)
    base = (first.get("x-imapbase") or first.get("x-imap")).split()
    validity = int(base[0]) if base and base[0].isdecimal() else 0
    return [_id_in(fields, validity, format) for fields in every]


def _id_in(fields: MboxFields, validity: int, format: str) -> str:
    said = fields.get("x-uidl")
    if is_unique_id(said):
        return said
    uid = fields.get("x-uid")
    return dovecot_id(int(uid), validity, format) if validity and uid.isdecimal() else ""


def import_into(mailboxes: Mailboxes, format: str, source: Source, progress: Progress) -> Imported:
    """Add what is not there yet to the mailbox, which has that format; works while the server runs.

    Raises:
        MaildropInUse: a POP3 session does not end.
        MailboxUnavailable, OSError: as they say.  The same import may be tried again.
    """
    path = mailboxes.path(format)
    with mailboxes.locked(format):
        for left in mailboxes.remains():
            mailboxes.disk.remove(left)
        before = _imported(path)
        there = {stored.unique_id for stored in stored_in(path)}
        incoming, renamed = _incoming(source.messages, there | before)
        if incoming:
            mailboxes.addition(format)(incoming, progress)
            _remember(mailboxes, path, before, incoming)
        folders: dict[str, int] = {}
        if format == "maildir":
            for name, messages in source.folders.items():
                folders[name] = _import_folder(mailboxes, name, messages, progress)
    unfit = tuple(name for name, messages in source.folders.items() if messages and format == "mbox")
    return Imported(len(incoming), len(source.messages) - len(incoming), folders, unfit, renamed)


def _incoming(messages: Iterable[Stored], there: set[str]) -> tuple[list[Stored], int]:
    """The messages that are not there, each with an id that UIDL can carry and that no other has."""
    incoming: list[Stored] = []
    met: set[str] = set()
    renamed = 0
    for stored in messages:
        identity = unique_id(stored.unique_id)
        if identity in met:  # another message of the same source has it: its clients know only one of them
            identity = unique_id(f"{identity} {stored.natural} {len(met)}")
            renamed += 1
        met.add(identity)
        if identity not in there:
            incoming.append(replace(stored, unique_id=identity))
    return incoming, renamed


def _import_folder(mailboxes: Mailboxes, name: str, messages: Sequence[Stored], progress: Progress) -> int:
    """Folders have no ids that clients know: there, the name of a file says whether it has come."""
    there = {_stem(stored.name) for stored in stored_in_maildir(f"{mailboxes.maildir}/{name}", {})}
    incoming = [stored for stored in messages if _stem(stored.name) not in there]
    if incoming:
        addition = MaildirAddition(
            mailboxes.disk, mailboxes.writer(), mailboxes.host, mailboxes.maildir, name
        )
        addition(incoming, progress)
    return len(incoming)


def _stem(base: str) -> str:
    return base.partition(",")[0]


def _path(path: str) -> str:
    return path + IMPORTED_IDS if path.endswith(MBOX) else f"{path}/{_NAME}"


def _imported(path: str) -> set[str]:
    with suppress(FileNotFoundError):
        fd = open_regular(_path(path))
        with open(fd, encoding="ascii", errors="replace") as file:
            return set(file.read().split("\n")) - {""}
    return set()


def _remember(mailboxes: Mailboxes, path: str, before: set[str], came: Sequence[Stored]) -> None:
    wanted = _path(path)
    unfinished = f"{wanted}.unfinished"
    with suppress(FileNotFoundError):
        mailboxes.disk.remove(unfinished)
    with mailboxes.disk.create(unfinished) as file:
        everything = [*before, *(stored.unique_id for stored in came)]
        file.write("".join(f"{identity}\n" for identity in everything).encode("ascii"))
        file.sync()
    mailboxes.disk.rename(unfinished, wanted)
    mailboxes.disk.sync_folder(os.path.dirname(wanted))
