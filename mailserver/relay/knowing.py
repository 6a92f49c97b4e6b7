"""What the relay knows of a domain, for an operator who asks why mail waits, and the walk along its route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailserver.interfaces import LookupDelayed, NoExchange
from mailserver.relay.agent import RelayAgent
from mailserver.relay.dialling import Candidate, in_order
from mailserver.relay.next_hops import Hop
from mailserver.relay.routes import CredentialsUnreadable
from mailserver.relay.sessions import Manner
from mailserver.relay.smtp import SMTPSession
from mailserver.relay.tls_memory import TLSMemory
from mailserver.values.address import NULL_SENDER, Address, address_from, domain_key
from mailserver.values.envelope import Envelope, Recipient
from mailserver.wire.client_events import SessionEnded


class Knowing:
    """Answers to ``mailserver queue why`` and ``mailserver route``."""

    def __init__(
        self, reactor: Any, agent: RelayAgent, hostname: str, tls_memory: TLSMemory | None = None
    ) -> None:
        self._reactor = reactor
        self._agent = agent
        self._hostname = hostname
        self._tls_memory = tls_memory

    async def why(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """``domain`` -> next hop, window, memory and demands of each host."""
        domain = domain_key(str(request.get("domain", "")))
        envelope = _envelope(str(request.get("sender", "")), Address("postmaster", domain))
        told: dict[str, Any] = {"domain": domain}
        try:
            hop = await self._agent.next_hops.hop(envelope, domain)
        except (NoExchange, LookupDelayed) as error:
            return {**told, "trouble": str(error)}
        told["route"] = hop.route.name if hop.route else None
        told["destination"] = self._agent.destinations.describe(hop.key)
        told["hosts"] = [self._host(candidate) for candidate in in_order(hop.exchanges, hop.securities, 0)]
        told["last"] = self._agent.last.get(hop.key)
        is_by_policy = hop.route is None or not hop.route.host
        told["policy_trouble"] = self._agent.next_hops.trouble(domain) if is_by_policy else ""
        return told

    def _host(self, candidate: Candidate) -> dict[str, Any]:
        security = candidate.security
        return {
            "host": str(candidate.target),
            "tls": " ".join((security.level.name.lower(), security.by)).strip(),
            "policy": list(security.policy.lines) if security.policy else [],
            "refused": security.refused,
            "memory": self._agent.dialler.memory.known(candidate.target),
            "tls_seen": self._tls_memory.seen(candidate.target.host) if self._tls_memory else 0.0,
        }

    # Forgetting ------------------------------------------------------------------------------------

    async def forgive(self, request: Mapping[str, Any]) -> int:
        """``domains``, or none for all: forget that their hosts failed; how many that were. An operator who
        wants mail tried now must not be answered from memory."""
        domains = request.get("domains")
        memory, destinations = self._agent.dialler.memory, self._agent.destinations
        known = destinations.keys()
        if domains is None:
            return memory.forget() + sum(destinations.forgive(key) for key in known)
        count = 0
        for hop in [hop for domain in domains if (hop := await self._hop(str(domain))) is not None]:
            for exchange in hop.exchanges:
                count += sum(memory.forget(address, exchange.port) for address in exchange.addresses)
                # Other domains may share the host, under demands of their own.
                keys = [key for key in known if (exchange.name, exchange.port) in key.hosts]
                count += sum(destinations.forgive(key) for key in keys)
        return count

    async def forget(self, request: Mapping[str, Any]) -> list[str]:
        """``domain``, or a host's name: forget that its hosts did TLS, and that they failed; the hosts of
        which something was known."""
        domain = str(request.get("domain", ""))
        await self.forgive({"domains": [domain]})
        hop = await self._hop(domain)
        names = {domain, *(exchange.name for exchange in (hop.exchanges if hop else ()))}
        memory = self._tls_memory
        return sorted(name for name in names if memory is not None and memory.forget(name))

    async def _hop(self, domain: str) -> Hop | None:
        key = domain_key(domain)
        try:
            return await self._agent.next_hops.hop(_envelope("", Address("postmaster", key)), key)
        except (NoExchange, LookupDelayed):
            return None

    # The walk --------------------------------------------------------------------------------------

    async def route(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """``address`` -> the stages of its next attempt, each with what came of it and seconds; nothing is
        sent but MAIL, RCPT and RSET."""
        address = address_from(str(request.get("address", "")))
        envelope = _envelope(str(request.get("sender", "")), address)
        stages: list[dict[str, Any]] = []
        domain = domain_key(address.domain)
        began = self._reactor.seconds()
        try:
            route, asked = self._agent.next_hops.look_up(envelope, domain)
            exchanges = await asked
            found = self._reactor.seconds()
            # The hosts are known now: what takes time are the policies.
            hop = await self._agent.next_hops.hop(envelope, domain)
        except (NoExchange, LookupDelayed) as error:
            return [_stage("look-up", str(error), self._reactor.seconds() - began, ok=False)]
        names = ", ".join(f"{e.name}:{e.port} ({', '.join(e.addresses)})" for e in exchanges)
        by = f"route {route.name!r}: " if route else ""
        stages.append(_stage("look-up", by + names, found - began))
        seconds = self._reactor.seconds() - found
        for candidate in in_order(hop.exchanges, hop.securities, 0):
            if await self._visit(candidate, hop, envelope, stages, seconds):
                break
            seconds = 0.0
        return stages

    async def _visit(
        self,
        candidate: Candidate,
        hop: Hop,
        envelope: Envelope,
        stages: list[dict[str, Any]],
        seconds: float,
    ) -> bool:
        """Whether this host has answered for the recipient; with its stages told. ``seconds`` were spent on
        asking what is demanded there."""
        security = candidate.security
        wanted = " ".join((security.level.name.lower(), security.by)).strip()
        if security.refused:
            stages.append(_stage("policy", f"{candidate.target}: {security.refused}", seconds, ok=False))
            return False
        stages.append(_stage("policy", f"{candidate.target}: TLS {wanted}", seconds))
        route = hop.route
        try:
            login = route.login() if route else None
        except CredentialsUnreadable as error:
            stages.append(_stage("password", str(error), 0.0, ok=False))
            return False

        def manner(address: str) -> Manner:
            if route is None:
                return Manner(self._hostname)
            return Manner(route.hello or self._hostname, route.source_for(address), login)

        for tried in await self._agent.dialler.open(candidate, None, manner):
            session, ended = tried.session, tried.ended
            if session is None:
                stages.append(_stage("connect", ended.reason if ended else "", 0.0, ok=False))
            else:
                return await self._ask(session, ended, envelope, stages)
        return False

    async def _ask(
        self,
        session: SMTPSession,
        ended: SessionEnded | None,
        envelope: Envelope,
        stages: list[dict[str, Any]],
    ) -> bool:
        if ended is None:
            result = await session.send(envelope, envelope.recipients, None)
            ended = result if isinstance(result, SessionEnded) else None
        attempt = session.attempt(0.0)
        ok = bool(attempt.connected) and len(attempt.steps) > 0
        stages.append(_stage("connect", str(session.target), attempt.connected, ok=ok or ended is None))
        if attempt.tls:
            verified = f"verified by {attempt.verified}" if attempt.verified else "not verified"
            stages.append(_stage("TLS", f"{attempt.tls}, {verified}", attempt.opened))
        for step in attempt.steps:
            stages.append(_stage(step.stage, step.text, step.seconds, ok=step.text[:1] in "23"))
        if ended is not None:
            stages.append(_stage("end", ended.reason, attempt.finished, ok=False))
        session.close()
        return any(step.stage == "RCPT TO" for step in attempt.steps)


def _envelope(sender: str, recipient: Address) -> Envelope:
    reverse_path = address_from(sender) if sender else NULL_SENDER
    return Envelope(reverse_path, (Recipient(0, recipient, recipient),))


def _stage(name: str, told: str, seconds: float, ok: bool = True) -> dict[str, Any]:
    return {"stage": name, "told": told, "seconds": round(seconds, 3), "ok": ok}
