"""Passwords that somebody else checks: the twisted.cred checkers that ``--auth`` names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.cred.checkers import ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin, UnhandledCredentials
from twisted.cred.strcred import StrcredException, makeChecker
from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import implementer

from mailserver import maillog
from mailserver.interfaces import IDirectory, LoginUnavailable
from mailserver.login.proofs import look_up
from mailserver.login.tokens import CheckerUnusable
from mailserver.values.account import Account, LocalUser
from mailserver.values.address import Address

PLAIN_MECHANISMS = ("PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2")
"""What can be offered where passwords are checked elsewhere: nothing here knows what SCRAM needs."""


def checkers_from(descriptions: Sequence[str]) -> list[Any]:
    """The checkers that descriptions like ``file:/etc/mail.passwd`` or ``memory:ada:secret`` name.

    Raises:
        CheckerUnusable: one of them names none, or one that takes no user name and password.
    """
    checkers = []
    for description in descriptions:
        kind = description.partition(":")[0]  # what follows may be a password
        try:
            checker: Any = makeChecker(description)
        except (StrcredException, ValueError, OSError, TypeError) as error:
            reason = f"{type(error).__name__}: see `twistd mailserver --help-auth-type {kind}`"
            raise CheckerUnusable(f"--auth {kind}: {reason}") from error
        if IUsernamePassword not in checker.credentialInterfaces:
            raise CheckerUnusable(f"--auth {kind} takes no user name and password; name another")
        if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
            # Made from a description it holds text, which no name or password of ours equals.
            checker.users = {_octets(name): _octets(word) for name, word in checker.users.items()}
        checkers.append(checker)
    return checkers


def _octets(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


@implementer(ICredentialsChecker)
class GivenChecker:
    """Asks ``checkers`` in turn; who is known to one of them logs in as the account of that name."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, checkers: Sequence[Any], directory: IDirectory, domains: Sequence[str]) -> None:
        self._checkers = checkers
        self._directory = directory
        self._domains = domains

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """The ``Account``; fails with ``UnauthorizedLogin`` or ``LoginUnavailable``."""
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Any) -> Account:
        faults = 0
        for checker in self._checkers:
            try:
                name = await maybeDeferred(checker.requestAvatarId, credentials)
            except (UnauthorizedLogin, UnhandledCredentials):
                continue
            except Exception as error:
                maillog.fault("a checker that --auth names", error)
                faults += 1
                continue
            if name:  # twisted.cred's empty avatar id is the anonymous one
                return self._account(name.decode() if isinstance(name, bytes) else str(name))
        if faults:
            raise LoginUnavailable
        raise UnauthorizedLogin

    def _account(self, name: str) -> Account:
        """The account of a name that is right; without one here there is no mailbox to log in to."""
        found = look_up(self._directory, name)
        if found is not None:
            return found[0]
        local, _, domain = name.rpartition("@")
        wanted = [Address(local, domain)] if local else [Address(domain, ours) for ours in self._domains]
        try:
            answers = [self._directory.resolve(address) for address in wanted]
        except Exception as error:
            maillog.fault("looking up who has logged in", error)
            raise LoginUnavailable from error
        accounts = [one.account for one in answers if isinstance(one, LocalUser) and not one.account.deliver]
        if len(accounts) != 1:
            raise UnauthorizedLogin
        return accounts[0]
