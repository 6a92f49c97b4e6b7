"""USER and PASS, APOP, AUTH: from what a client sends to who it is, or to a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from mailserver.interfaces import IAuthenticator, ILogin, LoggedIn, LoginRefused
from mailserver.values.session import TLSFacts
from mailserver.wire.pop3_events import Apop, AuthBegin, AuthResponse, LogIn
from mailserver.wire.pop3_server import Pop3Server
from mailserver.wire.sasl import Challenge


class LoggingIn:
    """One session's attempts; ``is_gone`` tells that nobody waits for an answer."""

    def __init__(
        self, authenticator: IAuthenticator, machine: Pop3Server, is_gone: Callable[[], bool]
    ) -> None:
        self._authenticator = authenticator
        self._machine = machine
        self._is_gone = is_gone
        self._exchange: ILogin | None = None

    def ask(
        self, event: LogIn | Apop | AuthBegin | AuthResponse, host: str, tls: TLSFacts | None
    ) -> Deferred[Any] | None:
        """What ``answer`` waits for; ``None`` when the client has been asked for more already."""
        if isinstance(event, LogIn):
            return self._authenticator.log_in(event.username, event.password, host, self._is_gone)
        if isinstance(event, Apop):
            return self._authenticator.log_in_by(event.response, "APOP", host, self._is_gone)
        if isinstance(event, AuthBegin):
            self._exchange = self._authenticator.begin(event.mechanism, host, tls, self._is_gone)
            return self._step(event.initial)
        return self._step(event.octets)

    def _step(self, response: bytes | None) -> Deferred[Any] | None:
        assert self._exchange is not None
        result: Any = self._exchange.step(response)
        if isinstance(result, Challenge):
            self._machine.challenge(result.octets)
            return None
        return result if isinstance(result, Deferred) else succeed(result)

    def answer(self, result: Challenge | LoggedIn | LoginRefused) -> LoggedIn | None:
        """Who has logged in; ``None`` after a challenge or a refusal, which the machine has."""
        if isinstance(result, LoggedIn):
            return result
        if isinstance(result, Challenge):
            self._machine.challenge(result.octets)
        elif result.reason == "malformed":
            self._machine.auth_failed(result.text)
        elif result.reason == "unavailable":
            self._machine.login_refused("SYS/TEMP", "Passwords cannot be checked now", counts=False)
        else:
            self._machine.login_refused("AUTH", result.text or "Wrong user name or password")
        return None
