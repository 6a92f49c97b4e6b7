"""What wrong passwords cost: time, for the network that they come from."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from twisted.internet.interfaces import IReactorTime

PENALTY_SECONDS = (2.0, 4.0, 8.0, 15.0)
"""What the first, second, third and every further failure in a row costs a network."""

PENALTY_FORGOTTEN = 900.0
"""Seconds without a failure after which a network's failures are forgotten."""

MOST_PENALTIES = 10_000
"""Networks remembered at a time; the one that failed longest ago goes first."""


class LoginPenalty:
    """Makes guessing slow: after a failure, the next attempt from that network has to wait.

    A network is an IPv4 address or an IPv6 /64, which is what one customer gets.  Nobody is locked
    out: the wait has a limit, and it belongs to where the guesses come from, not to the account.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._next_free: dict[str, float] = {}

    def wait_for(self, host: str) -> float:
        """Seconds until an attempt from ``host`` may be looked at; 0 for most.

        Attempts that wait stand in a row: each gets a moment of its own, so that many at once get
        no more guesses than one after the other.
        """
        network = _network(host)
        count, since = self._failures.get(network, (0, 0.0))
        if not count:
            return 0.0
        delay = PENALTY_SECONDS[min(count, len(PENALTY_SECONDS)) - 1]
        now = self._clock.seconds()
        at = max(now, since + delay, self._next_free.get(network, now))
        self._next_free[network] = at + delay
        return at - now

    def failed(self, host: str) -> None:
        """Count a wrong name or password."""
        network, now = _network(host), self._clock.seconds()
        count, since = self._failures.pop(network, (0, now))
        if now - since > PENALTY_FORGOTTEN:
            count = 0
        self._failures[network] = count + 1, now
        if len(self._failures) > MOST_PENALTIES:
            forgotten, _ = self._failures.popitem(last=False)
            self._next_free.pop(forgotten, None)

    def succeeded(self, host: str) -> None:
        """Forget the failures of ``host``."""
        network = _network(host)
        self._failures.pop(network, None)
        self._next_free.pop(network, None)


def _network(host: str) -> str:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host  # a UNIX socket's peer, for example
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return f"{address.packed[:8].hex()}/64"
