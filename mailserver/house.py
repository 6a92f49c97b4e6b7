"""The rooms of one process: made, connected, opened and closed. Only this file knows every one of them."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from mailserver import maillog
from mailserver.accounts.errors import DirectoryUnavailable
from mailserver.assembly.access import Access
from mailserver.assembly.addresses import Addresses
from mailserver.assembly.answers import control_of
from mailserver.assembly.auditing import Auditing
from mailserver.assembly.deliveries import Deliveries
from mailserver.assembly.doors import Doors
from mailserver.assembly.entrance import Entrance, EntranceUnusable
from mailserver.assembly.fetching import Fetching
from mailserver.assembly.outgoing import Outgoing
from mailserver.assembly.own_objects import ObjectUnusable
from mailserver.assembly.sharing import counts_of
from mailserver.assembly.submissions import Submissions
from mailserver.assembly.suppressing import Suppressing
from mailserver.assembly.tracing import Tracing
from mailserver.certificates import (
    CertificateError,
    CertificateWatch,
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
from mailserver.group_commit import GroupCommit
from mailserver.interfaces import IMaildrop
from mailserver.listeners import Place, StartFailed
from mailserver.login import CheckerUnusable
from mailserver.policy.rules import recipient_has_room
from mailserver.receive.queue_start import QueueStart
from mailserver.receive.smtp import SMTPReceiverFactory
from mailserver.relay.agent import RelayAgent
from mailserver.relay.routes import RouteTable
from mailserver.shared_counts import SharedCounts
from mailserver.spool.orphans import orphans
from mailserver.spool.retries import RetrySchedule
from mailserver.spool.sqlite import SpoolUnusable, SqliteSpool
from mailserver.store.mailstore import MailStore
from mailserver.store.quota import QuotaLimits
from mailserver.terminals.registry import Terminals
from mailserver.threads import Bridge, Workers
from mailserver.values.account import Account, LocalUser
from mailserver.values.address import Address
from mailserver.values.expansion import language_of
from mailserver.values.reply import Reply
from mailserver.values.session import RecipientFacts

log = Logger(namespace="mailserver")

PASSWORD_THREADS = 2
"""Threads for password hashes alone: guessing must not keep anybody from reading."""

BLOCKING_THREADS = 4
"""Threads for opening maildrops and for other calls that block."""

SPOOL = "spool"
"""The folder of the spools in the state folder."""


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
        self.settings = settings
        self._reactor = reactor
        self._place = place
        state = settings.state
        self.disk = Disk()
        self.bridge = Bridge(reactor)
        self.group_commit = GroupCommit(self.bridge)
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
            group=self.group_commit,
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
        self.doors = Doors(self, reactor)

    @property
    def share(self) -> SharedCounts | None:
        """What of the new connections each worker takes; ``None`` where there is one alone."""
        return self._counts

    # -- opening and closing ---------------------------------------------------------------

    def open(self) -> None:
        """Open files and start threads.

        Raises:
            StartFailed: one of them cannot be opened; the text says which and why.
        """
        settings = self.settings
        try:
            self.disk.make_folder(settings.state)
            # First of all, for its lock tells whether another server lives here: what that one has under
            # way, its commands and its trace, is not ours to touch.
            self.spool.start()
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
        for number in orphans(self.settings.state / SPOOL, self._place.count):
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
        before, self.settings = self.settings, settings
        try:
            access, entrance, tls = self._make_access(), self._make_entrance(), self._certificate()
            tls.load()
            access.open()
        except (StartFailed, CertificateError, OSError) as error:
            self.settings = before
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
        self.doors.factories = [factory for factory in self.doors.factories if factory.sessions]

    async def end_sessions(self) -> None:
        """Say goodbye to clients; those in the middle of something may finish it."""
        await DeferredList([factory.stop() for factory in self.doors.factories])
        if self.pickup is not None:
            await wait(self.pickup.stop())

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
        own = self.settings.tls
        folder = self.settings.state / "tls"
        return ServerTLS(
            own.certificate if own else folder / "cert.pem",
            own.key if own else folder / "key.pem",
            own.also if own else (),
        )

    def _make_addresses(self) -> Addresses:
        try:
            return Addresses(self.settings)
        except ObjectUnusable as error:
            raise StartFailed(str(error)) from error

    def _make_access(self) -> Access:
        try:
            return Access(
                self.settings,
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
                self.settings, self._reactor, self.bridge, self.workers, *self._rules(), shared=self._counts
            )
        except EntranceUnusable as error:
            raise StartFailed(str(error)) from error

    def _rules(self) -> list[Callable[[RecipientFacts], Reply | None]]:
        refuse = quota_of(self.settings.store).refuse
        room = recipient_has_room(self.store.over_quota, refuse)
        return [*self.addresses.rules, *self.suppressing.rules, room]

    def _maildrop(self, account: Account, locked: Callable[[], None]) -> IMaildrop:
        # A log-in that waits for the lock may wait for a conversion: then the account has another format.
        now = self.directory.resolve(account.address)
        return self.store.mailbox(now.account if isinstance(now, LocalUser) else account).maildrop(locked)

    def _language_of(self, sender: Address) -> str:
        return language_of(self.directory.resolve, sender) or self.settings.language

    def _make_pickup(self) -> Pickup:
        settings = self.settings
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
        return SqliteSpool(self.settings.state / SPOOL, self.disk, worker, group=self.group_commit)

    def _make_runner(self, spool: SqliteSpool) -> Runner:
        relay = self.settings.relay
        schedule = RetrySchedule(relay.retry, relay.warn_after, relay.give_up_after)
        ways = Ways(
            directory=self.directory,
            local=self.addresses.local(
                TerminalAgent(self.deliveries.local, self.terminals.show), self.workers
            ),
            remote=self.addresses.remote(self.relay, self.workers),
            retry=schedule,
            reporter=Reporter(self.settings.hostname, schedule.gives_up_at, language_of=self._language_of),
            warn_due=schedule.warn_due,
            failed=self.suppressing.failed,
        )
        return Runner(spool, self.bridge, ways, self._reactor)

    def rehearsal(self, spool: Any, may_receive: Any, role: str) -> SMTPReceiverFactory:
        """What stands behind a listener of this role, with another spool and other rules: for a house that
        is not opened."""
        self.spool, self.entrance.may_receive = spool, may_receive
        tls: Any = None
        with suppress(CertificateError):
            tls = self.tls.listener()
        return self.doors.smtp(role, tls, False)


def quota_of(store: Store) -> QuotaLimits:
    """What ``[store]`` says of quotas."""
    return QuotaLimits(store.quota, store.quota_messages, store.quotas, store.when_full == "refuse")


async def wait(result: Any) -> None:
    """For what may be a Deferred, as Twisted's ``stopService``."""
    if isinstance(result, Deferred):
        await result
