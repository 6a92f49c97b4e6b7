"""Checks proofs of a password: SCRAM, and CRAM-MD5 and APOP where they are on."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from zope.interface import Interface, classImplements, implementer

from mailserver import maillog
from mailserver.interfaces import IDirectory, LoginUnavailable
from mailserver.values.account import Account, Secrets
from mailserver.wire.pop3_apop import ApopResponse
from mailserver.wire.sasl_cram import CramResponse
from mailserver.wire.sasl_scram import HASHES, ITERATIONS, SALT_OCTETS, ScramProof, ScramVerifier


class IScramProof(Interface):
    """``wire.sasl_scram.ScramProof``, as credentials."""


class ICramResponse(Interface):
    """``wire.sasl_cram.CramResponse`` and ``wire.pop3_apop.ApopResponse``, as credentials."""


classImplements(ScramProof, IScramProof)
classImplements(CramResponse, ICramResponse)
classImplements(ApopResponse, ICramResponse)


class Verifiers:
    """The verifiers of SCRAM: users' own, and for everybody else one that no proof fits.

    The latter is the same for a name each time, also after a restart and in every worker, so nobody
    learns who exists (RFC 5802 §9).  ``key`` gives 32 secret octets.
    """

    def __init__(self, directory: IDirectory, key: Callable[[], bytes]) -> None:
        self._directory = directory
        self._key = key

    def verifier(self, username: str, mechanism: str) -> ScramVerifier:
        """The verifier to go on with, whether there is such a user or not.

        Raises:
            LoginUnavailable: the directory cannot be read.
        """
        # Made in any case: an answer that comes sooner would tell something.
        nobodys = self._nobodys(username, mechanism)
        found = self.of(username, mechanism)
        return nobodys if found is None else found[1]

    def of(self, username: str, mechanism: str) -> tuple[Account, ScramVerifier] | None:
        """The account of that name and its verifier.

        Raises:
            LoginUnavailable: the directory cannot be read.
        """
        found = look_up(self._directory, username)
        try:
            return None if found is None else (found[0], ScramVerifier.read(found[1].scram[mechanism]))
        except (KeyError, ValueError):
            return None  # a password from before SCRAM, or an imported hash

    def _nobodys(self, username: str, mechanism: str) -> ScramVerifier:
        octets = hmac.digest(self._key(), f"{mechanism}\0{username}".encode(), "sha512")
        keys = (hmac.digest(octets, label, HASHES[mechanism]) for label in (b"stored", b"server"))
        return ScramVerifier(ITERATIONS, octets[:SALT_OCTETS], *keys)


def look_up(directory: IDirectory, username: str) -> tuple[Account, Secrets] | None:
    """An account and what is kept of its password.

    Raises:
        LoginUnavailable: the directory cannot be read.
    """
    try:
        found: tuple[Account, Secrets] | None = directory.secrets(username)
    except Exception as error:
        maillog.fault("looking up a password", error)
        raise LoginUnavailable from error
    return found


@implementer(ICredentialsChecker)
class ScramChecker:
    """Whether a proof fits what the directory holds at this moment."""

    credentialInterfaces = (IScramProof,)

    def __init__(self, verifiers: Verifiers) -> None:
        self._verifiers = verifiers

    def requestAvatarId(self, credentials: Any) -> Any:
        """The ``Account``; raises ``UnauthorizedLogin`` or ``LoginUnavailable``."""
        proof: ScramProof = credentials
        verifier = self._verifiers.verifier(proof.username, proof.mechanism)
        found = self._verifiers.of(proof.username, proof.mechanism)
        if not proof.fits(verifier) or found is None:
            raise UnauthorizedLogin
        return found[0]


@implementer(ICredentialsChecker)
class CramChecker:
    """``unseal`` gives the password behind ``Secrets.cram_md5``, or ``None``."""

    credentialInterfaces = (ICramResponse,)

    def __init__(self, directory: IDirectory, unseal: Callable[[str], str | None]) -> None:
        self._directory = directory
        self._unseal = unseal

    def requestAvatarId(self, credentials: Any) -> Any:
        """The ``Account``; raises ``UnauthorizedLogin`` or ``LoginUnavailable``."""
        response: CramResponse | ApopResponse = credentials
        found = look_up(self._directory, response.username)
        password = self._unseal(found[1].cram_md5) if found else None
        fits = response.fits(password if password is not None else "")
        if found is None or password is None or not fits:
            raise UnauthorizedLogin
        return found[0]
