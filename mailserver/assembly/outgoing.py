"""Settings become safe transport: DNS, MTA-STS, DANE, TLS memory and TLS reports, ready for the relay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred

from mailserver import maillog
from mailserver.config import Settings
from mailserver.durable import Disk
from mailserver.interfaces import ISpool
from mailserver.relay.agent import RelayAgent
from mailserver.relay.assembly import make_relay
from mailserver.relay.https import HTTPS
from mailserver.relay.mta_sts import MTASTS
from mailserver.relay.policy_files import PolicyFiles
from mailserver.relay.report_key import FILE_NAME, SELECTOR, ReportKey
from mailserver.relay.resolver import Resolver
from mailserver.relay.routes import RouteTable
from mailserver.relay.security import TransportSecurity
from mailserver.relay.sts_policy import STSPolicy
from mailserver.relay.tls import ClientTLS
from mailserver.relay.tls_memory import TLSMemory
from mailserver.relay.tls_report import Submitter
from mailserver.relay.tls_reports import TLSReports
from mailserver.threads import Bridge, Workers
from mailserver.values.address import Address, domain_key
from mailserver.values.envelope import Entry, Envelope
from mailserver.wire.dkim import Signer


class Outgoing:
    """What the relay needs to know whom it may trust. Making it opens nothing.

    ``resolver`` looks everything up, ``tls`` shakes hands, ``security`` decides and learns. ``open`` reads
    files, ``start`` begins, ``close`` ends.
    """

    def __init__(
        self, settings: Settings, reactor: Any, disk: Disk, workers: Workers, worker: int = 0
    ) -> None:
        relay = settings.relay
        self._settings = settings
        self._reactor = reactor
        self._disk = disk
        self._workers = workers
        self._worker = worker
        self._folder = settings.state
        self.resolver = Resolver(reactor, relay.nameservers, validating=relay.dnssec)
        self.tls = ClientTLS(relay.authorities)
        self._https = HTTPS(reactor, self.resolver, relay.authorities, relay.allow_loopback)
        self._files = PolicyFiles(self._folder / "mta-sts", disk, workers)
        self._sts = MTASTS(reactor, self.resolver, self._https, self._files) if relay.mta_sts else None
        self._report_key = ReportKey(self._folder / FILE_NAME, disk)
        self._memory = self._make_memory() if relay.lost_tls != "ignore" else None
        self._reports = self._make_reports() if relay.tls_reports else None
        self.security = TransportSecurity(
            self.resolver if relay.dnssec else None, self._sts, self._memory, self._reports
        )
        self._kept: list[tuple[str, STSPolicy]] = []
        self._spool: Callable[[Envelope, bytes], Deferred[None]] | None = None

    def make_relay(
        self, routes: RouteTable, listening: Callable[[], Iterable[tuple[str, int]]]
    ) -> RelayAgent:
        """The delivery agent for other servers; ``listening`` gives the addresses and ports of our own SMTP
        listeners."""
        call = self._workers.call
        return make_relay(
            self._settings, self._reactor, routes, listening, call, self.resolver, self.tls, self.security
        )

    @property
    def memory(self) -> TLSMemory | None:
        """Which hosts did TLS before; ``None`` where ``relay.lost_tls`` wants nothing remembered."""
        return self._memory

    def open(self, spool: ISpool, bridge: Bridge, accepted: Callable[[Entry], None]) -> None:
        """Read what was kept; reports go into ``spool``, and ``accepted`` is told of them.

        Raises:
            OSError: a folder of ours cannot be made or read.
        """
        self._spool = _Spooler(spool, bridge, accepted).put
        kept = self._files.load() if self._sts is not None else []
        if self._memory is not None:
            self._memory.load()
        if self._reports is not None:
            self._reports.load()
        self._kept = kept

    def start(self) -> None:
        """Begin to look after policies and reports."""
        if self._sts is not None:
            self._sts.start(self._kept)
        if self._reports is not None:
            self._reports.start()
        self._kept = []

    def close(self) -> None:
        """Write what was learnt; nothing is under way any more."""
        if self._sts is not None:
            self._sts.stop()
        if self._memory is not None:
            self._memory.save()
        if self._reports is not None:
            self._reports.save()

    def _make_memory(self) -> TLSMemory:
        path = self._folder / f"tls-hosts-{self._worker}.json"
        strict = self._settings.relay.lost_tls == "delay"
        return TLSMemory(self._reactor, path, self._disk, self._workers, strict)

    def _make_reports(self) -> TLSReports:
        hostname = self._settings.hostname
        sender = Address("postmaster", self._settings.domains[0])
        submitter = Submitter(hostname, f"mailto:{sender}", hostname, sender, self._worker)
        return TLSReports(
            self._reactor,
            self._folder / "tls-reports" / str(self._worker),
            self._disk,
            self._workers,
            self.resolver,
            self._https,
            self._put,
            submitter,
            signer=Signer(domain_key(sender.domain), SELECTOR, self._report_key.sign),
        )

    def _put(self, envelope: Envelope, content: bytes) -> Deferred[None]:
        assert self._spool is not None, "reports are made after open()"
        return self._spool(envelope, content)


class _Spooler:
    """Messages of our own, into the spool and on their way."""

    def __init__(self, spool: ISpool, bridge: Bridge, accepted: Callable[[Entry], None]) -> None:
        self._spool = spool
        self._bridge = bridge
        self._accepted = accepted

    def put(self, envelope: Envelope, content: bytes) -> Deferred[None]:
        """Done when the message is durable. Fails with ``SpoolUnavailable``."""
        writer = self._spool.begin()
        writer.write(content)
        return self._bridge.deferred(writer.commit(envelope)).addCallback(self._committed)

    def _committed(self, entry: Entry) -> None:
        maillog.made(entry, "a TLS report of this server")
        self._accepted(entry)
