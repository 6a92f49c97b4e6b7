"""Whether an address and port are our own: a mail exchange that leads back to us must not be sent to."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from functools import lru_cache

ANY = frozenset({"", "0.0.0.0", "::"})


class OwnAddresses:
    """``listening`` gives the (address, port) pairs at which our SMTP listeners are bound now."""

    def __init__(self, listening: Callable[[], Iterable[tuple[str, int]]]) -> None:
        self._listening = listening

    def __call__(self, address: str, port: int) -> bool:
        """Whether we would speak to ourselves there."""
        for bound, own_port in self._listening():
            if own_port == port and (bound == address or (bound in ANY and _is_of_this_machine(address))):
                return True
        return False


@lru_cache(maxsize=10_000)
def _is_of_this_machine(address: str) -> bool:
    """Only an address of this machine can be bound; nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
