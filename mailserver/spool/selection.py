"""Which waiting messages an operator means: by id, sender, recipient, domain, age or size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mailserver.values.address import Address, domain_key

Condition = tuple[str, list[Any]]
"""SQL and its parameters."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Messages for which everything that is said holds; nothing said: all of them.

    ``sender`` and ``recipient`` are addresses, or have an empty local part for a whole domain;
    ``arrived_before`` in seconds since the epoch, ``larger_than`` in octets.  ``recipient`` means the
    recipients that fit, also by the address that the sender wrote, and not the others of their messages.
    """

    numbers: tuple[int, ...] = ()
    sender: Address | None = None
    recipient: Address | None = None
    arrived_before: float = 0.0
    larger_than: int = 0

    @property
    def is_by_recipient(self) -> bool:
        """Whether an order is for some recipients, and not for whole messages."""
        return self.recipient is not None

    def recipients(self) -> Condition:
        """A condition on ``recipient``. ``domain_key`` is a function of ours."""
        entry, given = self._entry()
        condition = "1" if entry == "1" else f"entry IN (SELECT id FROM entry WHERE {entry})"
        if self.recipient is not None:
            written, one = _address("original_local", "original_domain", self.recipient)
            final, other = _address("local", "domain", self.recipient)
            condition += f" AND ({final} OR (original_domain IS NOT NULL AND {written}))"
            given += other + one
        return condition, given

    def _entry(self) -> Condition:
        parts: list[str] = []
        given: list[Any] = []
        if self.numbers:
            parts.append(f"id IN ({','.join('?' * len(self.numbers))})")
            given += self.numbers
        if self.sender is not None:
            whom, values = _address("reverse_local", "reverse_domain", self.sender)
            parts.append(whom)
            given += values
        if self.arrived_before:
            parts.append("arrived < ?")
            given.append(self.arrived_before)
        if self.larger_than:
            parts.append("size > ?")
            given.append(self.larger_than)
        return " AND ".join(parts) or "1", given


def _address(local: str, domain: str, wanted: Address) -> Condition:
    key = domain_key(wanted.domain)
    if not wanted.local:
        return f"domain_key({domain}) = ?", [key]
    return f"(domain_key({domain}) = ? AND {local} = ?)", [key, wanted.local]
