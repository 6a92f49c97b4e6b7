"""Log-in for the dialogues: the real portal and checkers over a real directory, all in one thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from twisted.internet.task import Clock

from mailserver.accounts.directory import SqliteDirectory
from mailserver.accounts.passwords import DUMMY_HASH, verify_password
from mailserver.accounts.secrets import secrets_of
from mailserver.interfaces import IMaildrop
from mailserver.login import Authenticator, LoginPenalty, Verifiers, make_portal
from mailserver.values.account import Account, Secrets
from mailserver.wire.sasl_mechanisms import PASSWORDS, Surroundings


@lru_cache
def stored(password: str) -> Secrets:
    """What is kept of a password; computed once, for it takes 100 ms."""
    return secrets_of(password, iterations=4096)


def authenticator(
    directory: SqliteDirectory,
    workers: Any,
    maildrop_of: Callable[[Account], IMaildrop],
    clock: Clock,
    protocol: str,
    gives: Any,
    mechanisms: tuple[str, ...] = PASSWORDS,
    token_checker: Any = None,
    unseal: Callable[[str], str | None] | None = None,
) -> Authenticator:
    """Log-in for one protocol by ``mechanisms``."""
    verifiers = Verifiers(directory, lambda: b"k" * 32)
    portal = make_portal(
        directory,
        workers,
        maildrop_of,
        verify=verify_password,
        dummy_hash=DUMMY_HASH,
        clock=clock,
        verifiers=verifiers,
        token_checker=token_checker,
        unseal=unseal,
    )
    around = Surroundings("mx.example.test", verifiers.verifier, mechanisms)
    return Authenticator(portal, LoginPenalty(clock), clock, protocol, gives, around)
