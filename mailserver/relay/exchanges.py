"""Where mail for a domain goes: address literals, MX records (RFC 5321 §5.1, RFC 7505)."""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, gatherResults, succeed
from zope.interface import implementer

from mailserver.interfaces import (
    Exchange,
    IMailExchanges,
    LookupDelayed,
    LoopsBack,
    NoExchange,
    NoSuchDomain,
    NullMX,
)
from mailserver.relay.forbidden_addresses import refusal
from mailserver.relay.resolver import NameNotFound, Resolver
from mailserver.values.address import domain_key

T = TypeVar("T")


def _nobody(address: str, port: int) -> bool:
    return False


NO_HOST = frozenset({".", "@", ""})
"""How the root may be written, which as a mail exchange means none."""
HOSTS = 10
"""How many mail exchanges of one domain are looked up; who lists a thousand has no use for them."""
ADDRESSES = 5
"""How many addresses of one host are kept."""
REMEMBERED_DOMAINS = 10_000
LONGEST_MEMORY = 3600.0
"""Seconds for which an answer is believed at most, whatever its TTL."""


@dataclass(frozen=True, slots=True)
class _Candidates:
    """A domain's usable hosts in groups of equal preference, the best first; ``expires`` in
    seconds since the epoch."""

    groups: tuple[tuple[Exchange, ...], ...]
    expires: float

    def vouched_for(self) -> _Candidates:
        """The same, for a list that DNSSEC vouches for; without that, authentic addresses prove
        nothing about the domain (RFC 7672 §2.2.1)."""
        groups = tuple(tuple(replace(e, listed=True) for e in group) for group in self.groups)
        return _Candidates(groups, self.expires)


@dataclass(slots=True)
class _Found:
    """A host's ``addresses``, or the ``trouble`` in finding them; ``authentic`` when DNSSEC vouches for all
    of them, ``canonical`` the end of the host's CNAMEs."""

    expires: float
    addresses: tuple[str, ...] = ()
    trouble: Exception | None = None
    authentic: bool = False
    canonical: str = ""


@implementer(IMailExchanges)
class MailExchanges:
    """Address literals, then DNS.

    Answers are remembered for their TTL, and a question that is already being asked is not asked
    twice; the order among equals is drawn anew for every caller.
    """

    def __init__(
        self,
        resolver: Resolver,
        hostname: str,
        port: int = 25,
        allow_loopback: bool = False,
        is_own: Callable[[str, int], bool] = _nobody,
        shuffle: Callable[[list[Exchange]], None] = random.shuffle,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``hostname`` is our own name; ``port`` where other servers listen; ``is_own`` tells whether we
        ourselves listen at an address and port."""
        self._resolver = resolver
        self._is_own = is_own
        self._literals: dict[tuple[str, int], tuple[Exchange, ...]] = {}
        """Next hops that are addresses; there are as many as routes."""
        self._own_name = domain_key(hostname)
        self._port = port
        self._allow_loopback = allow_loopback
        self._shuffle = shuffle
        self._now = now
        self._known: OrderedDict[str, _Candidates] = OrderedDict()
        self._asked: dict[str, list[Deferred[_Candidates]]] = {}

    def exchanges(self, domain: str) -> Deferred[Sequence[Exchange]]:
        """The hosts to try, in order."""
        return Deferred.fromCoroutine(self._by_domain(domain))

    def next_hop(self, host: str, port: int) -> Deferred[Sequence[Exchange]]:
        """The administrator's word: nothing is refused, and a fault of ours never bounces mail."""
        literal = self._literals.get((host, port))
        if literal is None and _parsed(host) is not None:
            literal = self._literals[host, port] = (Exchange(host, port, (str(_parsed(host)),)),)
        return Deferred.fromCoroutine(self._next_hop(host, port)) if literal is None else succeed(literal)

    async def _next_hop(self, host: str, port: int) -> Sequence[Exchange]:
        if host == "localhost":
            return [Exchange(host, port, ("127.0.0.1", "::1"))]
        found = await self._addresses(host)
        if not found.addresses:
            why = f": {found.trouble}" if found.trouble is not None else ""
            raise LookupDelayed(f"the next hop {host} has no address{why}")
        return [Exchange(host, port, found.addresses[:ADDRESSES])]

    # Domains -------------------------------------------------------------------------------------

    async def _by_domain(self, domain: str) -> Sequence[Exchange]:
        if domain.startswith("["):
            return [self._literal(domain)]
        candidates = await self._candidates(domain_key(domain))
        ordered: list[Exchange] = []
        for group in candidates.groups:
            equals = list(group)
            self._shuffle(equals)
            ordered += equals
        return ordered

    def _literal(self, domain: str) -> Exchange:
        inside = domain.removeprefix("[").removesuffix("]")
        address = _parsed(inside[5:] if inside[:5].lower() == "ipv6:" else inside)
        if address is None or not domain.endswith("]"):
            raise NoSuchDomain(f"{domain} is not an address literal")
        if reason := refusal(address, self._allow_loopback):
            raise NoExchange(f"{domain} is {reason}, and no mail is sent there")
        if self._is_own(str(address), self._port):
            raise LoopsBack(f"{domain} is this server, and not a domain of ours")
        return Exchange(domain, self._port, (str(address),))

    async def _candidates(self, domain: str) -> _Candidates:
        known = self._known.get(domain)
        if known is not None and known.expires > self._now():
            self._known.move_to_end(domain)
            return known
        if domain in self._asked:
            waiting: Deferred[_Candidates] = Deferred()
            self._asked[domain].append(waiting)
            return await waiting
        self._asked[domain] = []
        try:
            candidates = await self._from_dns(domain)
        except Exception as error:
            for waiting in self._asked.pop(domain):
                waiting.errback(error)
            raise
        self._remember(domain, candidates)
        for waiting in self._asked.pop(domain):
            waiting.callback(candidates)
        return candidates

    def _remember(self, domain: str, candidates: _Candidates) -> None:
        self._known[domain] = candidates
        self._known.move_to_end(domain)
        if len(self._known) > REMEMBERED_DOMAINS:
            self._known.popitem(last=False)

    # DNS -----------------------------------------------------------------------------------------

    async def _from_dns(self, domain: str) -> _Candidates:
        try:
            answer, listed_by_dnssec = await self._resolver.lookup_authentic(domain, "MX")
        except NameNotFound as error:
            raise NoSuchDomain(str(error)) from None
        names = {0: {domain}} if answer.rrset is None else _by_preference(domain, answer.rrset)
        listed = self._without_us(domain, names)
        found = await self._with_addresses(domain, listed, answer.rrset is None, answer.expiration)
        return found.vouched_for() if listed_by_dnssec else found

    def _without_us(self, domain: str, names: dict[int, set[str]]) -> list[list[str]]:
        """Best first; our own preference and all behind it go (RFC 5321 §5.1)."""
        listed: list[list[str]] = []
        for preference in sorted(names):
            if self._own_name in names[preference]:
                break
            # A "." among other names is no host (RFC 7505 §3).
            listed.append(sorted(names[preference] - NO_HOST))
        if not any(listed):
            raise LoopsBack(f"mail for {domain} loops back to {self._own_name}")
        return listed

    async def _with_addresses(
        self, domain: str, listed: list[list[str]], implicit: bool, expires: float
    ) -> _Candidates:
        hosts = [(rank, name) for rank, group in enumerate(listed) for name in group][:HOSTS]
        found = await _all([self._addresses(name) for _, name in hosts])
        groups: dict[int, list[Exchange]] = {}
        troubles: list[Exception] = []
        refused = ""
        for (rank, name), host in zip(hosts, found, strict=True):
            if host.trouble is not None:
                troubles.append(host.trouble)
                continue
            if any(self._is_own(address, self._port) for address in host.addresses):
                # By another name, but ourselves: our preference and all behind it go (RFC 5321 §5.1).
                groups = {better: group for better, group in groups.items() if better < rank}
                if not groups and not troubles:
                    raise LoopsBack(f"mail for {domain} loops back: its mail exchange {name} is this server")
                break
            reasons = {
                address: refusal(ip_address(address), self._allow_loopback) for address in host.addresses
            }
            usable = [address for address, reason in reasons.items() if not reason]
            for address, reason in reasons.items():
                refused = refused or (reason and f"{name} has the address {address}, which is {reason}")
            if usable:
                expires = min(expires, host.expires)
                exchange = Exchange(
                    name,
                    self._port,
                    tuple(usable[:ADDRESSES]),
                    authentic=host.authentic,
                    canonical=host.canonical,
                )
                groups.setdefault(rank, []).append(exchange)
        if not groups:
            raise _nowhere(domain, implicit, refused, troubles)
        expires = min(expires, self._now() + LONGEST_MEMORY)
        return _Candidates(tuple(tuple(groups[rank]) for rank in sorted(groups)), expires)

    async def _addresses(self, name: str) -> _Found:
        """The host's addresses, families alternating and IPv4 first; or why they are not known. No
        address at all is no trouble."""
        v4, v6 = await _all([self._family(name, record) for record in ("A", "AAAA")])
        expires = min(v4.expires, v6.expires)
        if not (v4.addresses or v6.addresses):
            return _Found(expires, trouble=v4.trouble or v6.trouble)
        # One family that cannot be looked up does not keep us from the other.
        known = [family for family in (v4, v6) if family.trouble is None]
        return _Found(
            expires,
            _alternating(v4.addresses, v6.addresses),
            authentic=all(family.authentic for family in known),
            canonical=known[0].canonical,
        )

    async def _family(self, name: str, record: str) -> _Found:
        try:
            answer, authentic = await self._resolver.lookup_authentic(name, record)
        except NameNotFound:
            return _Found(self._now() + LONGEST_MEMORY)
        except LookupDelayed as error:
            return _Found(self._now(), trouble=error)
        addresses = tuple([r.address for r in answer.rrset or ()][: 2 * ADDRESSES])
        canonical = answer.canonical_name.to_text(omit_final_dot=True).lower()
        return _Found(answer.expiration, addresses, None, authentic, canonical)


def _by_preference(domain: str, records: Iterable[Any]) -> dict[int, set[str]]:
    names: dict[int, set[str]] = {}
    for record in records:
        name = record.exchange.to_text(omit_final_dot=True).lower()
        names.setdefault(record.preference, set()).add(name)
    if all(group <= NO_HOST for group in names.values()):
        raise NullMX(f"{domain} accepts no mail (null MX)")
    return names


def _nowhere(domain: str, implicit: bool, refused: str, troubles: list[Exception]) -> Exception:
    if troubles:
        return troubles[0]
    if refused:
        return NoExchange(f"mail for {domain} has nowhere to go: {refused}")
    if implicit:
        return NoSuchDomain(f"{domain} has neither a mail exchange nor an address")
    # MX records that lead nowhere do not fall back to the domain's own address (RFC 5321 §5.1).
    return NoExchange(f"none of the mail exchanges of {domain} has an address")


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _alternating(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    pairs: list[str] = []
    for index in range(max(len(first), len(second))):
        pairs += [*first[index : index + 1], *second[index : index + 1]]
    return tuple(pairs)


async def _all(coroutines: list[Coroutine[Deferred[Any], Any, T]]) -> list[T]:
    """Every result, asked for at the same time; none of them may fail but by a bug."""
    return await gatherResults([Deferred.fromCoroutine(c) for c in coroutines], consumeErrors=True)
