"""What has just been learnt about single addresses, so that no thousand messages wait for one dead host."""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mailserver.relay.sessions import Target

SLOW_SECONDS = 5.0
"""A failure that took this long is worth remembering; one that came at once costs nothing to repeat."""
SLOW_PAUSE, LONGEST_PAUSE = 60.0, 600.0
"""After a slow failure the host is left alone so long, doubled each time, up to the second."""
QUICK_PAUSE = 1.0
CLEAR_SECONDS = 600.0
"""How long a host that could not do TLS is spoken to in clear at once."""
REMEMBERED_HOSTS = 10_000
JITTER = 0.2
"""Every pause is varied by so much, upwards and downwards: nothing is to come back as a herd."""


def varied(seconds: float, vary: Callable[[], float]) -> float:
    """``seconds`` by ±20 %; ``vary`` gives numbers from 0 to 1."""
    return seconds * (1 - JITTER + 2 * JITTER * vary())


@dataclass(slots=True)
class _Memory:
    until: float = -math.inf
    pause: float = 0.0
    reason: str = ""
    clear_until: float = 0.0


class HostMemory:
    """Addresses that failed, or could not do TLS, a short time ago."""

    def __init__(self, reactor: Any, vary: Callable[[], float] = random.random) -> None:
        self._reactor = reactor
        self._vary = vary
        self._hosts: OrderedDict[tuple[str, int], _Memory] = OrderedDict()

    def reason_to_avoid(self, target: Target) -> str:
        """Why the target is left alone now; ``""`` when it is not."""
        known = self._hosts.get((target.address, target.port))
        return known.reason if known is not None and self._reactor.seconds() < known.until else ""

    def failed(self, target: Target, seconds: float, reason: str) -> None:
        """No session could be opened, and to learn that took ``seconds``."""
        memory = self._memory(target)
        now = self._reactor.seconds()
        memory.reason = reason
        if seconds < SLOW_SECONDS:
            memory.until = max(memory.until, now + QUICK_PAUSE)
        elif memory.until <= now - seconds:
            # Not one of a cohort that all began before the first of them failed.
            memory.pause = min(max(SLOW_PAUSE, 2 * memory.pause), LONGEST_PAUSE)
            memory.until = now + varied(memory.pause, self._vary)

    def worked(self, target: Target) -> None:
        """A session was opened."""
        known = self._hosts.get((target.address, target.port))
        if known is not None:
            known.until, known.pause = -math.inf, 0.0

    def tls_failed(self, target: Target) -> None:
        """The target announces STARTTLS and cannot do it."""
        self._memory(target).clear_until = self._reactor.seconds() + CLEAR_SECONDS

    def tls_fails(self, target: Target) -> bool:
        """Whether that was so a short time ago."""
        known = self._hosts.get((target.address, target.port))
        return known is not None and self._reactor.seconds() < known.clear_until

    def forget(self, address: str = "", port: int = 0) -> int:
        """Expect nothing bad of an address any more, or of any (``""``); of how many something was known."""
        if not address:
            count = len(self._hosts)
            self._hosts.clear()
            return count
        return int(self._hosts.pop((address, port), None) is not None)

    def known(self, target: Target) -> str:
        """What is remembered now, in words for the operator; ``""`` when nothing is."""
        words = []
        if reason := self.reason_to_avoid(target):
            known = self._hosts[(target.address, target.port)]
            words.append(f"left alone for {known.until - self._reactor.seconds():.0f} s: {reason}")
        if self.tls_fails(target):
            words.append("spoken to in clear: its TLS failed a short time ago")
        return "; ".join(words)

    def _memory(self, target: Target) -> _Memory:
        key = (target.address, target.port)
        memory = self._hosts.setdefault(key, _Memory())
        self._hosts.move_to_end(key)
        if len(self._hosts) > REMEMBERED_HOSTS:
            self._hosts.popitem(last=False)
        return memory
