"""Takes messages from the drop folder into the spool: durably, and each exactly once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from mailserver import maillog
from mailserver.deliver.drop import SUFFIX, WRONG, Dropped, DropWrong, make_folder, read
from mailserver.deliver.header import HEAD_OCTETS
from mailserver.durable import Disk
from mailserver.interfaces import IDirectory, ISpool
from mailserver.threads import Bridge, Workers
from mailserver.values.dates import header_date
from mailserver.values.envelope import Entry, Envelope, queue_id
from mailserver.values.expansion import final_recipients
from mailserver.values.text import printable

POLL_SECONDS = 1.0
"""How often the folder is looked at."""

AT_ONCE = 100
"""Files taken in one look."""

MOST_HOPS = 100
"""Received fields of a message that still passes (RFC 5321 §6.3)."""


@dataclass(frozen=True, slots=True)
class PickupPlace:
    """Where messages come from and go to; ``accepted`` takes over a committed entry, ``now`` gives
    seconds since the epoch, ``most`` is the longest message in octets."""

    folder: Path
    hostname: str
    most: int
    spool: ISpool
    directory: IDirectory
    accepted: Callable[[Entry], None]
    now: Callable[[], float]


class Pickup:
    """Looks at the folder each second.

    A file takes the number of its spool entry into its name before the entry is committed, and is
    removed before the entry sets out.  So after a crash a file whose number is in the spool is a copy,
    and one whose number is not was never taken.
    """

    def __init__(self, place: PickupPlace, disk: Disk, bridge: Bridge, workers: Workers, clock: Any) -> None:
        self._place = place
        self._disk = disk
        self._bridge = bridge
        self._workers = workers
        self._busy: Deferred[None] | None = None
        self._polling = LoopingCall(self._look)
        self._polling.clock = clock

    def open(self) -> None:
        """Make the folder, and sort out what a crash has left. Call it when the spool runs and nothing
        has set out yet; blocks.

        Raises:
            OSError: the folder cannot be made or read.
        """
        folder = self._place.folder
        make_folder(folder)
        for name in os.listdir(folder):
            stem, _, number = name.rpartition(".")
            if not stem.endswith(SUFFIX) or not number.isdecimal() or len(number) > 19:  # 2^63 has 19 digits
                continue
            if self._place.spool.is_gone(int(number)).result():
                os.rename(folder / name, folder / stem)
            else:
                os.unlink(folder / name)
        self._disk.sync_folder(folder)

    def start(self) -> None:
        """Begin to take messages."""
        self._polling.start(POLL_SECONDS)

    def stop(self) -> Deferred[None] | None:
        """Take no more; done when the one under way is taken."""
        if self._polling.running:
            self._polling.stop()
        return self._busy

    def _look(self) -> None:
        if self._busy is not None:
            return
        try:
            names = [name for name in os.listdir(self._place.folder) if name.endswith(SUFFIX)]
        except OSError as error:
            maillog.fault("reading the drop folder", error)
            return
        names = [name for name in names if not name.startswith(".")][:AT_ONCE]
        if names:
            self._busy = Deferred.fromCoroutine(self._take_all(names))
            self._busy.addBoth(self._done)

    def _done(self, _: object) -> None:
        self._busy = None

    async def _take_all(self, names: list[str]) -> None:
        for name in names:
            if not self._polling.running:
                return
            try:
                await self._take(name)
            except FileNotFoundError:
                continue  # its owner took it back
            except DropWrong as error:
                maillog.log.warn("drop/{name} is set aside: {why}", name=name, why=str(error))
                await self._workers.call(os.rename, self._path(name), self._path(name + WRONG))
            except Exception as error:
                maillog.fault(f"taking drop/{name}", error)

    def _path(self, name: str) -> Path:
        return self._place.folder / name

    async def _take(self, name: str) -> None:
        place = self._place
        dropped = await self._workers.call(read, self._path(name), place.most)
        if _hops(dropped.content) > MOST_HOPS:
            raise DropWrong(f"more than {MOST_HOPS} Received fields: a mail loop")
        envelope = self._envelope(dropped)
        writer = place.spool.begin()
        taken = f"{name}.{writer.id}"
        try:
            await self._workers.call(self._rename, name, taken)
            writer.write(_received(dropped, place.hostname, queue_id(writer.id), place.now()))
            writer.write(dropped.content)
            entry: Entry = await self._bridge.deferred(writer.commit(envelope))
        except BaseException:
            writer.abort()
            await self._workers.call(self._rename, taken, name)
            raise
        await self._workers.call(self._remove, taken)
        _log_taken(entry, dropped)
        maillog.made(entry, f"local user {dropped.uid}", _message_id(dropped.content))
        place.accepted(entry)

    def _envelope(self, dropped: Dropped) -> Envelope:
        asked = [(one, "", frozenset[str]()) for one in dropped.recipients]
        try:
            recipients = final_recipients(self._place.directory.resolve, asked)
        except OverflowError as error:
            raise DropWrong(str(error)) from error
        if not recipients:
            raise DropWrong("the recipients' aliases lead nowhere")
        body = "7BIT" if dropped.content.isascii() else "8BITMIME"
        is_ascii = dropped.sender.is_ascii and all(one.address.is_ascii for one in recipients)
        return Envelope(dropped.sender, recipients, body, smtputf8=not is_ascii)

    def _rename(self, old: str, new: str) -> None:
        try:
            os.rename(self._path(old), self._path(new))
        finally:
            self._disk.sync_folder(self._place.folder)

    def _remove(self, name: str) -> None:
        os.unlink(self._path(name))
        self._disk.sync_folder(self._place.folder)


def _log_taken(entry: Entry, dropped: Dropped) -> None:
    maillog.log.info(
        "{queue_id}: uid={uid}, from=<{sender}>, size={size}, nrcpt={count}",
        queue_id=entry.queue_id,
        uid=dropped.uid,
        sender=printable(str(entry.envelope.reverse_path)),
        size=entry.content.size,
        count=len(entry.envelope.recipients),
    )


def _message_id(content: bytes) -> str:
    head = b"\n" + content[:HEAD_OCTETS].partition(b"\r\n\r\n")[0]
    at = head.lower().find(b"\nmessage-id:")
    value = head[at + 12 :].partition(b"\r\n")[0] if at >= 0 else b""
    return printable(value.strip().decode(errors="replace"))


def _hops(content: bytes) -> int:
    head = content[:HEAD_OCTETS].partition(b"\r\n\r\n")[0].lower()
    return (b"\n" + head).count(b"\nreceived:")


def _received(dropped: Dropped, hostname: str, id_: str, now: float) -> bytes:
    """RFC 5321 §4.4 is about SMTP; who did not come by it is named by the system's number."""
    fields = f"Received: by {hostname} (local user {dropped.uid}) id {id_};\r\n\t{header_date(now)}\r\n"
    return fields.encode()
