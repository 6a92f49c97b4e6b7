"""Settings become the tree of services; the only file that connects every room with every other."""

from __future__ import annotations

import datetime
import gc
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory

from mailserver import maillog
from mailserver.accounts.errors import DirectoryUnavailable
from mailserver.assembly.access import Access
from mailserver.assembly.addresses import Addresses
from mailserver.assembly.answers import control_of
from mailserver.assembly.auditing import Auditing
from mailserver.assembly.changing import Changing, on_hangup
from mailserver.assembly.deliveries import Deliveries
from mailserver.assembly.entrance import Entrance, EntranceUnusable
from mailserver.assembly.fetching import Fetching
from mailserver.assembly.outgoing import Outgoing
from mailserver.assembly.own_objects import ObjectUnusable
from mailserver.assembly.sharing import counts_of, share_of
from mailserver.assembly.submissions import Submissions
from mailserver.assembly.suppressing import Suppressing
from mailserver.assembly.tracing import Tracing
from mailserver.assembly.welcome import welcome
from mailserver.certificates import (
    CertificateError,
    CertificateWatch,
    ListenerTLS,
    ServerTLS,
    ensure_self_signed,
)
from mailserver.config import Settings
from mailserver.config.settings import Store
from mailserver.deliver.drop import FOLDER as DROP
from mailserver.deliver.pickup import Pickup, PickupPlace
from mailserver.deliver.terminal import TerminalAgent
from mailserver.dispatch.at_once import AtOnce
from mailserver.dispatch.bounce import Reporter
from mailserver.dispatch.runner import Runner
from mailserver.dispatch.settlement import Ways
from mailserver.durable import Disk
from mailserver.interfaces import IMaildrop
from mailserver.listeners import Listener, Place, StartFailed, make_listeners
from mailserver.login import CheckerUnusable
from mailserver.policy.rules import recipient_has_room
from mailserver.receive.address_book import AddressBook
from mailserver.receive.queue_start import QueueStart
from mailserver.receive.session import ReceiverSettings
from mailserver.receive.smtp import SMTPReceiverFactory
from mailserver.receive.transaction import Intake
from mailserver.relay.agent import RelayAgent
from mailserver.relay.routes import RouteTable
from mailserver.retrieve.pop3 import Pop3Factory
from mailserver.retrieve.settings import Pop3Settings
from mailserver.spool.orphans import orphans
from mailserver.spool.retries import RetrySchedule
from mailserver.spool.sqlite import SpoolUnusable, SqliteSpool
from mailserver.store.mailstore import MailStore
from mailserver.store.quota import QuotaLimits
from mailserver.terminals.registry import Terminals
from mailserver.threads import Bridge, Workers, favour_the_reactor
from mailserver.values.account import Account, LocalUser
from mailserver.values.address import Address
from mailserver.values.expansion import language_of
from mailserver.values.reply import Reply
from mailserver.values.session import RecipientFacts
from mailserver.wire.smtp_events import Offer

log = Logger(namespace="mailserver")

PASSWORD_THREADS = 2
"""Threads for password hashes alone: guessing must not keep anybody from reading."""

BLOCKING_THREADS = 4
"""Threads for opening maildrops and for other calls that block."""

SPOOL = "spool"
"""The folder of the spools in the state folder."""

IMPLICIT_TLS = {"submissions", "pop3s"}
ROLES = {"smtp": "smtp", "submission": "submission", "submissions": "submission", "lmtp": "lmtp"}


class MailServer(MultiService):
    """The whole server, or one of several equal ones. Making it opens nothing; ports bind first,
    then, as the user that twistd has changed to, files are opened."""

    def __init__(
        self, settings: Settings, reactor: Any, quick_start: bool = False, place: Place | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._place = place or Place()
        self._given = settings
        self._settings = settings = share_of(settings, self._place.count)
        self._reactor = reactor
        self._quick_start = quick_start
        self._routes = _route_table(settings)
        self._listeners = make_listeners(settings.listen, reactor, self._place.sockets)
        self._house: House | None = None
        self._changing: Changing | None = None

    def privilegedStartService(self) -> None:
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        for listener in self._listeners:
            listener.bind()

    def startService(self) -> None:
        """Open the rooms and let people in. Raises ``StartFailed``."""
        # Twisted's timers follow the wall clock; one that is set back an hour would stop them for it.
        self._reactor.seconds = time.monotonic
        if any(listener.port is None for listener in self._listeners):
            self.privilegedStartService()  # `twist` never calls it
        house = House(self._settings, self._reactor, self._routes, self._place, self._listening)
        house.open()
        favour_the_reactor()
        maillog.write_directly(globalLogPublisher, lambda write: self._reactor.callLater(0, write))
        self._house = house
        for runner in house.runners:
            runner.setServiceParent(self)  # type: ignore[no-untyped-call]
        house.control.setServiceParent(self)  # type: ignore[no-untyped-call]
        super().startService()  # type: ignore[no-untyped-call]
        for listener in self._listeners:
            listener.serve(house.factory(listener.name))
            if self._place.count == 1:
                log.info("listening: {name} on {where}", name=listener.name, where=listener.where)
        self._changing = Changing(self._given, self._change, self._reactor, self._place.path)
        self._changing.answer(house.control)
        on_hangup(self._reactor, self._changing.reread)
        # What a start has made stays: Python's collector need not walk through it while people wait.
        gc.collect()
        gc.freeze()
        if self._quick_start:
            ports = {listener.name: _port(listener) for listener in self._listeners}
            welcome(house.directory, self._settings.domains[0], ports.get("smtp", 0), ports.get("pop3", 0))

    def _change(self, settings: Settings) -> None:
        """Let the next connections meet other settings. Raises ``StartFailed``: nothing was changed."""
        assert self._house is not None
        self._house.change(share_of(settings, self._place.count))
        for listener in self._listeners:
            listener.serve(self._house.factory(listener.name))

    def _listening(self) -> list[tuple[str, int]]:
        """Where other servers reach us: what leads there leads back."""
        places: list[Any] = [
            one.port.getHost() for one in self._listeners if one.name == "smtp" and one.port is not None
        ]
        return [(place.host, place.port) for place in places if hasattr(place, "port")]

    def stopService(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._changing is not None:
            self._changing.stop()
        await DeferredList([listener.close() for listener in self._listeners])
        if self._house is not None:
            await self._house.end_sessions()
            # The relay ends first: the runner waits for what it has under way.
            relay_ended = self._house.relay.stop()
            self._house.deliveries.stop()
            await _wait(MultiService.stopService(self))
            await relay_ended
            self._house.close()
        maillog.write_through_the_logger()


class House:
    """The rooms, opened in the order in which they need each other and closed in the reverse."""

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        routes: RouteTable,
        place: Place,
        listening: Callable[[], list[tuple[str, int]]],
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._place = place
        state = settings.state
        self.disk = Disk()
        self.bridge = Bridge(reactor)
        self.workers = Workers(self.bridge, "blocking", BLOCKING_THREADS)
        self.password_workers = Workers(self.bridge, "passwords", PASSWORD_THREADS)
        self.addresses = self._make_addresses()
        self.directory = self.addresses.directory
        self.store = MailStore(
            settings.store.path,
            settings.store.format,
            self.disk,
            settings.hostname,
            sweeps=place.number == 0,
            quota=quota_of(settings.store),
            undelete_for=settings.store.undelete_for,
            expire_after=settings.pop3.expire * 86400.0,
            expired=maillog.expired,
            language=settings.language,
        )
        self.deliveries = Deliveries(
            settings, reactor, self.bridge, self.directory.resolve, self.store, place.number
        )
        self.spool = self._make_spool(place.number)
        self.access = self._make_access()
        self.submissions = Submissions(settings, self.directory, self.workers, self.bridge, reactor)
        self.suppressing = Suppressing(settings, self.directory, self.workers, reactor)
        self.fetching = Fetching(settings, self.workers, reactor, place)
        self._counts = counts_of(settings, place)
        self.entrance = self._make_entrance()
        self.tracing = Tracing(settings, place.number, self.entrance.rule_names)
        self.auditing = Auditing(settings, self.directory.resolve, self.bridge, reactor)
        self.tls = self._certificate()
        self.certificate_watch = CertificateWatch(self.tls, self.workers, reactor)
        self.outgoing = Outgoing(settings, reactor, self.disk, self.workers, place.number)
        self.relay: RelayAgent = self.outgoing.make_relay(routes, listening)
        self.control = control_of(
            state, reactor, self.relay, settings.hostname, place.number, self.outgoing.memory
        )
        wanted = settings.policy.terminals != "nobody"
        self.terminals = Terminals(reactor, self.workers, self.directory.resolve, wanted)
        self.fetching.answer(self.control)
        self.control.stream("terminal", self.terminals.attach)
        self.runner = self._make_runner(self.spool)
        self.at_once = AtOnce(self.directory, self.deliveries.mailboxes, self.deliveries.is_quick, time.time)
        self.addresses.connect(self.deliveries, self.spool, self.bridge, self.workers, self.runner.accepted)
        self.pickup = self._make_pickup() if place.number == 0 else None
        self.orphans: dict[SqliteSpool, Runner] = {}
        self.queue_start = QueueStart(self.spool, self.bridge, settings.relay.etrn, time.monotonic)
        self._factories: list[SMTPReceiverFactory | Pop3Factory] = []

    # -- opening and closing ---------------------------------------------------------------

    def open(self) -> None:
        """Open files and start threads.

        Raises:
            StartFailed: one of them cannot be opened; the text says which and why.
        """
        settings = self._settings
        try:
            self.disk.make_folder(settings.state)
            if settings.tls is None and self._place.number == 0:
                names = [settings.hostname, *settings.domains]
                ensure_self_signed(self.disk, self.tls.certificate, self.tls.key, names)
            self.tls.load()
            self.addresses.open()
            self.access.open()
            self.entrance.open()
            self.store.start()
            self.deliveries.open()
            self.tracing.open()
            self.spool.start()
            self.outgoing.open(self.spool, self.bridge, self.runner.accepted)
            self.submissions.open(self.spool, self.runner.accepted)
            self.suppressing.open()
            if self.pickup is not None:
                self.pickup.open()
            if self._place.number == 0:
                self._take_over_orphans()
        except (CertificateError, DirectoryUnavailable, SpoolUnusable) as error:
            raise StartFailed(str(error)) from error
        except OSError as error:
            raise StartFailed(
                f"{error.filename or settings.state}: {error.strerror or error}; "
                "the server's user must be able to write there"
            ) from error
        self.workers.start()
        if self._place.number == 0:
            self.addresses.start(self.workers, self._reactor)
        self.fetching.open()
        if self.pickup is not None:
            self.pickup.start()
        self.password_workers.start()
        self.certificate_watch.start()
        self.outgoing.start()
        self.relay.start()
        if self._place.number == 0:
            self.auditing.start()
        for warning in self.tls.warnings(settings.hostname, datetime.datetime.now(datetime.UTC)):
            if settings.tls is not None:
                log.warn("{warning}", warning=warning)

    def _take_over_orphans(self) -> None:
        """Serve the spools of workers that there are no more; their mail goes on its way from here."""
        for number in orphans(self._settings.state / SPOOL, self._place.count):
            log.info("spool {number} has no worker of its own: its mail leaves from here", number=number)
            spool = self._make_spool(number)
            spool.start()
            self.orphans[spool] = runner = self._make_runner(spool)
            runner.name = f"runner of spool {number}"

    @property
    def runners(self) -> list[Runner]:
        return [self.runner, *self.orphans.values()]

    def change(self, settings: Settings) -> None:
        """Take over what counts for the next connection; sessions go on as they began.

        Raises:
            StartFailed: something cannot be used; nothing was changed.
        """
        before, self._settings = self._settings, settings
        try:
            access, entrance, tls = self._make_access(), self._make_entrance(), self._certificate()
            tls.load()
            access.open()
        except (StartFailed, CertificateError, OSError) as error:
            self._settings = before
            raise StartFailed(str(error)) from error
        entrance.succeed(self.entrance)
        self.submissions.close()
        self.certificate_watch.stop()
        self.access, self.entrance, self.tls = access, entrance, tls
        self.submissions = Submissions(settings, self.directory, self.workers, self.bridge, self._reactor)
        self.submissions.open(self.spool, self.runner.accepted)
        self.certificate_watch = CertificateWatch(tls, self.workers, self._reactor)
        self.certificate_watch.start()
        self.queue_start = QueueStart(self.spool, self.bridge, settings.relay.etrn, time.monotonic)
        relay = settings.relay
        schedule = RetrySchedule(relay.retry, relay.warn_after, relay.give_up_after)
        for runner in self.runners:
            runner.change(schedule, schedule.warn_due)
        self._factories = [factory for factory in self._factories if factory.sessions]

    async def end_sessions(self) -> None:
        """Say goodbye to clients; those in the middle of something may finish it."""
        await DeferredList([factory.stop() for factory in self._factories])
        if self.pickup is not None:
            await _wait(self.pickup.stop())

    def close(self) -> None:
        """Close what ``open`` opened, when nothing is under way any more."""
        self.certificate_watch.stop()
        self.auditing.stop()
        self.entrance.close()
        self.fetching.close()
        self.workers.stop()
        self.submissions.close()
        self.suppressing.close()
        self.password_workers.stop()
        self.outgoing.close()
        for spool in (self.spool, *self.orphans):
            spool.stop()
        self.store.stop()
        self.tracing.close()
        self.addresses.close()
        self.disk.close()

    # -- the rooms -------------------------------------------------------------------------

    def _certificate(self) -> ServerTLS:
        own = self._settings.tls
        folder = self._settings.state / "tls"
        return ServerTLS(
            own.certificate if own else folder / "cert.pem",
            own.key if own else folder / "key.pem",
            own.also if own else (),
        )

    def _make_addresses(self) -> Addresses:
        try:
            return Addresses(self._settings)
        except ObjectUnusable as error:
            raise StartFailed(str(error)) from error

    def _make_access(self) -> Access:
        try:
            return Access(
                self._settings,
                self.directory,
                self.password_workers,
                self.workers,
                self._maildrop,
                self._reactor,
            )
        except CheckerUnusable as error:
            raise StartFailed(str(error)) from error

    def _make_entrance(self) -> Entrance:
        try:
            return Entrance(
                self._settings, self._reactor, self.bridge, self.workers, *self._rules(), shared=self._counts
            )
        except EntranceUnusable as error:
            raise StartFailed(str(error)) from error

    def _rules(self) -> list[Callable[[RecipientFacts], Reply | None]]:
        refuse = quota_of(self._settings.store).refuse
        room = recipient_has_room(self.store.over_quota, refuse)
        return [*self.addresses.rules, *self.suppressing.rules, room]

    def _maildrop(self, account: Account, locked: Callable[[], None]) -> IMaildrop:
        # A log-in that waits for the lock may wait for a conversion: then the account has another format.
        now = self.directory.resolve(account.address)
        return self.store.mailbox(now.account if isinstance(now, LocalUser) else account).maildrop(locked)

    def _language_of(self, sender: Address) -> str:
        return language_of(self.directory.resolve, sender) or self._settings.language

    def _make_pickup(self) -> Pickup:
        settings = self._settings
        place = PickupPlace(
            folder=settings.state / DROP,
            hostname=settings.hostname,
            most=settings.limits.message_size,
            spool=self.spool,
            directory=self.directory,
            accepted=self.runner.accepted,
            now=time.time,
        )
        return Pickup(place, self.disk, self.bridge, self.workers, self._reactor)

    def _make_spool(self, worker: int) -> SqliteSpool:
        soon = partial(self._reactor.callLater, 0)
        return SqliteSpool(self._settings.state / SPOOL, self.disk, worker, soon=soon)

    def _make_runner(self, spool: SqliteSpool) -> Runner:
        relay = self._settings.relay
        schedule = RetrySchedule(relay.retry, relay.warn_after, relay.give_up_after)
        ways = Ways(
            directory=self.directory,
            local=self.addresses.local(
                TerminalAgent(self.deliveries.local, self.terminals.show), self.workers
            ),
            remote=self.addresses.remote(self.relay, self.workers),
            retry=schedule,
            reporter=Reporter(self._settings.hostname, schedule.gives_up_at, language_of=self._language_of),
            warn_due=schedule.warn_due,
            failed=self.suppressing.failed,
        )
        return Runner(spool, self.bridge, ways, self._reactor)

    # -- the doors -------------------------------------------------------------------------

    def rehearsal(self, spool: Any, may_receive: Any, role: str) -> SMTPReceiverFactory:
        """What stands behind a listener of this role, with another spool and other rules: for a house that
        is not opened."""
        self.spool, self.entrance.may_receive = spool, may_receive
        tls: Any = None
        with suppress(CertificateError):
            tls = self.tls.listener()
        return self._smtp(role, tls, False)

    @property
    def settings(self) -> Settings:
        """What is in force."""
        return self._settings

    def factory(self, name: str) -> IProtocolFactory:
        """What stands behind one listener."""
        tls = self.tls.listener()
        implicit = name in IMPLICIT_TLS
        factory = self._smtp(name, tls, implicit) if name in ROLES else self._pop3(tls, implicit)
        self._factories.append(factory)
        served = TLSMemoryBIOFactory(tls, False, factory) if implicit else factory
        proxied: IProtocolFactory = self.entrance.proxied(served)
        return proxied

    def _smtp(self, name: str, tls: ListenerTLS, implicit: bool) -> SMTPReceiverFactory:
        settings, role = self._settings, ROLES[name]
        intake = Intake(
            hostname=settings.hostname,
            spool=self.spool,
            directory=self.directory,
            bridge=self.bridge,
            may_receive=self.entrance.may_receive,
            accepted=self.runner.accepted,
            now=time.time,
            submission=self.submissions.submission,
            terminals=self.terminals,
            at_once=self.at_once.attempt,
        )
        offer = Offer(
            hostname=settings.hostname,
            role=role,
            message_size=settings.limits.message_size,
            recipients=settings.limits.recipients,
            starttls=not implicit,
            mechanisms=self.access.mechanisms,
            cleartext_auth=settings.login.allow_cleartext,
            future_release=int(settings.limits.future_release),
            require_tls=True,  # relay/security.py keeps to it, or returns the message
            etrn=bool(settings.relay.etrn) and role == "smtp",
            normalize=name in settings.limits.normalize,
            messages=settings.limits.messages_by_session,
            domains=settings.limits.domains,
            terminals=settings.policy.terminals,
            verify=settings.policy.vrfy,
            expand=settings.policy.expn,
        )
        is_lmtp = role == "lmtp"  # whoever speaks it is a server of the same house
        return SMTPReceiverFactory(
            ReceiverSettings(
                offer=offer,
                intake=intake,
                clock=self._reactor,
                tls=tls,
                implicit_tls=implicit,
                authenticator=self.access.smtp,
                trusted_networks=settings.relay.trusted_networks,
                normalize=settings.limits.normalized_networks,
                closed=name in settings.limits.closed,
                connections=self.entrance.connections,
                times=self.entrance.times,
                pressed_times=self.entrance.pressed_times,
                rates=None if is_lmtp else self.entrance.rates,
                lookups=None if is_lmtp else self.entrance.lookups,
                start_queue=self.queue_start,
                address_book=AddressBook(self.directory.resolve, settings.domains),
            )
        )

    def _pop3(self, tls: ListenerTLS, implicit: bool) -> Pop3Factory:
        settings = self._settings
        return Pop3Factory(
            Pop3Settings(
                hostname=settings.hostname,
                authenticator=self.access.pop3,
                mechanisms=self.access.mechanisms,
                workers=self.workers,
                clock=self._reactor,
                tls=None if implicit else tls,
                implicit_tls=implicit,
                allow_cleartext=settings.login.allow_cleartext,
                connections=self.entrance.connections,
                occupants=self.fetching.occupants,
                login_times=self.fetching.login_times,
                visited=self.fetching.visited,
                expire=settings.pop3.expire,
                apop=settings.pop3.apop,
                proxies=settings.pop3.xclient,
            )
        )


def quota_of(store: Store) -> QuotaLimits:
    """What ``[store]`` says of quotas."""
    return QuotaLimits(store.quota, store.quota_messages, store.quotas, store.when_full == "refuse")


def _route_table(settings: Settings) -> RouteTable:
    try:
        return RouteTable(settings.relay.routes)
    except ValueError as error:
        raise StartFailed(str(error)) from None


def _port(listener: Listener) -> int:
    return 0 if listener.port is None else getattr(listener.port.getHost(), "port", 0)


async def _wait(result: Any) -> None:
    if isinstance(result, Deferred):
        await result
