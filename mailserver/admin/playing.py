"""Runs a rehearsal in a reactor of this process, with the rooms as the server would make them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailserver.admin.operator import Refusal
from mailserver.assembly.rehearsal import Nowhere, Rehearsal, Watched
from mailserver.certificates import CertificateError
from mailserver.config import Settings
from mailserver.house import House
from mailserver.listeners import Place, StartFailed
from mailserver.relay.routes import RouteTable
from mailserver.store.paths import mailbox_path
from mailserver.values.account import Account, LocalUser
from mailserver.values.address import Address


def play(
    settings: Settings,
    ip: str,
    helo: str,
    sender: str,
    recipients: Sequence[str],
    content: bytes,
    user: Address | None,
) -> dict[str, Any]:
    """What ``explain`` tells, as JSON may show it."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    results: list[Any] = []

    def begin() -> None:
        done = Deferred.fromCoroutine(_play(settings, reactor, ip, helo, sender, recipients, content, user))
        done.addBoth(results.append)
        done.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    if isinstance(results[0], Failure):
        if results[0].check(StartFailed):
            raise Refusal(os.EX_CONFIG, str(results[0].value))
        results[0].raiseException()
    told: dict[str, Any] = results[0]
    return told


async def _play(
    settings: Settings,
    reactor: Any,
    ip: str,
    helo: str,
    sender: str,
    recipients: Sequence[str],
    content: bytes,
    user: Address | None,
) -> dict[str, Any]:
    house = House(settings, reactor, RouteTable(settings.relay.routes), Place(), list)
    house.addresses.open()
    house.workers.start()
    try:
        with suppress(CertificateError, OSError):
            house.tls.load()
        if house.entrance.greylist is not None and (settings.state / "greylist.sqlite").exists():
            house.entrance.greylist.write()  # nothing has changed, so it only reads
        account = _account(house, user) if user is not None else None
        nowhere, watched = Nowhere(), Watched(house.entrance.rules)
        factory = house.rehearsal(nowhere, watched, "submission" if account else "smtp")
        rehearsal = Rehearsal(factory, nowhere, watched, reactor, ip, account)
        envelope = await rehearsal.play(helo, sender, recipients, content)
        ends = envelope.recipients if envelope is not None else ()
        refused = next((one for one in rehearsal.said if one.is_refusal), None)
        return {
            "said": [
                {"command": one.command, "reply": one.reply, "verdicts": one.verdicts}
                for one in rehearsal.said
            ],
            "recipients": [{"to": str(one.address), "where": _where(house, one.address)} for one in ends],
            "refused": refused.reply if refused else "",
            "decided_by": _decider(refused.verdicts, refused.command) if refused else "",
        }
    finally:
        if house.entrance.lookups is not None:
            house.entrance.lookups.stop()
        house.workers.stop()
        house.directory.close()


def _decider(verdicts: Sequence[tuple[str, str]], command: str) -> str:
    name = next((name for name, opinion in verdicts if opinion != "no objection"), "")
    return f"the rule {name}" if name else f"the answer to {command}"


def _account(house: House, user: Address) -> Account:
    answer = house.directory.resolve(user)
    if not isinstance(answer, LocalUser):
        raise Refusal(os.EX_NOUSER, f"{user} is no user here; `mailserver user list` shows them")
    return answer.account


def _where(house: House, address: Address) -> str:
    answer = house.directory.resolve(address)
    if isinstance(answer, LocalUser):
        return mailbox_path(str(house.settings.store.path), answer.account.address)
    return type(answer).__name__.lower()
