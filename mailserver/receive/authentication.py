"""SMTP AUTH: what an exchange comes to, as replies (RFC 4954 §4, §6)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from mailserver import maillog
from mailserver.interfaces import IAuthenticator, ILogin, LoggedIn, LoginRefused
from mailserver.values.reply import Reply, reply
from mailserver.values.session import SessionFacts
from mailserver.wire.sasl import Challenge

WELCOME = reply(235, "2.7.0", "Authentication succeeded")
CANCELLED = reply(501, "5.7.0", "Authentication cancelled")
WRONG = reply(535, "5.7.8", "Authentication failed: wrong user name or password")
UNAVAILABLE = reply(454, "4.7.0", "Passwords cannot be checked now; please try again later")


class Exchange:
    """One AUTH command, from its mechanism to its reply."""

    def __init__(self, authenticator: IAuthenticator, session: SessionFacts, mechanism: str) -> None:
        self._session = session
        self._login: ILogin = authenticator.begin(
            mechanism, session.client_host, session.tls, lambda: session.gone
        )

    def step(self, response: bytes | None) -> Any:
        """Take a response: a ``Challenge`` to send, a ``Reply``, or a ``Deferred`` that gives one."""
        result: Any = self._login.step(response)
        if isinstance(result, Deferred):
            return result.addCallback(self._answer)
        return self._answer(result)

    def _answer(self, result: Challenge | LoggedIn | LoginRefused) -> Challenge | Reply:
        if isinstance(result, LoggedIn):
            session = self._session
            session.account = result.avatar.account
            maillog.login("smtp", session.client_host, result.username, session.tls is not None)
            return WELCOME
        return _refusal(result) if isinstance(result, LoginRefused) else result


def _refusal(refused: LoginRefused) -> Reply:
    if refused.reason == "malformed":
        return reply(501, "5.5.2", refused.text)
    if refused.reason == "forbidden":
        return reply(535, "5.7.8", refused.text)
    return UNAVAILABLE if refused.reason == "unavailable" else WRONG
