"""The portal: every way to prove who one is, and what it leads to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.interfaces import IReactorTime

from mailserver.interfaces import IDirectory
from mailserver.login.checkers import DirectoryChecker, Verifier
from mailserver.login.proofs import CramChecker, ScramChecker, Verifiers
from mailserver.login.realm import MaildropOf, MailRealm
from mailserver.login.tokens import TokenChecker
from mailserver.threads import Workers


def make_portal(
    directory: IDirectory,
    workers: Workers,
    maildrop_of: MaildropOf,
    *,
    verify: Verifier,
    dummy_hash: str,
    clock: IReactorTime,
    verifiers: Verifiers | None = None,
    unseal: Callable[[str], str | None] | None = None,
    token_checker: Any = None,
    openers: Workers | None = None,
    passwords: Any = None,
) -> Portal:
    """The portal of SMTP AUTH (``ISubmitter``) and POP3 (``IMaildropOwner``).

    ``maildrop_of`` blocks and is called in a thread; ``verify`` and ``dummy_hash`` are
    ``accounts.passwords``'s.  ``verifiers``, ``unseal`` and ``token_checker`` each bring a way to
    log in: SCRAM, CRAM-MD5, bearer tokens.  ``openers`` are the threads that open maildrops, when
    those that check passwords shall not keep them waiting.  ``passwords`` is a checker to ask
    instead of the directory.
    """
    portal = Portal(
        MailRealm(openers or workers, maildrop_of),
        [passwords or DirectoryChecker(directory, workers, verify, dummy_hash, clock)],
    )
    if verifiers is not None:
        portal.registerChecker(ScramChecker(verifiers))
    if unseal is not None:
        portal.registerChecker(CramChecker(directory, unseal))
    if token_checker is not None:
        portal.registerChecker(TokenChecker(directory, token_checker, clock))
    return portal
