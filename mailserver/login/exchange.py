"""One SASL exchange after another, from a mechanism's name to a log-in or a refusal (RFC 4422)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from mailserver import maillog
from mailserver.interfaces import IAuthenticator, ILogin, LoggedIn, LoginRefused, LoginUnavailable
from mailserver.login.penalty import MOST_WAIT, LoginPenalty
from mailserver.values.session import TLSFacts
from mailserver.wire import sasl_mechanisms
from mailserver.wire.sasl import AuthorizationRefused, Challenge, Credentials, PlainCredentials, SaslError
from mailserver.wire.sasl_mechanisms import Surroundings

Answer = Challenge | LoggedIn | LoginRefused

WRONG = LoginRefused("wrong")
UNAVAILABLE = LoginRefused("unavailable")


@implementer(IAuthenticator)
class Authenticator:
    """Log-in for the listeners of one protocol.

    ``gives`` is the avatar's interface; ``around`` holds the mechanisms that are offered, and what
    they need; the channel binding is each connection's own.
    """

    def __init__(
        self,
        portal: Portal,
        penalty: LoginPenalty,
        clock: IReactorTime,
        protocol: str,
        gives: Any,
        around: Surroundings,
    ) -> None:
        self.protocol = protocol
        self._portal = portal
        self._penalty = penalty
        self._clock = clock
        self._gives = gives
        self._around = around

    def begin(self, mechanism: str, host: str, tls: TLSFacts | None, gone: Callable[[], bool]) -> Exchange:
        """See ``IAuthenticator``."""
        around = self._around
        offered = sasl_mechanisms.usable(around.mechanisms, tls is not None)
        here = Surroundings(
            hostname=around.hostname,
            verifier=around.verifier,
            mechanisms=offered,
            binding=tls.binding if tls else sasl_mechanisms.no_binding,
            token_failure=around.token_failure,
        )
        return Exchange(self, mechanism, host, gone, here)

    def log_in(
        self, username: str, password: str, host: str, gone: Callable[[], bool]
    ) -> Deferred[LoggedIn | LoginRefused]:
        """See ``IAuthenticator``."""
        credentials = PlainCredentials(username, password)
        return Deferred.fromCoroutine(self.check(credentials, "USER", host, gone))

    def log_in_by(
        self, credentials: Any, mechanism: str, host: str, gone: Callable[[], bool]
    ) -> Deferred[LoggedIn | LoginRefused]:
        """See ``IAuthenticator``."""
        return Deferred.fromCoroutine(self.check(credentials, mechanism, host, gone))

    async def check(
        self, credentials: Credentials, mechanism: str, host: str, gone: Callable[[], bool]
    ) -> LoggedIn | LoginRefused:
        """Whether credentials are right, after the time that earlier failures cost."""
        wait = self._penalty.wait_for(host, credentials.username)
        if wait > MOST_WAIT:
            return UNAVAILABLE
        if wait:
            await deferLater(self._clock, wait)
        if gone():
            return UNAVAILABLE  # a guess that nobody waits for is not worth our processor's time
        avatar: Any
        try:
            _, avatar, _ = await self._portal.login(_for_cred(credentials), None, self._gives)
        except UnauthorizedLogin:
            self._penalty.failed(host, credentials.username)
            maillog.login_failed(self.protocol, host, credentials.username, mechanism)
            return WRONG
        except LoginUnavailable:
            return UNAVAILABLE
        except Exception as error:
            maillog.fault("checking a password", error)
            return UNAVAILABLE
        self._penalty.succeeded(host, credentials.username)
        return LoggedIn(avatar, credentials.username or str(avatar.account.address))


@implementer(ILogin)
class Exchange:
    """One AUTH command, from its mechanism to its end."""

    def __init__(
        self,
        authenticator: Authenticator,
        name: str,
        host: str,
        gone: Callable[[], bool],
        around: Surroundings,
    ) -> None:
        self._authenticator = authenticator
        self._name = name
        self._host = host
        self._gone = gone
        self._mechanism = sasl_mechanisms.begin(name, around)
        self._verdict: LoggedIn | LoginRefused | None = None

    def step(self, response: bytes | None) -> Answer | Deferred[Answer]:
        """See ``ILogin``."""
        if self._verdict is not None:
            # The mechanism's last words are out; whatever comes back acknowledges them.
            return self._verdict
        try:
            result: Any = self._mechanism.step(response)
        except AuthorizationRefused as error:
            return LoginRefused("forbidden", str(error))
        except SaslError as error:
            return LoginRefused("malformed", str(error))
        except LoginUnavailable:
            return UNAVAILABLE
        if isinstance(result, Challenge):
            return result
        return Deferred.fromCoroutine(self._check(result))

    async def _check(self, credentials: Credentials) -> Answer:
        verdict = await self._authenticator.check(credentials, self._name, self._host, self._gone)
        if verdict is UNAVAILABLE:
            return verdict
        last = self._mechanism.accepted() if isinstance(verdict, LoggedIn) else self._mechanism.refused()
        if last is None:
            return verdict
        self._verdict = verdict
        return last


def _for_cred(credentials: Credentials) -> Any:
    if isinstance(credentials, PlainCredentials):
        return UsernamePassword(credentials.username.encode(), credentials.password.encode())
    return credentials
