"""What is wrong with a mailbox: one thing found, and the way to mend it if there is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from mailserver.durable import Disk
from mailserver.store.kept_ids import kept_path, read_kept, write_kept
from mailserver.store.octets import open_regular

KINDS = {
    "missing": "a folder is missing",
    "foreign": "something that is no message",
    "permissions": "others may read it, or its owner may not",
    "name": "a name that no mail program understands",
    "size": "a name tells a wrong size",
    "twice": "one message lies in new and in cur",
    "remains": "something that was killed has left it",
    "maildirsize": "the count of the quota is wrong",
    "index": "the index of the maildrop is wrong",
    "unique ids": "two messages have one id, or the file of ids is damaged",
    "text": "text before the first message",
    "format": "mail lies in the other format",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """``kind`` is one of ``KINDS``; ``where`` a path below the mailbox's domain; ``mend`` may raise
    ``OSError`` and loses nothing; without it somebody has to decide."""

    kind: str
    where: str
    text: str
    mend: Callable[[], None] | None = None


def check_kept_ids(disk: Disk, path: str, where: str, naturals: Iterable[str]) -> Iterator[Finding]:
    """Whether the kept ids can be read, and give each message an id of its own."""
    name = f"{where} ({kept_path(path).rpartition('/')[2]})"
    try:
        kept = read_kept(path)
        lines = _line_count(path)
    except OSError as error:
        yield Finding("unique ids", name, f"the ids cannot be read: {error.strerror or error}")
        return
    if lines != len(kept):
        text = f"{lines - len(kept)} lines are no two ids"
        yield Finding("unique ids", name, text, lambda: write_kept(disk, path, kept))
    there = list(naturals)
    counted = Counter(kept.get(natural, natural) for natural in there)
    doubled = {identity for identity, count in counted.items() if count > 1}
    if doubled:
        text = f"{len(doubled)} ids are given to more than one message"
        yield Finding("unique ids", name, text, lambda: write_kept(disk, path, _single(kept, there)))


def _single(kept: dict[str, str], there: list[str]) -> dict[str, str]:
    """Kept ids without those that an earlier message has already, or that another's file or hash gives."""
    taken = {natural for natural in there if natural not in kept}
    result = {}
    for natural, identity in kept.items():
        if identity not in taken:
            taken.add(identity)
            result[natural] = identity
    return result


def _line_count(path: str) -> int:
    with suppress(FileNotFoundError), open(open_regular(kept_path(path)), "rb") as file:
        return sum(1 for line in file if line.strip())
    return 0
