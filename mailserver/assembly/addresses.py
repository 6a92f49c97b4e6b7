"""Settings become who is here: the directory, forwards, mailing lists, and out-of-office answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from mailserver import maillog
from mailserver.accounts.away import FILE_NAME as AWAY
from mailserver.accounts.away import AnswersGiven
from mailserver.accounts.directory import FILE_NAME, SqliteDirectory
from mailserver.accounts.errors import AlreadyExists, DirectoryUnavailable, NotFound
from mailserver.accounts.files import FileDirectory
from mailserver.accounts.list_tokens import ListTokens
from mailserver.accounts.login_key import LoginKey
from mailserver.accounts.srs import Srs
from mailserver.assembly.deliveries import Deliveries
from mailserver.assembly.own_objects import find
from mailserver.config import Settings
from mailserver.deliver.away import Answers
from mailserver.deliver.forwarded import ForwardingAgent
from mailserver.deliver.listed import ListedAgent
from mailserver.deliver.robots import BounceRobot, RequestRobot, RobotPlace
from mailserver.interfaces import IDeliveryAgent, IDirectory, ISpool
from mailserver.policy.posting import posting
from mailserver.threads import Bridge, Workers
from mailserver.values.account import Elsewhere
from mailserver.values.address import Address, address_from
from mailserver.values.envelope import Entry, Envelope

KEY = "addresses.key"
"""The key of rewritten and made addresses, in the state folder. Another key: bounces of mail that is
under way find nobody."""

SWEEP_SECONDS = 600.0
"""How often aliases whose time is over are removed; they are not used from the second on that it is over."""


class Addresses:
    """Making it opens nothing.

    Raises:
        ObjectUnusable: ``directory`` names something that cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key = LoginKey(settings.state / KEY)
        self._srs = Srs(lambda: self._key.derive("srs"), time.time) if settings.addresses.srs else None
        self.tokens = ListTokens(lambda: self._key.derive("lists"), time.time, settings.lists.unsubscribe_url)
        self.directory = directory_of(settings, self._srs)
        self._sweeping: LoopingCall | None = None

    def open(self) -> None:
        """Read the key and open the directory.

        Raises:
            OSError, DirectoryUnavailable: one of them cannot be opened.
        """
        self._key.open()
        self.directory.open()

    @property
    def rules(self) -> list[Any]:
        """What is asked at RCPT."""
        return [posting(self.directory.resolve)]

    def local(self, inner: IDeliveryAgent, workers: Workers) -> IDeliveryAgent:
        """``inner``, dressed for mailing lists."""
        return ListedAgent(inner, self.directory.resolve, self.tokens, self._counter(workers), each=False)

    def remote(self, inner: IDeliveryAgent, workers: Workers) -> IDeliveryAgent:
        """``inner``, dressed for mailing lists and forwards."""
        forwarding = ForwardingAgent(inner, self._rewritten)
        return ListedAgent(forwarding, self.directory.resolve, self.tokens, self._counter(workers), each=True)

    def connect(
        self,
        deliveries: Deliveries,
        spool: ISpool,
        bridge: Bridge,
        workers: Workers,
        accepted: Callable[[Entry], None],
    ) -> None:
        """Let lists and people who are away answer; answers go into ``spool``."""
        settings = self._settings

        async def spooled(envelope: Envelope, content: bytes, about: Entry) -> None:
            writer = spool.begin()
            writer.write(content)
            entry = await bridge.deferred(writer.commit(envelope))
            maillog.notice_spooled(entry, about)
            accepted(entry)

        def send(envelope: Envelope, content: bytes, about: Entry) -> Deferred[None]:
            return Deferred.fromCoroutine(spooled(envelope, content, about))

        given = AnswersGiven(settings.state / AWAY, time.time)
        answers = Answers(given.claim, workers, send, settings.hostname, settings.language, time.time)
        deliveries.answer = answers.delivered
        if isinstance(self.directory, SqliteDirectory):
            place = RobotPlace(
                self.directory,
                self.tokens,
                workers,
                send,
                settings.hostname,
                time.time,
                settings.lists.bounce_limit,
                NotFound,
                AlreadyExists,
            )
            deliveries.robot = lambda deliver: _robot(place, deliver)

    def start(self, workers: Workers, clock: Any) -> None:
        """Remove temporary aliases when their time is over."""
        if isinstance(self.directory, SqliteDirectory):
            self._sweeping = LoopingCall(self._sweep, workers)
            self._sweeping.clock = clock
            self._sweeping.start(SWEEP_SECONDS)

    def close(self) -> None:
        """Close the directory."""
        if self._sweeping is not None and self._sweeping.running:
            self._sweeping.stop()
        self.directory.close()

    def _sweep(self, workers: Workers) -> Deferred[None]:
        swept = workers.call(self.directory.sweep)

        def said(gone: tuple[Address, ...]) -> None:
            for address in gone:
                maillog.log.info("the alias {address} has ended", address=str(address))

        return swept.addCallbacks(
            said, lambda failure: maillog.fault("removing aliases that have ended", failure.value)
        )

    def _counter(self, workers: Workers) -> Callable[[Address, Address], object]:
        """Counts copies that failed at once, without a report from elsewhere."""
        limit = self._settings.lists.bounce_limit

        def bounced(mailing_list: Address, member: Address) -> None:
            counted = workers.call(self.directory.bounced, mailing_list, member, limit)
            # No member, but what an alias that is one leads to: nobody to count.
            counted.addErrback(lambda failure: failure.trap(NotFound) and None)
            counted.addErrback(lambda failure: maillog.fault("counting a bounce", failure.value))

        return bounced

    def _rewritten(self, sender: Address, domain: str) -> Address | None:
        if self._srs is None or not isinstance(self.directory.resolve(sender), Elsewhere):
            return None
        return self._srs.rewritten(sender, domain)


def directory_of(settings: Settings, srs: Srs | None = None) -> Any:
    """What ``directory`` names, closed.

    Raises:
        ObjectUnusable: it cannot be used.
    """
    separator, hostname = settings.addresses.separator, settings.hostname
    if settings.directory == "sqlite":
        path = settings.state / FILE_NAME
        return SqliteDirectory(path, settings.domains, separators=separator, srs=srs, hostname=hostname)
    if settings.directory == "files":
        return FileDirectory(
            settings.files.passwd,
            settings.files.aliases,
            settings.domains,
            separator,
            srs,
            maillog.log.warn,
            hostname=hostname,
        )
    return Own(find(settings.directory, IDirectory, "directory", settings.policy.rules_folder))


class Own:
    """A user's own directory, with what it may leave out: ``open``, ``close`` and ``users``."""

    def __init__(self, directory: Any) -> None:
        self.resolve = directory.resolve
        self.secrets = directory.secrets
        self.password_hash = directory.password_hash
        self._directory = directory

    def open(self) -> None:
        try:
            self._call("open")
        except Exception as error:  # a user's own object may raise anything
            raise DirectoryUnavailable(f"directory: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        self._call("close")

    def users(self) -> Any:
        return self._call("users") or ()

    def _call(self, name: str) -> Any:
        method = getattr(self._directory, name, None)
        return method() if method is not None else None


def _robot(place: RobotPlace, deliver: str) -> IDeliveryAgent:
    _, kind, name = deliver.split(":", 2)
    robot: IDeliveryAgent = (RequestRobot if kind == "request" else BounceRobot)(place, address_from(name))
    return robot
