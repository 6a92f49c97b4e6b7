"""What stands behind each listener: the rooms become the settings of its sessions."""

from __future__ import annotations

import time
from typing import Any, Protocol

from twisted.internet.interfaces import IProtocolFactory

from mailserver.assembly.access import Access
from mailserver.assembly.entrance import Entrance
from mailserver.assembly.fetching import Fetching
from mailserver.assembly.straight_tls import StraightTLSFactory, begin_tls, start_tls
from mailserver.assembly.submissions import Submissions
from mailserver.certificates import (
    ListenerTLS,
    ServerTLS,
)
from mailserver.config import Settings
from mailserver.dispatch.at_once import AtOnce
from mailserver.dispatch.runner import Runner
from mailserver.group_commit import GroupCommit
from mailserver.interfaces import IDirectory, ISpool
from mailserver.receive.address_book import AddressBook
from mailserver.receive.queue_start import QueueStart
from mailserver.receive.session import ReceiverSettings
from mailserver.receive.smtp import SMTPReceiverFactory
from mailserver.receive.transaction import Intake
from mailserver.retrieve.pop3 import Pop3Factory
from mailserver.retrieve.settings import Pop3Settings
from mailserver.terminals.registry import Terminals
from mailserver.threads import Bridge, Workers
from mailserver.wire.smtp_events import Offer

IMPLICIT_TLS = {"submissions", "pop3s"}
ROLES = {"smtp": "smtp", "submission": "submission", "submissions": "submission", "lmtp": "lmtp"}


class Rooms(Protocol):
    """``house.House``, as far as sessions need it."""

    settings: Settings
    directory: IDirectory
    bridge: Bridge
    group_commit: GroupCommit
    workers: Workers
    entrance: Entrance
    runner: Runner
    submissions: Submissions
    terminals: Terminals
    at_once: AtOnce
    access: Access
    fetching: Fetching
    queue_start: QueueStart
    tls: ServerTLS

    @property
    def spool(self) -> ISpool: ...


class Doors:
    """Makes the factories of listeners, from what is in force when it is asked."""

    def __init__(self, rooms: Rooms, reactor: Any) -> None:
        self._rooms = rooms
        self._reactor = reactor
        self.factories: list[SMTPReceiverFactory | Pop3Factory] = []

    def factory(self, name: str) -> IProtocolFactory:
        """What stands behind one listener."""
        tls = self._rooms.tls.listener()
        implicit = name in IMPLICIT_TLS
        factory = self.smtp(name, tls, implicit) if name in ROLES else self._pop3(tls, implicit)
        self.factories.append(factory)
        served = StraightTLSFactory(tls, False, factory) if implicit else factory
        proxied: IProtocolFactory = self._rooms.entrance.proxied(served)
        return proxied

    def smtp(self, name: str, tls: ListenerTLS, implicit: bool) -> SMTPReceiverFactory:
        """What answers SMTP and LMTP on the listener ``name``."""
        settings, role = self._rooms.settings, ROLES[name]
        intake = Intake(
            hostname=settings.hostname,
            spool=self._rooms.spool,
            directory=self._rooms.directory,
            bridge=self._rooms.bridge,
            may_receive=self._rooms.entrance.may_receive,
            accepted=self._rooms.runner.accepted,
            now=time.time,
            submission=self._rooms.submissions.submission,
            terminals=self._rooms.terminals,
            at_once=self._rooms.at_once.attempt,
            group=self._rooms.group_commit,
        )
        offer = Offer(
            hostname=settings.hostname,
            role=role,
            message_size=settings.limits.message_size,
            recipients=settings.limits.recipients,
            starttls=not implicit,
            mechanisms=self._rooms.access.mechanisms,
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
                start_tls=start_tls,
                authenticator=self._rooms.access.smtp,
                trusted_networks=settings.relay.trusted_networks,
                normalize=settings.limits.normalized_networks,
                closed=name in settings.limits.closed,
                connections=self._rooms.entrance.connections,
                times=self._rooms.entrance.times,
                pressed_times=self._rooms.entrance.pressed_times,
                rates=None if is_lmtp else self._rooms.entrance.rates,
                lookups=None if is_lmtp else self._rooms.entrance.lookups,
                start_queue=self._rooms.queue_start,
                address_book=AddressBook(self._rooms.directory.resolve, settings.domains),
            )
        )

    def _pop3(self, tls: ListenerTLS, implicit: bool) -> Pop3Factory:
        settings = self._rooms.settings
        return Pop3Factory(
            Pop3Settings(
                hostname=settings.hostname,
                authenticator=self._rooms.access.pop3,
                mechanisms=self._rooms.access.mechanisms,
                workers=self._rooms.workers,
                clock=self._reactor,
                tls=None if implicit else tls,
                implicit_tls=implicit,
                start_tls=begin_tls,
                allow_cleartext=settings.login.allow_cleartext,
                connections=self._rooms.entrance.connections,
                occupants=self._rooms.fetching.occupants,
                login_times=self._rooms.fetching.login_times,
                visited=self._rooms.fetching.visited,
                expire=settings.pop3.expire,
                apop=settings.pop3.apop,
                proxies=settings.pop3.xclient,
            )
        )
