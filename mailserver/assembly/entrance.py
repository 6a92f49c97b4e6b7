"""Settings become the entrance: limits for strangers, who decides on a recipient, and what DNS is asked."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from mailserver import maillog
from mailserver.config import Settings
from mailserver.connections import ConnectionLimits, Connections, Times, pressed
from mailserver.own_rules import RuleUnusable, own_rules
from mailserver.policy import reputation
from mailserver.policy.chains import asked, receiving, rule_name
from mailserver.policy.greylist import Greylist
from mailserver.policy.rates import ClientRates
from mailserver.proxies import ProxiedFactory
from mailserver.receive.lookups import ClientLookups
from mailserver.receive.sender_domains import SenderDomains
from mailserver.relay.resolver import NameNotFound, Resolver
from mailserver.shared_counts import SharedCounts
from mailserver.threads import Bridge, Workers

OTHER_DESCRIPTORS = 400
"""Kept for mailboxes, databases, the relay's connections and DNS."""

MOST_DESCRIPTORS = 65_536
"""Asked for where connections have no limit of ours."""

GREYLIST_SECONDS = 20.0
"""How often the greylist is written behind; a crash forgets so much of it."""


class EntranceUnusable(Exception):
    """The configuration names something that cannot be used; the text says what and the remedy."""


class Entrance:
    """What all listeners share between a connection and a decision. Making it opens nothing.

    Raises:
        EntranceUnusable: a rule or a block list cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        bridge: Bridge,
        workers: Workers,
        *rules: Any,
        shared: SharedCounts | None = None,
    ) -> None:
        """``rules`` of the house are asked at RCPT before the administrator's own; ``shared`` has the counts
        of other workers."""
        self._shared = shared
        limits = settings.limits
        self._settings = settings
        self._reactor = reactor
        self._workers = workers
        self.times = Times(
            limits.greeting_time,
            limits.command_time,
            limits.content_time,
            limits.handshake_time,
            limits.session_time,
            limits.minimum_rate,
            limits.greet_wait,
        )
        self.pressed_times = pressed(self.times)
        self.connections = Connections(
            ConnectionLimits(
                _room(limits.connections),
                limits.connections_by_client,
                (*limits.exempt, *settings.relay.trusted_networks),
            ),
            maillog.turned_away,
            maillog.pressed,
            shared,
        )
        self.rates = ClientRates(
            limits.messages_by_client,
            limits.recipients_by_client,
            reactor.seconds,
            lambda: self.connections.pressed,
            shared,
        )
        self.greylist = self._make_greylist()
        self._writing: LoopingCall | None = None
        try:
            self.lookups = self._make_lookups()
            own = own_rules(
                settings.policy.rules,
                settings.policy.rules_folder,
                bridge,
                reactor,
                settings.policy.rule_time,
                settings.policy.rule_failure == "ignore",
            )
        except (RuleUnusable, ValueError) as error:
            raise EntranceUnusable(str(error)) from error
        others: list[Any] = [self.lookups] if settings.policy.block_lists else []
        others += [self._sender_domains()] if settings.policy.sender_dns else []
        others += rules
        others += [self.greylist] if self.greylist else []
        self.may_receive = receiving(*others, *own)
        self.rules = asked(*others, *own)
        self.rule_names = [rule_name(rule) for rule in self.rules]

    def open(self) -> None:
        """Read what is on the disk, and begin to write behind."""
        _raise_descriptors(self.connections.limits.total)
        if self._shared is not None:
            self._shared.open()
        if self.greylist is not None:
            self._write_greylist()
            self._writing = LoopingCall(self._write_later)
            self._writing.clock = self._reactor
            self._writing.start(GREYLIST_SECONDS, now=False)

    def close(self) -> None:
        """Write what is not written yet, wait for no name server. Call it when no session is left."""
        if self.lookups is not None:
            self.lookups.stop()
        if self._shared is not None:
            self._shared.close()
        if self._writing is not None:
            self._writing.stop()
            self._write_greylist()

    def succeed(self, former: Entrance) -> None:
        """Open in the place of another, whose connections still count."""
        limits = self.connections.limits
        shared, self._shared, former._shared = self._shared, None, None  # open, and both have the same
        former.close()
        self.connections = former.connections
        self.connections.limits = limits
        self.connections.factories[:] = [one for one in self.connections.factories if one.sessions]
        self.open()
        self._shared = shared

    def proxied(self, factory: Any) -> Any:
        """``factory``, behind a reader of PROXY headers where load balancers are named."""
        networks = self._settings.proxy.networks
        return ProxiedFactory(factory, networks, self._reactor) if networks else factory

    def _write_later(self) -> Deferred[None]:
        return self._workers.call(self._write_greylist)

    def _write_greylist(self) -> None:
        assert self.greylist is not None
        try:
            self.greylist.write()
        except Exception as error:  # the decisions go on in memory
            maillog.fault("writing the greylist", error)

    def _make_greylist(self) -> Greylist | None:
        delay = self._settings.policy.greylist
        return Greylist(self._settings.state / "greylist.sqlite", delay, time.time) if delay else None

    def _sender_domains(self) -> SenderDomains:
        seconds = self._settings.policy.lookup_time
        resolver = Resolver(self._reactor, self._settings.relay.nameservers, lookup_seconds=seconds)
        return SenderDomains(Texts(resolver), self._reactor, seconds)

    def _make_lookups(self) -> ClientLookups | None:
        """A resolver of their own: strangers who come in crowds must not hold up the relay's questions."""
        policy = self._settings.policy
        if not policy.block_lists and not policy.reverse_dns:
            return None
        lists = reputation.block_lists(policy.block_lists)
        resolver = Resolver(
            self._reactor, self._settings.relay.nameservers, lookup_seconds=policy.lookup_time
        )
        return ClientLookups(
            Texts(resolver),
            self._reactor,
            lists,
            reputation.query_name,
            partial(_refusal, policy.block_score),
            policy.reverse_dns,
            policy.lookup_time,
        )


def _room(wanted: int) -> int:
    """As many connections as this process can have file descriptors for; 0: as many as it can."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return wanted
    most = max(hard - OTHER_DESCRIPTORS, hard // 2)
    return min(wanted, most) or most


def _raise_descriptors(connections: int) -> None:
    """Ask for what the connections need: a login's usual 1024 are soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (connections or MOST_DESCRIPTORS) + OTHER_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _refusal(limit: int, facts: Any, score: int, zones: Sequence[str]) -> Any:
    return reputation.refusal(facts, score, limit, zones)


class Texts:
    """The relay's resolver, giving records as text."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def texts(self, name: str, record: str) -> Sequence[str]:
        """The records; none where the name does not exist. Raises ``LookupDelayed``."""
        try:
            answer = await self._resolver.lookup(name, record)
        except NameNotFound:
            return ()
        return tuple(item.to_text() for item in answer.rrset or ())
