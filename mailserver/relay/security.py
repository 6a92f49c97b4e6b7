"""What a destination demands of a session: routes, DANE, MTA-STS, REQUIRETLS, and what we remember."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

from twisted.internet.defer import Deferred

from mailserver.interfaces import Exchange
from mailserver.relay import dane
from mailserver.relay.mta_sts import MTASTS
from mailserver.relay.protection import (
    DANE,
    MTA_STS,
    OPPORTUNISTIC,
    TLSA,
    WEBPKI,
    Level,
    Mismatch,
    Policy,
    Protection,
    Security,
)
from mailserver.relay.resolver import Resolver
from mailserver.relay.sts_policy import STSPolicy
from mailserver.relay.tls_memory import TLSMemory
from mailserver.values.address import domain_key
from mailserver.values.envelope import Envelope

REQUIRETLS_STATUS = "5.7.30"
"""REQUIRETLS support required (RFC 8689 §8)."""
POLICY_STATUS = "4.7.5"
"""Cryptographic failure (RFC 3463 §3.8): for now, because the destination may mend its records."""


class IReports(Protocol):
    """Who counts sessions for TLS reports: ``relay/tls_reports.py`` does."""

    def count(self, domain: str, security: Security, host: str, address: str, wrong: Mismatch | None) -> None:
        """One session for mail to ``domain``: a good one, or what was wrong with it."""


class TransportSecurity:
    """Decides before a session, and learns from it afterwards. What is turned off is ``None``."""

    def __init__(
        self,
        resolver: Resolver | None = None,
        sts: MTASTS | None = None,
        memory: TLSMemory | None = None,
        reports: IReports | None = None,
    ) -> None:
        """``resolver`` must be a validating one; with it, DANE is on."""
        self._resolver = resolver
        self._sts = sts
        self._memory = memory
        self._reports = reports

    def demands(
        self, domain: str, exchanges: Sequence[Exchange], envelope: Envelope
    ) -> Sequence[Security] | Deferred[Sequence[Security]]:
        """One ``Security`` for each of the exchanges of ``domain``, for mail with this envelope.

        A Deferred only when something has to be asked first; it never fails but by a bug.
        """
        key = domain_key(domain)
        if envelope.tls_optional and not envelope.require_tls:
            # The sender would rather have it delivered (RFC 8689 §4.3). Such sessions say nothing of the
            # domain's policies, and those that carry TLS reports are not counted (RFC 8460 §3).
            return [OPPORTUNISTIC] * len(exchanges)
        if key.startswith("[") and not envelope.require_tls:
            # An address literal has no records, and nobody to report to.
            return [OPPORTUNISTIC] * len(exchanges)
        policy = self._sts.policy(key) if self._sts is not None and not key.startswith("[") else None
        by_dane = self._resolver is not None and any(e.listed and e.authentic for e in exchanges)
        if by_dane or isinstance(policy, Deferred):
            return Deferred.fromCoroutine(self._ask(key, exchanges, envelope.require_tls, policy))
        floor = _plain(key)
        return [self._by_policy(key, e, policy, floor, envelope.require_tls) for e in exchanges]

    async def _ask(
        self,
        domain: str,
        exchanges: Sequence[Exchange],
        require_tls: bool,
        policy: Deferred[STSPolicy | None] | STSPolicy | None,
    ) -> Sequence[Security]:
        if isinstance(policy, Deferred):
            policy = await policy
        return [await self._decide(domain, exchange, require_tls, policy) for exchange in exchanges]

    def trouble(self, domain: str) -> str:
        """What cannot be learnt of the demands of ``domain``, for an operator; ``""``: nothing is missing."""
        found = self._sts.trouble(domain_key(domain)) if self._sts is not None else None
        return f"the MTA-STS policy cannot be had ({found[0]}): {found[1]}" if found is not None else ""

    def refused(self, security: Security, host: str, address: str) -> None:
        """No session was tried, because ``security`` forbids it."""
        self._doubt(security)
        if self._reports is not None and security.failure and security.domain:
            wrong = Mismatch(security.failure, security.refused)
            self._reports.count(security.domain, security, host, address, wrong)

    def observed(
        self,
        domains: Iterable[str],
        security: Security,
        host: str,
        address: str,
        reached: Protection | None,
        wrong: Mismatch | None,
    ) -> None:
        """What became of a new session with ``host``, for mail to ``domains``, that got as far as TLS:
        ``reached`` when it is protected, ``wrong`` when it is not as it should be."""
        if self._memory is not None:
            self._memory.learn(host, reached is not None, expected=security.level > Level.CLEAR)
        if wrong is not None:
            self._doubt(security)
        if self._reports is None or not security.domain or security.level is Level.CLEAR:
            # Without a domain it was a route: its next hop is the administrator's own affair.
            return
        if wrong is None and security.failure:
            wrong = Mismatch(security.failure, "")
        for domain in domains:
            self._reports.count(domain_key(domain), security, host, address, wrong)

    def _doubt(self, security: Security) -> None:
        if self._sts is not None and security.by == MTA_STS:
            self._sts.doubt(security.domain)

    # Deciding ------------------------------------------------------------------------------------

    async def _decide(
        self, domain: str, exchange: Exchange, require_tls: bool, policy: STSPolicy | None
    ) -> Security:
        """DANE goes before MTA-STS (RFC 8461 §2); the rows are KumoMTA's table."""
        floor = _plain(domain)
        if self._resolver is not None and exchange.listed and exchange.authentic:
            by_dane = await self._by_dane(self._resolver, domain, exchange)
            if by_dane.by or by_dane.refused:
                return replace(by_dane, require_tls=require_tls, domain=domain)
            floor = by_dane
        return self._by_policy(domain, exchange, policy, floor, require_tls)

    async def _by_dane(self, resolver: Resolver, domain: str, exchange: Exchange) -> Security:
        host = exchange.name
        try:
            base, records = await _tlsa_of(resolver, exchange)
        except dane.NoAnswer as error:
            return Security(
                Level.VERIFIED,
                refused=f"it is not known how {host} must be verified: {error}",
                status=POLICY_STATUS,
                failure="dnssec-invalid",
                policy=Policy("tlsa", host),
            )
        if not records:
            return _plain(domain)
        policy = Policy("tlsa", base, tuple(map(str, records)), (host,))
        usable = dane.usable(records)
        if not usable:
            return Security(Level.ENCRYPTED, failure="tlsa-invalid", policy=policy)
        # What a DANE-TA certificate may be for (RFC 7672 §3.2.2).
        names = tuple(dict.fromkeys((base, domain_key(host), domain)))
        return Security(Level.VERIFIED, DANE, names, usable, policy=policy)

    def _by_policy(
        self, domain: str, exchange: Exchange, policy: STSPolicy | None, floor: Security, require_tls: bool
    ) -> Security:
        host = domain_key(exchange.name)
        security = floor
        if policy is not None:
            known = Policy("sts", domain, policy.lines, policy.mx)
            if not policy.names(host):
                security = _not_named(host, domain, policy, known, floor)
            elif policy.mode == "enforce" or require_tls:
                security = Security(Level.VERIFIED, MTA_STS, (host,), policy=known)
            else:
                security = Security(floor.level, MTA_STS, (host,), watched=True, policy=known)
        elif floor.level is Level.OPPORTUNISTIC:
            security = self._without_policy(domain)
        if require_tls:
            security = _with_require_tls(security, host, domain, exchange)
        else:
            security = self._remembered(exchange.name, security)
        return security if security.domain else replace(security, domain=domain)

    def _without_policy(self, domain: str) -> Security:
        """Nothing is demanded; with what to report when there should have been a policy."""
        trouble = self._sts.trouble(domain) if self._sts is not None else None
        if trouble is None:
            return _plain(domain)
        return Security(failure=trouble[0], policy=Policy("sts", domain), domain=domain)

    def _remembered(self, host: str, security: Security) -> Security:
        if (
            security.level is Level.OPPORTUNISTIC
            and self._memory is not None
            and self._memory.insists_on(host)
        ):
            return replace(security, level=Level.ENCRYPTED)
        return security


@lru_cache(maxsize=4096)
def _plain(domain: str) -> Security:
    return Security(domain=domain)


async def _tlsa_of(resolver: Resolver, exchange: Exchange) -> tuple[str, tuple[TLSA, ...]]:
    """The records, and the name they are at: the end of the CNAMEs before their beginning (RFC 7672
    §2.2.2)."""
    host = domain_key(exchange.name)
    for base in dict.fromkeys((exchange.canonical or host, host)):
        records = await dane.tlsa_records(resolver, base, exchange.port)
        if records:
            return base, records
    return host, ()


def _not_named(host: str, domain: str, policy: STSPolicy, known: Policy, floor: Security) -> Security:
    reason = f"{host} is not among the hosts that the MTA-STS policy of {domain} names"
    if policy.mode == "enforce":
        return Security(
            Level.VERIFIED,
            MTA_STS,
            refused=reason,
            status=POLICY_STATUS,
            failure="validation-failure",
            policy=known,
        )
    # "testing": told in a report, and otherwise as if there were no policy (RFC 8461 §5).
    return Security(floor.level, watched=True, failure="validation-failure", policy=known)


def _with_require_tls(security: Security, host: str, domain: str, exchange: Exchange) -> Security:
    """REQUIRETLS: the host's name must come from a safe look-up, and its certificate must be for it
    (RFC 8689 §4.2.1)."""
    if security.refused:
        return replace(security, status=REQUIRETLS_STATUS, require_tls=True)
    if security.level is Level.VERIFIED and not security.watched:
        return replace(security, require_tls=True)
    if (exchange.listed or host == domain) and not domain.startswith("["):
        return Security(Level.VERIFIED, WEBPKI, (host,), require_tls=True, policy=security.policy)
    return _refused_for_require_tls(
        f"nothing proves that {host} is a mail exchange of {domain} (DNSSEC or MTA-STS)"
    )


def _refused_for_require_tls(reason: str) -> Security:
    words = f"the sender requires TLS all the way (REQUIRETLS), and {reason}"
    return Security(Level.VERIFIED, require_tls=True, refused=words, status=REQUIRETLS_STATUS)
