"""Settings become log-in: which mechanisms are offered, what they need, and what they lead to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mailserver.accounts import passwords, schemes
from mailserver.accounts.login_key import FILE_NAME, LoginKey
from mailserver.config import Settings
from mailserver.interfaces import IDirectory, IMaildrop, IMaildropOwner, ISubmitter
from mailserver.login import Authenticator, LoginPenalty, Verifiers, load_checker, make_portal
from mailserver.login.given import PLAIN_MECHANISMS, GivenChecker, checkers_from
from mailserver.threads import Workers
from mailserver.values.account import Account
from mailserver.wire.sasl_mechanisms import Surroundings, offered


class Access:
    """Who may log in, and how. Making it opens nothing.

    ``workers`` check passwords, ``openers`` open maildrops.

    Raises:
        CheckerUnusable: ``login.oauth`` or ``login.checkers`` names something that cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        directory: IDirectory,
        workers: Workers,
        openers: Workers,
        maildrop_of: Callable[[Account, Callable[[], None]], IMaildrop],
        clock: Any,
    ) -> None:
        login = settings.login
        checker = load_checker(login.oauth, settings.policy.rules_folder) if login.oauth else None
        self._key = LoginKey(settings.state / FILE_NAME)
        verifiers = Verifiers(directory, partial(self._key.derive, "scram"))
        self.mechanisms = offered(tokens=checker is not None, cram_md5=login.cram_md5)
        given = None
        if login.checkers:
            given = GivenChecker(checkers_from(login.checkers), directory, settings.domains)
            self.mechanisms = tuple(one for one in self.mechanisms if one in PLAIN_MECHANISMS)
        portal = make_portal(
            directory,
            workers,
            maildrop_of,
            verify=schemes.verify_password,
            dummy_hash=passwords.DUMMY_HASH,
            clock=clock,
            verifiers=verifiers,
            unseal=self._key.unseal if login.cram_md5 or settings.pop3.apop else None,
            token_checker=checker,
            openers=openers,
            passwords=given,
        )
        around = Surroundings(
            hostname=settings.hostname,
            verifier=verifiers.verifier,
            mechanisms=self.mechanisms,
            token_failure=getattr(checker, "failure", {}),
        )
        penalty = LoginPenalty(clock)
        self.smtp = Authenticator(portal, penalty, clock, "smtp", ISubmitter, around)
        self.pop3 = Authenticator(portal, penalty, clock, "pop3", IMaildropOwner, around)

    def open(self) -> None:
        """Read the key beside the accounts.

        Raises:
            OSError: it cannot be read or made.
        """
        self._key.open()
