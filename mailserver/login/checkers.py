"""Checks passwords against the directory, off the reactor."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from typing import Any, Protocol

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver import maillog
from mailserver.interfaces import IDirectory, LoginUnavailable
from mailserver.threads import Workers
from mailserver.values.account import Account

REMEMBERED_SECONDS = 300.0
"""How long a password that was right needs no further Argon2 (50 ms of processor time)."""

MOST_REMEMBERED = 10_000
"""Successes remembered at a time; 100 octets or so each."""

MOST_UNDER_WAY = 256
"""Verifications waiting or running; beyond them, log-in is unavailable for a moment."""


class RecentSuccesses:
    """Passwords that were right a moment ago, as keyed digests that mean nothing elsewhere.

    The stored hash is part of the digest: when it changes, nothing that was remembered fits.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def digest(self, stored: str, login: str, password: str) -> bytes:
        """HMAC-SHA256 over the three, each with its length before it."""
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (stored, login, password):
            octets = part.encode("utf-8", "surrogatepass")
            mac.update(len(octets).to_bytes(8, "big") + octets)
        return mac.digest()

    def __contains__(self, digest: bytes) -> bool:
        return self._until.get(digest, 0.0) > self._clock.seconds()

    def add(self, digest: bytes) -> None:
        """Remember, and let the oldest go when there are too many."""
        self._until.pop(digest, None)
        self._until[digest] = self._clock.seconds() + REMEMBERED_SECONDS
        if len(self._until) > MOST_REMEMBERED:
            self._until.popitem(last=False)


class Verifier(Protocol):
    """``accounts.passwords.verify_password``: blocks for about 50 ms."""

    def __call__(self, hash: str, password: str, /) -> bool: ...


@implementer(ICredentialsChecker)
class DirectoryChecker:
    """Checks a user name and password against the directory, off the reactor.

    A user who does not exist goes the same way with ``dummy_hash``, so the answer takes as long.
    """

    credentialInterfaces = (IUsernamePassword,)

    def __init__(
        self,
        directory: IDirectory,
        workers: Workers,
        verify: Verifier,
        dummy_hash: str,
        clock: IReactorTime,
    ) -> None:
        self._directory = directory
        self._workers = workers
        self._verify = verify
        self._dummy_hash = dummy_hash
        self._successes = RecentSuccesses(clock)
        self._under_way: dict[bytes, list[Deferred[bool]]] = {}

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """The ``Account``; fails with ``UnauthorizedLogin`` or ``LoginUnavailable``."""
        return Deferred.fromCoroutine(self._check(credentials.username, credentials.password))

    async def _check(self, username: str | bytes, password: str | bytes) -> Account:
        login, secret = _text(username), _text(password)
        account, stored = self._look_up(login)
        digest = self._successes.digest(stored, login, secret)
        if account is not None and digest in self._successes:
            return account
        right = await self._verified(digest, stored, secret)
        if account is None or not right:
            raise UnauthorizedLogin
        self._successes.add(digest)
        return account

    def _look_up(self, login: str) -> tuple[Account | None, str]:
        try:
            found = self._directory.password_hash(login)
        except Exception as error:
            maillog.fault("looking up a password", error)
            raise LoginUnavailable from error
        return found if found is not None else (None, self._dummy_hash)

    def _verified(self, digest: bytes, stored: str, password: str) -> Deferred[bool]:
        """Verify once for all who ask the same at the same time."""
        answer: Deferred[bool] = Deferred()
        waiting = self._under_way.get(digest)
        if waiting is not None:
            waiting.append(answer)
            return answer
        if len(self._under_way) >= MOST_UNDER_WAY:
            raise LoginUnavailable
        self._under_way[digest] = [answer]
        self._workers.call(self._verify, stored, password).addBoth(self._tell_all, digest)
        return answer

    def _tell_all(self, result: bool | Failure, digest: bytes) -> None:
        if isinstance(result, Failure):
            maillog.fault("verifying a password", result.value)
        for waiting in self._under_way.pop(digest):
            if isinstance(result, Failure):
                waiting.errback(LoginUnavailable())
            else:
                waiting.callback(result)


def _text(value: str | bytes) -> str:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise UnauthorizedLogin from None
