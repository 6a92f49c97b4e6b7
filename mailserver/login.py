"""twisted.cred for SMTP AUTH and POP3: checking passwords, what a log-in gives, what failures cost."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Any, Protocol

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver import maillog
from mailserver.interfaces import IDirectory, IMaildrop, IMaildropOwner, ISubmitter, LoginUnavailable
from mailserver.threads import Workers
from mailserver.values.account import Account

REMEMBERED_SECONDS = 300.0
"""How long a password that was right needs no further Argon2 (50 ms of processor time)."""

MOST_REMEMBERED = 10_000
"""Successes remembered at a time; 100 octets or so each."""

MOST_UNDER_WAY = 256
"""Verifications waiting or running; beyond them, log-in is unavailable for a moment."""

PENALTY_SECONDS = (2.0, 4.0, 8.0, 15.0)
"""What the first, second, third and every further failure in a row costs a network."""

PENALTY_FORGOTTEN = 900.0
"""Seconds without a failure after which a network's failures are forgotten."""

MOST_PENALTIES = 10_000
"""Networks remembered at a time; the one that failed longest ago goes first."""


class LoginPenalty:
    """Makes guessing slow: after a failure, the next attempt from that network has to wait.

    A network is an IPv4 address or an IPv6 /64, which is what one customer gets.  Nobody is locked
    out: the wait has a limit, and it belongs to where the guesses come from, not to the account.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_for(self, host: str) -> float:
        """Seconds until an attempt from ``host`` may be looked at; 0 for most."""
        count, since = self._failures.get(_network(host), (0, 0.0))
        if not count:
            return 0.0
        delay = PENALTY_SECONDS[min(count, len(PENALTY_SECONDS)) - 1]
        return max(0.0, since + delay - self._clock.seconds())

    def failed(self, host: str) -> None:
        """Count a wrong name or password."""
        network, now = _network(host), self._clock.seconds()
        count, since = self._failures.pop(network, (0, now))
        if now - since > PENALTY_FORGOTTEN:
            count = 0
        self._failures[network] = count + 1, now
        if len(self._failures) > MOST_PENALTIES:
            self._failures.popitem(last=False)

    def succeeded(self, host: str) -> None:
        """Forget the failures of ``host``."""
        self._failures.pop(_network(host), None)


def _network(host: str) -> str:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host  # a UNIX socket's peer, for example
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return f"{address.packed[:8].hex()}/64"


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


@implementer(ISubmitter)
class Submitter:
    """Somebody who may submit mail."""

    def __init__(self, account: Account) -> None:
        self.account = account


@implementer(IMaildropOwner)
class MaildropOwner:
    """Somebody with a mailbox."""

    def __init__(
        self, account: Account, workers: Workers, maildrop_of: Callable[[Account], IMaildrop]
    ) -> None:
        self.account = account
        self._workers = workers
        self._maildrop_of = maildrop_of

    def maildrop(self) -> Deferred[IMaildrop]:
        """Lock and open, in a thread; who gets the maildrop releases it."""
        return self._workers.call(self._maildrop_of, self.account)


@implementer(IRealm)
class MailRealm:
    """Makes of an account what the protocol asks for."""

    def __init__(self, workers: Workers, maildrop_of: Callable[[Account], IMaildrop]) -> None:
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


def make_portal(
    directory: IDirectory,
    workers: Workers,
    maildrop_of: Callable[[Account], IMaildrop],
    *,
    verify: Verifier,
    dummy_hash: str,
    clock: IReactorTime,
) -> Portal:
    """The portal of SMTP AUTH (``ISubmitter``) and POP3 (``IMaildropOwner``).

    ``maildrop_of`` blocks and is called in a thread; ``verify`` and ``dummy_hash`` are
    ``accounts.passwords``'s.
    """
    checker = DirectoryChecker(directory, workers, verify, dummy_hash, clock)
    return Portal(MailRealm(workers, maildrop_of), [checker])
