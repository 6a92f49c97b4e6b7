"""Where delivered messages lie, and who fetched and deleted them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mailserver.admin.operator import Operator
from mailserver.retrieve.history import FILE_NAME, visits_of
from mailserver.store.paths import mailbox_path
from mailserver.store.trash import FOLDER as TRASH
from mailserver.trace.reading import Life
from mailserver.values.account import LocalUser
from mailserver.values.address import Address, address_from

SESSIONS = 100_000


def whereabouts(operator: Operator, life: Life) -> list[dict[str, Any]]:
    """For each delivery to a Maildir: ``n``, ``to``, the ``path`` where the file is (or ``""``), and the POP3
    sessions that fetched or deleted it."""
    outcomes = [
        outcome
        for record in life.records
        for outcome in (record["to"] if record["e"] == "attempt" else ())
        if outcome["what"] == "delivered" and outcome["relay"] == "maildir"
    ]
    if not outcomes:
        return []
    owners = owners_of(operator, [outcome["to"] for outcome in outcomes])
    return [_one(operator, life.id, outcome, owners[outcome["to"]]) for outcome in outcomes]


def owners_of(operator: Operator, addresses: Sequence[str]) -> dict[str, Address]:
    """Whose mailbox each address leads to; the address itself where the directory does not know it now."""
    owners = {text: address_from(text) for text in addresses}
    if operator.accounts.exists():
        with operator.directory() as directory:
            for text, address in owners.items():
                answer = directory.resolve(address)
                if isinstance(answer, LocalUser):
                    owners[text] = answer.account.address
    return owners


def _one(operator: Operator, id_: str, outcome: dict[str, Any], owner: Address) -> dict[str, Any]:
    settings = operator.settings
    name = f"Q{id_}.{outcome['n']}."
    maildir = Path(mailbox_path(str(settings.store.path), owner))
    path = _file(maildir, name)
    visits = []
    with suppress(sqlite3.Error, OSError):
        for visit in reversed(visits_of(settings.state / FILE_NAME, str(owner), SESSIONS)):
            for what, ids in (("fetched", visit.fetched), ("deleted", visit.deleted)):
                if any(name in one for one in ids):
                    visits.append({"at": visit.ended, "what": what, "client": visit.client, "tls": visit.tls})
    return {"n": outcome["n"], "to": outcome["to"], "path": path, "visits": visits}


def _file(maildir: Path, part: str) -> str:
    """The file whose name has ``part``, in the mailbox or in its trash."""
    folders = [maildir / "new", maildir / "cur", *sorted((maildir / TRASH).glob("*"))]
    for folder in folders:
        with suppress(OSError):
            for name in os.listdir(folder):
                if part in name:
                    return str(folder / name)
    return ""
