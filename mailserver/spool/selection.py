"""Which waiting messages an operator means: by id, sender, recipient, domain, age or size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailserver.values.address import Address, domain_key


@dataclass(frozen=True, slots=True)
class Selection:
    """Messages for which everything that is said holds. ``sender`` and ``recipient`` are addresses, or have
    an empty local part for a whole domain; ``arrived_before`` in seconds since the epoch, ``larger_than`` in
    octets. Whoever has one recipient that fits is meant as a whole."""

    numbers: tuple[int, ...] = ()
    sender: Address | None = None
    recipient: Address | None = None
    arrived_before: float = 0.0
    larger_than: int = 0

    def condition(self) -> tuple[str, list[object]]:
        """An SQL condition on ``entry``, and its parameters. ``domain_key`` is a function of ours."""
        parts: list[str] = ["1"]
        given: list[object] = []
        if self.numbers:
            parts.append(f"entry.id IN ({','.join('?' * len(self.numbers))})")
            given += self.numbers
        if self.sender is not None:
            parts.append(_address("reverse_local", "reverse_domain", self.sender, given))
        if self.recipient is not None:
            whom = _address("local", "domain", self.recipient, given)
            parts.append(f"EXISTS (SELECT 1 FROM recipient WHERE recipient.entry = entry.id AND {whom})")
        if self.arrived_before:
            parts.append("arrived < ?")
            given.append(self.arrived_before)
        if self.larger_than:
            parts.append("size > ?")
            given.append(self.larger_than)
        return " AND ".join(parts), given


def _address(local: str, domain: str, wanted: Address, given: Sequence[object] | list[object]) -> str:
    assert isinstance(given, list)
    given.append(domain_key(wanted.domain))
    if not wanted.local:
        return f"domain_key({domain}) = ?"
    given.append(wanted.local)
    return f"domain_key({domain}) = ? AND {local} = ?"
