"""What wrong passwords cost: time, for the network that they come from."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import inf

from twisted.internet.interfaces import IReactorTime

from mailserver.values.clients import client_network

PENALTY_SECONDS = (2.0, 4.0, 8.0, 15.0)
"""What the first, second, third and every further failure in a row costs a network."""

PENALTY_FORGOTTEN = 900.0
"""Seconds without a failure after which a network's failures are forgotten."""

MOST_WAIT = 60.0
"""Who would have to wait longer is asked to come again at once, and takes no place in the row: a crowd of
guesses cannot fill the hours to come for everybody else behind the same address."""

MOST_PENALTIES = 10_000
"""Networks remembered at a time; the one that failed longest ago goes first."""

MOST_NAMES = 16
"""Names told apart in one network; what fails under others can no success make good."""

TRUSTED_SECONDS = 86400.0
"""How long somebody who logged in from a network need not wait there for what others do."""


@dataclass(slots=True)
class _Failures:
    """What failed in one network: how often for each name, and when last."""

    names: dict[str, int]
    last: float

    @property
    def count(self) -> int:
        return sum(self.names.values())

    def add(self, name: str) -> None:
        if name not in self.names and len(self.names) >= MOST_NAMES:
            name = _ANYBODY
        self.names[name] = self.names.get(name, 0) + 1


_ANYBODY = "\0"


class LoginPenalty:
    """Makes guessing slow: after a failure, the next attempt from that network has to wait.

    A network is an IPv4 address or an IPv6 /64, which is what one customer gets.  Nobody is locked
    out: the wait has a limit, and it belongs to where the guesses come from, not to the account.  A
    success takes back the failures of the same name alone: somebody with one account must not guess
    at others for nothing.  And who has logged in from there before does not wait for their guesses.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._next_free: dict[str, float] = {}
        self._trusted: OrderedDict[tuple[str, str], float] = OrderedDict()

    def wait_for(self, host: str, name: str = "") -> float:
        """Seconds until an attempt from ``host`` as ``name`` may be looked at; 0 for most,
        ``inf`` where the row is full.

        Attempts that wait stand in a row: each gets a moment of its own, so that many at once get
        no more guesses than one after the other.
        """
        network = client_network(host)
        failures = self._failures.get(network)
        if failures is None or self._is_trusted(network, name.lower(), failures):
            return 0.0
        delay = PENALTY_SECONDS[min(failures.count, len(PENALTY_SECONDS)) - 1]
        now = self._clock.seconds()
        at = max(now, failures.last + delay, self._next_free.get(network, now))
        if at - now > MOST_WAIT:
            return inf
        self._next_free[network] = at + delay
        return at - now

    def _is_trusted(self, network: str, name: str, failures: _Failures) -> bool:
        until = self._trusted.get((network, name), 0.0)
        return until > self._clock.seconds() and name not in failures.names

    def failed(self, host: str, name: str = "") -> None:
        """Count a wrong name or password."""
        network, now = client_network(host), self._clock.seconds()
        failures = self._failures.pop(network, None)
        if failures is None or now - failures.last > PENALTY_FORGOTTEN:
            failures = _Failures({}, now)
        failures.add(name.lower())
        failures.last = now
        self._failures[network] = failures
        if len(self._failures) > MOST_PENALTIES:
            forgotten, _ = self._failures.popitem(last=False)
            self._next_free.pop(forgotten, None)

    def succeeded(self, host: str, name: str = "") -> None:
        """Forget the failures of ``name`` at ``host``."""
        network, name = client_network(host), name.lower()
        self._trusted.pop((network, name), None)
        self._trusted[network, name] = self._clock.seconds() + TRUSTED_SECONDS
        if len(self._trusted) > MOST_PENALTIES:
            self._trusted.popitem(last=False)
        failures = self._failures.get(network)
        if failures is not None:
            failures.names.pop(name, None)
            if not failures.names:
                del self._failures[network]
                self._next_free.pop(network, None)
