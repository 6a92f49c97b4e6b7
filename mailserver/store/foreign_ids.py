"""Which unique ids another POP3 server has told its clients, read from what it keeps beside the messages.

Dovecot: ``dovecot-uidlist``, its version 3 and 1; Courier: ``courierpop3dsizelist``, versions 0 to 3;
qmail's pop3d and others: the names of the files; ours: ``unique-ids``; a plain list: on each line a
unique id and the name of a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mailserver.store.kept_ids import NAME as OURS
from mailserver.store.kept_ids import is_unique_id, read_kept

DOVECOT = "dovecot-uidlist"
COURIER = "courierpop3dsizelist"
SOURCES = ("dovecot", "courier", "names")
DOVECOT_FORMAT = "%08Xu%08Xv"
"""Dovecot's default for ``pop3_uidl_format``."""

_VARIABLE = re.compile(r"%(0?)([0-9]{0,2})(X?)([uvfg])")
_HEADER = re.compile(r"(?:3(?: [A-U].*)? V|1 )([0-9]{1,10})(?: .*)?")


class ForeignIdsError(Exception):
    """The file is not what it should be; the text says where and what was expected."""


@dataclass(frozen=True, slots=True)
class ForeignIds:
    """Unique ids by the base names of files, or by the ids that these give; ``source``: where they come
    from, for people."""

    source: str
    by_name: Mapping[str, str]


def foreign_ids(maildir: Path, wanted: str = "", format: str = DOVECOT_FORMAT) -> ForeignIds:
    """The ids of the messages in a Maildir.

    ``wanted``: one of ``SOURCES``, the path of a plain list, or ``""`` for what is there; ``format``
    is the other server's ``pop3_uidl_format``.

    Raises:
        ForeignIdsError: as it says.
        OSError: a file cannot be read.
    """
    dovecot, courier = maildir / DOVECOT, maildir / COURIER
    if wanted == "dovecot" or (not wanted and dovecot.is_file()):
        return ForeignIds(DOVECOT, _dovecot(dovecot, format))
    if wanted == "courier" or (not wanted and courier.is_file()):
        return ForeignIds(COURIER, _courier(courier))
    if wanted == "names":
        return ForeignIds("the names of the files", {})
    if wanted:
        return ForeignIds(wanted, _plain(Path(wanted)))
    if (maildir / OURS).is_file():
        return ForeignIds(OURS, read_kept(str(maildir)))
    return ForeignIds("the names of the files", {})


def dovecot_id(uid: int, validity: int, format: str, base: str = "", guid: str = "") -> str:
    """What Dovecot's ``pop3_uidl_format`` makes of a message.

    Raises:
        ForeignIdsError: it has variables that cannot be known here.
    """

    def value(match: re.Match[str]) -> str:
        zero, width, in_hex, variable = match.groups()
        if variable in "fg":
            return base if variable == "f" else guid or base
        number = uid if variable == "u" else validity
        return format_number(number, f"{zero}{width}{'x' if in_hex else 'd'}")

    text = _VARIABLE.sub(value, format)
    if "%" in text:
        raise ForeignIdsError(
            f"{format!r} is not understood; expected %u, %v, %f and %g, as in {DOVECOT_FORMAT}"
        )
    return text


def format_number(number: int, how: str) -> str:
    """``%08Xu`` has hexadecimal digits in lower case, whatever the X."""
    return f"{number:{how}}"


def _dovecot(path: Path, format: str) -> dict[str, str]:
    """``3 V<validity> N<next> G<guid>``, then ``<uid> [<letter><value> ]…:<name>``; version 1 has
    ``1 <validity> <next>`` and ``<uid> <name>``."""
    lines = _lines(path)
    header = next(lines, "")
    match = _HEADER.fullmatch(header)
    if match is None:
        raise ForeignIdsError(f"{path} does not begin as a dovecot-uidlist of version 1 or 3")
    validity = int(match[1])
    ids = {}
    for number, line in enumerate(lines, 2):
        uid, _, rest = line.partition(" ")
        extensions, colon, name = rest.partition(":") if header.startswith("3") else ("", ":", rest)
        if not uid.isdecimal() or not colon:
            raise ForeignIdsError(f"{path}, line {number}: expected a number, fields, a colon and a name")
        fields = {field[0]: field[1:] for field in extensions.split(" ") if field}
        base = _base(name)
        ids[base] = fields.get("P") or dovecot_id(int(uid), validity, format, base, fields.get("G", ""))
    return ids


def _courier(path: Path) -> dict[str, str]:
    """``/<version> <next> [<validity>]``, then ``<name> <size> [<uid>[:<validity>[:<utf8>]]]``."""
    ids = {}
    for number, line in enumerate(_lines(path), 1):
        if number == 1 and line.startswith("/"):
            continue
        words = line.split(" ")
        if len(words) not in (2, 3) or not words[1].isdecimal():
            raise ForeignIdsError(f"{path}, line {number}: expected a name, a size and a number")
        uid, _, validity = (words[2] if len(words) == 3 else "0").partition(":")
        validity = validity.partition(":")[0]
        if not uid.isdecimal() or not (validity or "0").isdecimal():
            raise ForeignIdsError(f"{path}, line {number}: {words[2]!r} is no number of Courier's")
        base = _base(words[0])
        if int(uid) == 0:
            ids[base] = _courier_name(base)
        else:
            ids[base] = f"UID{int(uid)}" + (f"-{int(validity)}" if int(validity or 0) else "")
    return ids


def _courier_name(base: str) -> str:
    return "".join(
        chr(octet) if 0x21 <= octet <= 0x7E and chr(octet) not in "'\"+" else f"+{octet:02X}"
        for octet in os.fsencode(base)
    )


def _plain(path: Path) -> dict[str, str]:
    ids = {}
    for number, line in enumerate(_lines(path), 1):
        identity, _, name = line.partition(" ")
        if not is_unique_id(identity) or not name.strip():
            raise ForeignIdsError(
                f"{path}, line {number}: expected a unique id (1 to 70 characters 0x21 to 0x7E), a blank "
                "and the name of a file"
            )
        ids[_base(name.strip())] = identity
    return ids


def _base(name: str) -> str:
    return name.rpartition("/")[2].partition(":")[0]


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield os.fsdecode(line.rstrip(b"\r\n"))
