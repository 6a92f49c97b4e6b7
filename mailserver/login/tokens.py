"""Checks bearer tokens, by the object that an administrator has named."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import Interface, classImplements, implementer

from mailserver import maillog
from mailserver.interfaces import IDirectory, LoginUnavailable
from mailserver.login.proofs import look_up
from mailserver.values.account import Account
from mailserver.wire.sasl_tokens import TokenCredentials

TOKEN_SECONDS = 10.0
"""How long the administrator's checker may take over one token."""


class IToken(Interface):
    """``wire.sasl_tokens.TokenCredentials``, as credentials."""


classImplements(TokenCredentials, IToken)


class CheckerUnusable(Exception):
    """The object that is named cannot be used; the text says why."""


def load_checker(name: str, folder: Path | None = None) -> Any:
    """The object behind ``"module:object"``, looked for in ``folder`` first; a class is called without
    arguments.

    Raises:
        CheckerUnusable: there is none, or it lacks ``user_of``.
    """
    module, _, path = name.partition(":")
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        checker = found() if inspect.isclass(found) else found
    except Exception as error:
        raise CheckerUnusable(f"login.oauth = {name!r} cannot be loaded: {error!r}") from error
    if not callable(getattr(checker, "user_of", None)):
        raise CheckerUnusable(f"login.oauth = {name!r} has no user_of(token, username); see ITokenChecker")
    return checker


@implementer(ICredentialsChecker)
class TokenChecker:
    """Asks ``checker`` (an ``ITokenChecker``) who a token is for, and the directory who that is."""

    credentialInterfaces = (IToken,)

    def __init__(self, directory: IDirectory, checker: Any, clock: IReactorTime) -> None:
        self._directory = directory
        self._checker = checker
        self._clock = clock

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """The ``Account``; fails with ``UnauthorizedLogin`` or ``LoginUnavailable``."""
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: TokenCredentials) -> Account:
        try:
            answer = self._checker.user_of(credentials.token, credentials.username)
            name = await self._in_time(answer) if inspect.isawaitable(answer) else answer
        except Exception as error:
            maillog.fault("checking a bearer token", error)
            raise LoginUnavailable from error
        found = look_up(self._directory, name) if isinstance(name, str) and name else None
        if found is None or not self._is_same(credentials.username, found[0]):
            raise UnauthorizedLogin
        return found[0]

    async def _in_time(self, answer: Any) -> Any:
        waiting = answer if isinstance(answer, Deferred) else Deferred.fromCoroutine(_awaited(answer))
        return await waiting.addTimeout(TOKEN_SECONDS, self._clock)

    def _is_same(self, username: str, account: Account) -> bool:
        """Whether the client named nobody else than the token does."""
        if not username:
            return True
        asked = look_up(self._directory, username)
        return asked is not None and asked[0].address.key == account.address.key


async def _awaited(answer: Any) -> Any:
    return await answer
