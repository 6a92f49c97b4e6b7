"""The terminals that are attached to this process, and the messages that are on their way to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall

from mailserver.terminals.text import MOST_OCTETS, shown_lines
from mailserver.threads import Workers
from mailserver.values.account import LocalUser, Resolution
from mailserver.values.address import Address, address_from

PATIENCE = 5.0
"""Seconds in which a terminal has to say that it has shown a message."""

MOST_TERMINALS = 200
"""Attached to one process at once."""

MOST_UNSHOWN = 4
"""Messages that a terminal may owe an answer for; one that does not keep up takes no more."""

Key = tuple[str, str]


class Terminal:
    """One that is attached: ``heard`` and ``gone`` are called by the control socket."""

    def __init__(self, terminals: Terminals, key: Key, send: Callable[[object], None]) -> None:
        self._terminals = terminals
        self._key = key
        self._send = send
        self._numbers = count(1)
        self._unshown: dict[int, tuple[Deferred[bool], IDelayedCall]] = {}

    def show(self, lines: list[str]) -> Deferred[bool]:
        """Whether the terminal says, in ``PATIENCE`` seconds, that it has shown ``lines``."""
        if len(self._unshown) >= MOST_UNSHOWN:
            return succeed(False)
        number = next(self._numbers)
        shown: Deferred[bool] = Deferred()
        alarm = self._terminals.clock.callLater(PATIENCE, self._settle, number, False)
        self._unshown[number] = shown, alarm
        self._send({"show": lines, "number": number})
        return shown

    def heard(self, message: Mapping[str, Any]) -> None:
        """The terminal has shown a message."""
        if isinstance(number := message.get("shown"), int):
            self._settle(number, True)

    def gone(self) -> None:
        """The terminal has gone away; what it has not shown, it never will."""
        self._terminals.detach(self._key, self)
        for number in tuple(self._unshown):
            self._settle(number, False)

    def _settle(self, number: int, was_shown: bool) -> None:
        if number in self._unshown:
            shown, alarm = self._unshown.pop(number)
            if alarm.active():
                alarm.cancel()
            shown.callback(was_shown)


class Terminals:
    """Finds the terminals of an account. ``resolve`` is ``IDirectory.resolve``; where ``wanted`` is false
    nobody may write to them, so none is attached."""

    def __init__(
        self, clock: Any, workers: Workers, resolve: Callable[[Address], Resolution], wanted: bool = True
    ) -> None:
        self._wanted = wanted
        self.clock = clock
        self._workers = workers
        self._resolve = resolve
        self._attached: dict[Key, list[Terminal]] = {}

    # -- the control socket ------------------------------------------------------------------

    def attach(self, request: Mapping[str, Any], send: Callable[[object], None]) -> Terminal:
        """A terminal for the account that ``request`` names by ``address``.

        Raises:
            ValueError: there is no such account, or there are too many terminals.
        """
        if not self._wanted:
            raise ValueError('policy.terminals is "nobody": nothing would ever come')
        key = self._key(address_from(str(request.get("address", ""))))
        if key is None:
            raise ValueError("there is no user of that address here; `mailserver user list` shows them")
        if sum(map(len, self._attached.values())) >= MOST_TERMINALS:
            raise ValueError(f"{MOST_TERMINALS} terminals are attached already, and that is the most")
        terminal = Terminal(self, key, send)
        self._attached.setdefault(key, []).append(terminal)
        return terminal

    def detach(self, key: Key, terminal: Terminal) -> None:
        """``terminal`` has gone away."""
        others = self._attached.get(key, [])
        with suppress(ValueError):
            others.remove(terminal)
        if not others:
            self._attached.pop(key, None)

    # -- mail ----------------------------------------------------------------------------------

    def has(self, address: Address) -> bool:
        """Whether a terminal of the address's account is attached."""
        return bool(self._attached) and self._key(address) in self._attached

    def show(self, address: Address, sender: Address, content: Iterable[bytes]) -> Deferred[bool]:
        """Whether at least one terminal of the account has shown the message; never fails for want of one."""
        if not self.has(address):
            return succeed(False)
        return Deferred.fromCoroutine(self._show(address, str(sender), content))

    async def _show(self, address: Address, sender: str, content: Iterable[bytes]) -> bool:
        lines = await self._workers.call(_read, content, sender, time.time())
        asked = [terminal.show(lines) for terminal in self._attached.get(self._key(address) or ("", ""), ())]
        # One after the other: each has its own alarm, so this takes no longer than the slowest.
        return any([await one for one in asked])

    def _key(self, address: Address) -> Key | None:
        answer = self._resolve(address)
        return answer.account.address.key if isinstance(answer, LocalUser) else None


def _read(content: Iterable[bytes], sender: str, now: float) -> list[str]:
    octets = b""
    for piece in content:
        octets += piece
        if len(octets) >= MOST_OCTETS:
            break
    return shown_lines(octets, sender, now)
