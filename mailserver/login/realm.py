"""What a log-in gives: the avatars of SMTP AUTH and POP3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailserver.interfaces import IMaildrop, IMaildropOwner, ISubmitter
from mailserver.threads import Workers
from mailserver.values.account import Account

MaildropOf = Callable[[Account, Callable[[], None]], IMaildrop]
"""What locks and opens an account's maildrop, in a thread; calls its second argument in between."""


def _nothing_to_do() -> None:
    """Between lock and snapshot."""


@implementer(ISubmitter)
class Submitter:
    """Somebody who may submit mail."""

    def __init__(self, account: Account) -> None:
        self.account = account


@implementer(IMaildropOwner)
class MaildropOwner:
    """Somebody with a mailbox."""

    def __init__(self, account: Account, workers: Workers, maildrop_of: MaildropOf) -> None:
        self.account = account
        self._workers = workers
        self._maildrop_of = maildrop_of

    def maildrop(self, locked: Callable[[], None] = _nothing_to_do) -> Deferred[IMaildrop]:
        """Lock and open, in a thread; who gets the maildrop releases it."""
        return self._workers.call(self._maildrop_of, self.account, locked)


@implementer(IRealm)
class MailRealm:
    """Makes of an account what the protocol asks for."""

    def __init__(self, workers: Workers, maildrop_of: MaildropOf) -> None:
        self._workers = workers
        self._maildrop_of = maildrop_of

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> Any:
        if IMaildropOwner in interfaces:
            owner = MaildropOwner(avatarId, self._workers, self._maildrop_of)
            return IMaildropOwner, owner, _nothing_to_undo
        if ISubmitter in interfaces:
            return ISubmitter, Submitter(avatarId), _nothing_to_undo
        raise NotImplementedError(f"none of {interfaces} can be logged in for")


def _nothing_to_undo() -> None:
    """Logging out: whoever opened a maildrop has released it."""
