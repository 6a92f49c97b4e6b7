"""Messages that are held, by their sender; and the accounts whose mail is held."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from mailserver.policy.usage import FILE_NAME, end_hold, held_accounts
from mailserver.spool.inspection import QueuedEntry, QueueInspection
from mailserver.spool.schema import SpoolUnusable
from mailserver.values.address import Address, address_from


def held_by_sender(inspection: QueueInspection, sender: Address) -> list[int]:
    """The held messages whose reverse-path is ``sender``, or which were held because of it."""
    return [entry.id for entry in inspection.entries() if entry.hold and _is_of(entry, sender)]


def end_holds(
    state: Path, inspection: QueueInspection, senders: Iterable[Address], reasons: set[str]
) -> list[str]:
    """Let accounts send again: those of ``senders``, and those behind ``reasons`` for which nothing is
    held any more. Gives their addresses.

    Raises:
        SpoolUnusable: the counts of accounts cannot be changed.
    """
    wanted = {_key(sender) for sender in senders}
    try:
        held = held_accounts(state / FILE_NAME)
        still = {entry.hold for entry in inspection.entries()} if held else set()
        wanted |= {
            _key(address_from(account))
            for account, reason in held.items()
            if reason in reasons and reason not in still
        }
        ended = [account for account in held if _key(address_from(account)) in wanted]
        for account in ended:
            end_hold(state / FILE_NAME, account)
    except (sqlite3.Error, OSError) as error:
        raise SpoolUnusable(f"{state / FILE_NAME}: {error}") from error
    return ended


def _is_of(entry: QueuedEntry, sender: Address) -> bool:
    account = entry.hold.partition(" ")[0]
    return _key(entry.envelope.reverse_path) == _key(sender) or account.lower() == str(sender).lower()


def _key(address: Address) -> tuple[str, str]:
    local, domain = address.key
    return local.lower(), domain
