"""SMTP AUTH: a SASL exchange that ends in a log-in, or in a reply that says why not (RFC 4954)."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from mailserver import maillog
from mailserver.interfaces import ISubmitter, LoginUnavailable
from mailserver.values.account import Account
from mailserver.values.reply import reply
from mailserver.values.session import SessionFacts
from mailserver.wire.sasl import MECHANISMS, AuthorizationRefused, Challenge, PlainCredentials, SaslError

WELCOME = reply(235, "2.7.0", "Authentication succeeded")
CANCELLED = reply(501, "5.7.0", "Authentication cancelled")
WRONG = reply(535, "5.7.8", "Authentication failed: wrong user name or password")
UNAVAILABLE = reply(454, "4.7.0", "Passwords cannot be checked now; please try again later")


class Penalty(Protocol):
    """What wrong passwords cost, by network."""

    def wait_for(self, host: str) -> float:
        """Seconds before the next answer."""
        ...

    def failed(self, host: str) -> None: ...

    def succeeded(self, host: str) -> None: ...


class Authenticator:
    """Makes one exchange after another for the sessions of one factory."""

    def __init__(self, portal: Portal, penalty: Penalty, clock: IReactorTime) -> None:
        self._portal = portal
        self._penalty = penalty
        self._clock = clock

    def begin(self, mechanism: str) -> Exchange:
        """An exchange for a mechanism that the machine has found to be on offer."""
        return Exchange(self, mechanism)

    async def log_in(self, session: SessionFacts, mechanism: str, credentials: PlainCredentials) -> Any:
        """The reply; on success ``session.account`` is set."""
        host = session.client_host
        wait = self._penalty.wait_for(host)
        if wait:
            await deferLater(self._clock, wait)
        try:
            account = await self._account(credentials)
        except UnauthorizedLogin:
            self._penalty.failed(host)
            maillog.login_failed("smtp", host, credentials.username, mechanism)
            return WRONG
        except LoginUnavailable:
            return UNAVAILABLE
        except Exception as error:
            maillog.fault("checking a password", error)
            return UNAVAILABLE
        self._penalty.succeeded(host)
        session.account = account
        maillog.login("smtp", host, credentials.username, session.tls is not None)
        return WELCOME

    async def _account(self, credentials: PlainCredentials) -> Account:
        name, password = credentials.username.encode(), credentials.password.encode()
        avatar: Any
        _, avatar, logout = await self._portal.login(UsernamePassword(name, password), None, ISubmitter)
        logout()
        account: Account = avatar.account
        return account


class Exchange:
    """One AUTH command, from its mechanism to its reply."""

    def __init__(self, authenticator: Authenticator, mechanism: str) -> None:
        self._authenticator = authenticator
        self._name = mechanism
        self._mechanism = MECHANISMS[mechanism]()

    def step(self, session: SessionFacts, response: bytes | None) -> Any:
        """Take a response: a ``Challenge`` to send, a ``Reply``, or a ``Deferred`` that gives one."""
        try:
            result = self._mechanism.step(response)
        except AuthorizationRefused as error:
            return reply(535, "5.7.8", str(error))
        except SaslError as error:
            return reply(501, "5.5.2", str(error))
        if isinstance(result, Challenge):
            return result
        return Deferred.fromCoroutine(self._authenticator.log_in(session, self._name, result))
