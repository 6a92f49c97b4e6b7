"""What POP3 lists: the size and the unique id of each message, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True, slots=True)
class Listing:
    """One message of a maildrop: ``octets`` as RETR will send it, before dot-stuffing (RFC 1939
    §11); ``unique_id`` of 1 to 70 characters 0x21 to 0x7E (RFC 1939 §7 UIDL)."""

    octets: int
    unique_id: str


class Listings(Sequence[Listing]):
    """Every message in the order of its number, kept as two columns.

    A maildrop of 200,000 messages is then no 200,000 objects for Python's collector to walk through,
    while other sessions wait; a ``Listing`` is made when somebody asks for one.
    """

    __slots__ = ("octets", "unique_ids")

    def __init__(self, octets: Sequence[int] = (), unique_ids: Sequence[str] = ()) -> None:
        """Two columns of one length."""
        if len(octets) != len(unique_ids):
            raise ValueError(f"{len(octets)} sizes for {len(unique_ids)} unique ids")
        self.octets = octets
        self.unique_ids = unique_ids

    @classmethod
    def of(cls, listings: Iterable[Listing]) -> Listings:
        """The same messages, from single ones."""
        them = list(listings)
        return cls([one.octets for one in them], [one.unique_id for one in them])

    def __len__(self) -> int:
        return len(self.octets)

    def __iter__(self) -> Iterator[Listing]:
        return map(Listing, self.octets, self.unique_ids)

    @overload
    def __getitem__(self, index: int) -> Listing: ...
    @overload
    def __getitem__(self, index: slice) -> Listings: ...
    def __getitem__(self, index: int | slice) -> Listing | Listings:
        if isinstance(index, slice):
            return Listings(self.octets[index], self.unique_ids[index])
        return Listing(self.octets[index], self.unique_ids[index])
