"""TLS reports: sessions counted by day and domain, kept on disk, sent when the day is over (RFC 8460)."""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mailserver.durable import Disk
from mailserver.interfaces import LookupDelayed, SpoolUnavailable
from mailserver.relay.https import FetchFailed
from mailserver.relay.protection import Mismatch, Policy, Security
from mailserver.relay.resolver import NameNotFound, Resolver
from mailserver.relay.tls_report import (
    Submitter,
    compressed,
    mail_address,
    report_json,
    report_message,
    wanted_at,
)
from mailserver.threads import Workers
from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.envelope import Envelope, Recipient
from mailserver.values.text import printable
from mailserver.wire.dkim import Signer, signed

log = Logger(namespace="mail")

MOST_DOMAINS = 10_000
"""Domains of one day; those that come later are not counted."""
MOST_DETAILS = 100
"""Different failures told of one domain."""
WRITE_SECONDS = 120.0
"""How long counts wait to be written; a crash forgets at most so much."""
SPREAD_SECONDS = 4 * 3600.0
"""Reports leave at a random time within this, or every receiver would hear from all at midnight (RFC
8460 §5.4 asks for it)."""
RETRY_SECONDS = 3600.0
KEEP_DAYS = 3
"""How long a day's reports are tried; RFC 8460 §5.4 gives up after 24 hours of failures."""


class IPoster(Protocol):
    """What posts to ``https:`` destinations: ``relay/https.py`` does."""

    def post(self, url: str, content_type: str, body: bytes) -> Deferred[None]:
        """Fails with ``FetchFailed``."""


Spooler = Callable[[Envelope, bytes], Deferred[None]]
"""Puts a message of our own into the spool."""


class TLSReports:
    """Counts in memory, writes behind, and sends what was counted yesterday."""

    def __init__(
        self,
        reactor: Any,
        folder: Path,
        disk: Disk,
        workers: Workers,
        resolver: Resolver,
        poster: IPoster,
        spool: Spooler,
        submitter: Submitter,
        now: Callable[[], float] = time.time,
        spread: Callable[[], float] = lambda: random.uniform(0.0, SPREAD_SECONDS),
        signer: Signer | None = None,
    ) -> None:
        """``folder`` holds one file for each day, in UTC; each worker has a folder of its own. Mail is signed
        by ``signer``, whose ``sign`` may block and raise ``OSError``."""
        self._reactor = reactor
        self._folder = folder
        self._disk = disk
        self._workers = workers
        self._resolver = resolver
        self._poster = poster
        self._spool = spool
        self._submitter = submitter
        self._now = now
        self._spread = spread
        self._signer = signer
        self._days: dict[str, _Day] = {}
        self._writing: IDelayedCall | None = None
        self._sending: IDelayedCall | None = None
        self._stopped = False

    # Life ------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the days that were kept; blocks, for the start.

        Raises:
            OSError: the folder cannot be made or read.
        """
        self._disk.make_folder(self._folder)
        oldest = self._day_at(self._now() - KEEP_DAYS * 86400)
        for path in sorted(self._folder.iterdir()):
            if path.suffix != ".json" or path.stem < oldest:
                path.unlink(missing_ok=True)
                continue
            try:
                self._days[path.stem] = _Day(json.loads(path.read_bytes()))
            except (OSError, ValueError, TypeError) as error:
                log.warn("warning: {path} is of no use: {error}", path=str(path), error=error)

    def start(self) -> None:
        """Begin to count, and to send."""
        self._stopped = False
        self._sleep_until_next_day()
        if any(day < self._today() for day in self._days):
            self._sleep(self._spread())

    def save(self) -> None:
        """Write what is counted, and count no more; blocks."""
        self._stopped = True
        for call in (self._writing, self._sending):
            if call is not None and call.active():
                call.cancel()
        self._writing = self._sending = None
        for day, counts in self._days.items():
            if counts.dirty:
                self._write(day, counts.octets())

    # Counting ----------------------------------------------------------------------------------------

    def count(self, domain: str, security: Security, host: str, address: str, wrong: Mismatch | None) -> None:
        """One session for mail to ``domain``: a good one, or what was wrong with it."""
        if self._stopped:
            return
        day = self._days.setdefault(self._today(), _Day({}))
        day.count(domain, security.policy or Policy("no-policy-found", domain), host, address, wrong)
        if self._writing is None:
            self._writing = self._reactor.callLater(WRITE_SECONDS, self._write_behind)

    def _write_behind(self) -> None:
        self._writing = None
        for day, counts in self._days.items():
            if counts.dirty:
                self._keep(day, counts)

    def _keep(self, day: str, counts: _Day) -> None:
        self._workers.call(self._write, day, counts.octets()).addErrback(self._not_written, day)

    def _not_written(self, failure: Any, day: str) -> None:
        log.warn("warning: TLS reports of {day} were not kept: {error}", day=day, error=failure.value)

    def _write(self, day: str, octets: bytes) -> None:
        beside = self._folder / f"{day}.{secrets.token_hex(4)}"
        self._disk.write(beside, [octets])
        self._disk.sync_file(beside)
        self._disk.rename(beside, self._folder / f"{day}.json")
        self._disk.sync_folder(self._folder)

    # Sending -----------------------------------------------------------------------------------------

    def _today(self) -> str:
        return self._day_at(self._now())

    @staticmethod
    def _day_at(seconds: float) -> str:
        return datetime.fromtimestamp(seconds, UTC).date().isoformat()

    def _sleep_until_next_day(self) -> None:
        now = datetime.fromtimestamp(self._now(), UTC)
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        self._sleep((midnight - now).total_seconds() + 60.0 + self._spread())

    def _sleep(self, seconds: float) -> None:
        if self._sending is not None and self._sending.active():
            self._sending.cancel()
        self._sending = self._reactor.callLater(seconds, self._wake)

    def _wake(self) -> None:
        self._sending = None
        Deferred.fromCoroutine(self.send_all()).addErrback(self._failed)

    def _failed(self, failure: Any) -> None:
        log.failure("sending TLS reports", failure)
        if not self._stopped:
            self._sleep_until_next_day()

    async def send_all(self) -> None:
        """Send the reports of every day that is over; what cannot be sent now is tried again."""
        oldest = self._day_at(self._now() - KEEP_DAYS * 86400)
        left = False
        for day in sorted(self._days):
            if day >= self._today() or self._stopped:
                break
            counts = self._days[day]
            for domain in counts.unsent():
                if self._stopped:
                    return
                if await self._send(day, domain, counts):
                    counts.sent(domain)
            if counts.unsent() and day >= oldest:
                left = True
                self._keep(day, counts)
            else:
                del self._days[day]
                await self._workers.call(self._remove, day)
        if not self._stopped:
            if left:
                self._sleep(RETRY_SECONDS * random.uniform(0.8, 1.2))
            else:
                self._sleep_until_next_day()

    def _remove(self, day: str) -> None:
        try:
            self._disk.remove(self._folder / f"{day}.json")
        except FileNotFoundError:
            return
        self._disk.sync_folder(self._folder)

    async def _send(self, day: str, domain: str, counts: _Day) -> bool:
        """Whether nothing is left to do: the report has gone to one of those who want it, or nobody
        does."""
        try:
            answer = await self._resolver.lookup(f"_smtp._tls.{domain}", "TXT")
        except NameNotFound:
            return True
        except LookupDelayed:
            return False
        wanted = wanted_at([b"".join(record.strings) for record in answer.rrset or ()])
        if not wanted:
            return True
        body = compressed(report_json(domain, day, counts.policies(domain), self._submitter))
        gone = [await self._deliver(uri, day, domain, body) for uri in wanted]
        return any(gone)

    async def _deliver(self, uri: str, day: str, domain: str, body: bytes) -> bool:
        try:
            address = mail_address(uri)
            if address is not None:
                await self._mail(address, day, domain, body)
            else:
                await self._poster.post(uri, "application/tlsrpt+gzip", body)
        except Exception as error:
            if not isinstance(error, FetchFailed | SpoolUnavailable | OSError):
                log.failure("a TLS report about {domain}", domain=domain)
            log.warn(
                "warning: TLS report about {domain} to {uri}: {error}",
                domain=printable(domain),
                uri=printable(uri),
                error=printable(str(error)),
            )
            return False
        log.info("TLS report about {domain} for {day} to {uri}", domain=domain, day=day, uri=printable(uri))
        return True

    async def _mail(self, to: Address, day: str, domain: str, body: bytes) -> None:
        message = report_message(domain, day, body, to, self._submitter, self._now(), secrets.token_hex(12))
        if self._signer is not None:
            # A report by mail that nobody has signed is worth nothing (RFC 8460 §3).
            message = await self._workers.call(signed, message, self._signer, self._now())
        # Its own delivery may not depend on what it reports as broken (RFC 8460 §3, RFC 8689 §4.3).
        envelope = Envelope(NULL_SENDER, (Recipient(0, to, to),), tls_optional=True)
        await self._spool(envelope, message)


class _Day:
    """The counts of one day, in the shape in which they are kept: domain -> policy -> counts."""

    def __init__(self, table: dict[str, Any]) -> None:
        self._domains: dict[str, dict[str, Any]] = table
        self.dirty = False

    def octets(self) -> bytes:
        """For the file; from now on it is up to date."""
        self.dirty = False
        return json.dumps(self._domains, ensure_ascii=False).encode()

    def count(self, domain: str, policy: Policy, host: str, address: str, wrong: Mismatch | None) -> None:
        """One session."""
        policies = self._domains.get(domain)
        if policies is None:
            if len(self._domains) >= MOST_DOMAINS:
                return
            policies = self._domains[domain] = {}
        self.dirty = True
        counts = policies.get(f"{policy.kind} {policy.domain}")
        if counts is None:
            if len(policies) >= MOST_DETAILS:
                return
            counts = policies[f"{policy.kind} {policy.domain}"] = {
                "policy": _policy_json(policy),
                "good": 0,
                "failed": {},
            }
        if wrong is None:
            counts["good"] += 1
            return
        key = json.dumps([wrong.kind, host, address, printable(wrong.reason, 200)])
        if key in counts["failed"] or len(counts["failed"]) < MOST_DETAILS:
            counts["failed"][key] = counts["failed"].get(key, 0) + 1

    def unsent(self) -> list[str]:
        """Domains whose report has not gone."""
        return list(self._domains)

    def sent(self, domain: str) -> None:
        """Nothing is left to do for a domain."""
        del self._domains[domain]
        self.dirty = True

    def policies(self, domain: str) -> list[dict[str, Any]]:
        """As RFC 8460 §4.4 shapes them."""
        return [_result_json(counts) for counts in self._domains[domain].values()]


def _policy_json(policy: Policy) -> dict[str, Any]:
    told: dict[str, Any] = {"policy-type": policy.kind, "policy-domain": policy.domain}
    if policy.lines:
        told["policy-string"] = list(policy.lines)
    if policy.hosts:
        told["mx-host"] = list(policy.hosts)
    return told


def _result_json(counts: dict[str, Any]) -> dict[str, Any]:
    failed: dict[str, int] = counts["failed"]
    result: dict[str, Any] = {
        "policy": counts["policy"],
        "summary": {
            "total-successful-session-count": counts["good"],
            "total-failure-session-count": sum(failed.values()),
        },
    }
    if failed:
        result["failure-details"] = [_detail_json(json.loads(key), n) for key, n in failed.items()]
    return result


def _detail_json(detail: list[str], sessions: int) -> dict[str, Any]:
    kind, host, address, reason = detail
    told: dict[str, Any] = {"result-type": kind, "failed-session-count": sessions}
    if host:
        told["receiving-mx-hostname"] = host
    if address:
        told["receiving-ip"] = address
    if reason:
        told["failure-reason-code"] = reason
    return told
