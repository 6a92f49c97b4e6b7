"""DNS block lists (RFC 5782): what is asked, which answers count, and what a score leads to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address, ip_network

from mailserver.values.reply import Reply, reply
from mailserver.values.session import RecipientFacts

_LISTED = IPv4Network("127.0.0.0/8")
_ERRORS = IPv4Network("127.255.255.0/24")
"""Answers by which a list says that it was asked wrongly or too often: nobody is listed by them."""


@dataclass(frozen=True, slots=True)
class BlockList:
    """One zone. ``score`` is what a listing adds, below 0 for a list of good clients; ``answers``
    are the addresses that count."""

    zone: str
    score: int
    answers: IPv4Network

    def counts(self, addresses: Iterable[str]) -> bool:
        """Whether an answer of these addresses is a listing."""
        for text in addresses:
            address = ip_address(text)
            if address in self.answers and (address not in _ERRORS or self.answers.subnet_of(_ERRORS)):
                return True
        return False


def block_lists(scores: Mapping[str, int]) -> tuple[BlockList, ...]:
    """The lists in ``{"zen.example.test": 5, "zen.example.test=127.0.0.4/30": 2}``.

    Raises:
        ValueError: what stands behind ``=`` is no network within 127.0.0.0/8.
    """
    made = []
    for key, score in scores.items():
        zone, _, answers = key.partition("=")
        network = ip_network(answers or _LISTED)
        if not isinstance(network, IPv4Network) or not network.subnet_of(_LISTED):
            raise ValueError(f"{key}: answers of a block list lie in 127.0.0.0/8")
        made.append(BlockList(zone, score, network))
    return tuple(made)


def query_name(host: str, zone: str) -> str:
    """What a list is asked: the address backwards, by octets or by half octets (RFC 5782 §2.1, §2.4)."""
    return ip_address(host).reverse_pointer.rsplit(".", 2)[0] + "." + zone


def refusal(facts: RecipientFacts, score: int, limit: int, zones: Sequence[str]) -> Reply | None:
    """What a recipient is told of a client with ``score``; the postmaster is always reached."""
    if score < limit or facts.forward_path.local.lower() == "postmaster":
        return None
    return reply(
        554,
        "5.7.1",
        f"[{facts.transaction.session.client_host}] is listed by {', '.join(zones)}; "
        "ask there, or write to our postmaster",
    )
