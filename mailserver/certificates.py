"""Certificate and key files become TLS contexts; without files, the server's own self-signed pair is made.

Each listener has a context of its own, with a session id context of its own and without session
tickets: a session begun on port 25 cannot be resumed on 587 (RFC 8446 §4.6.1, ALPACA).
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLContextFactory, IReactorTime
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver.durable import Disk
from mailserver.threads import Workers, WorkersStopped
from mailserver.values.address import domain_key

SELF_SIGNED_DAYS = 3650
"""Nobody can trust a self-signed certificate by its date; it should only not end one night."""
RENEW_DAYS = 30
"""A self-signed certificate is made anew, and another's end is warned of, so long before."""

WATCH_SECONDS = 30.0
"""How often the files are looked at."""

log = Logger(namespace="mailserver")

_COMMON_NAME_LENGTH = 64


class CertificateError(Exception):
    """The files cannot be used; the text names the file, the reason and the remedy."""


@dataclass(frozen=True)
class KeyPair:
    """A certificate chain, the server's own first, and the key that fits it."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKeyTypes

    @property
    def expires(self) -> datetime.datetime:
        return self.chain[0].not_valid_after_utc

    @property
    def names(self) -> frozenset[str]:
        """The DNS names it is for."""
        try:
            names = self.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return frozenset()
        return frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName))


def read_pair(certificate: Path, key: Path) -> KeyPair:
    """The pair in two PEM files.

    Raises:
        CertificateError: a file is missing, unreadable or something else, or the key belongs to
            another certificate.
    """
    try:
        chain = x509.load_pem_x509_certificates(_octets(certificate))
    except ValueError:
        raise CertificateError(f"{certificate}: holds no certificate in PEM; name the full chain") from None
    private = _private_key(key)
    if _public_octets(private.public_key()) != _public_octets(chain[0].public_key()):
        raise CertificateError(
            f"{key}: does not belong to the first certificate in {certificate}; name the key it was made with"
        )
    return KeyPair(tuple(chain), private)


def _octets(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        remedy = "the server's user must be able to read it" if isinstance(error, PermissionError) else ""
        remedy = remedy or "name an existing file under [tls], or leave [tls] out"
        raise CertificateError(f"{path}: {error.strerror}; {remedy}") from None


def _private_key(path: Path) -> PrivateKeyTypes:
    octets = _octets(path)
    try:
        return serialization.load_pem_private_key(octets, password=None)
    except TypeError:
        raise CertificateError(f"{path}: is locked with a pass phrase; the server needs it without") from None
    except Exception:  # cryptography raises ValueError, UnsupportedAlgorithm and some of its own
        raise CertificateError(f"{path}: holds no private key in PEM") from None


def _public_octets(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


# -- a pair of our own ---------------------------------------------------------------------------


def ensure_self_signed(
    disk: Disk, certificate: Path, key: Path, names: Sequence[str], now: datetime.datetime | None = None
) -> bool:
    """See to it that the two files hold a pair for ``names``; whether it was made now.

    What stands there is kept while it can be used, names all of ``names`` and does not end within
    ``RENEW_DAYS``.  A crash at any moment leaves either the old pair, or one that does not fit
    together and is made anew at the next start.

    Raises:
        CertificateError: the files cannot be written.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    wanted = [domain_key(name) for name in names]
    try:
        pair = read_pair(certificate, key)
        if pair.names.issuperset(wanted) and pair.expires > now + datetime.timedelta(days=RENEW_DAYS):
            return False
    except CertificateError:
        pass
    pair = _self_signed(wanted, now)
    try:
        _replace(disk, key, _key_octets(pair))
        _replace(disk, certificate, pair.chain[0].public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise CertificateError(f"{error.filename or certificate}: {error.strerror}") from error
    return True


def _self_signed(names: Sequence[str], now: datetime.datetime) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    # An empty subject, with the alternative names critical, where the name is too long (RFC 5280 §4.1.2.6).
    fits = len(names[0]) <= _COMMON_NAME_LENGTH
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])] if fits else [])
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in dict.fromkeys(names)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clients' clocks differ
        .not_valid_after(now + datetime.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(alternatives, critical=not fits)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair((certificate,), key)


def _key_octets(pair: KeyPair) -> bytes:
    return pair.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _replace(disk: Disk, path: Path, octets: bytes) -> None:
    """Put a whole new file (0600) in the place of ``path``, or leave it as it was."""
    disk.make_folder(path.parent)
    fresh = path.with_name(path.name + ".new")
    if os.path.lexists(fresh):  # of a start that was cut short
        disk.remove(fresh)
    with disk.create(fresh) as file:
        file.write(octets)
        file.sync()
    disk.rename(fresh, path)
    disk.sync_folder(path.parent)


# -- contexts --------------------------------------------------------------------------------------


@implementer(IOpenSSLContextFactory)
class ListenerTLS:
    """One listener's contexts, for ``startTLS`` and for TLS from the first byte.

    It asks for the context at each connection, so that a pair that is read again is used from the
    next connection on.  A client that names a host (SNI, RFC 6066 §3) gets the pair for it, all
    others the first.
    """

    def __init__(self, pair: KeyPair, *others: KeyPair) -> None:
        self.use(pair, *others)

    def use(self, pair: KeyPair, *others: KeyPair) -> None:
        """Serve with these from now on; connections that stand keep theirs."""
        self._context = _context(pair)
        if others:
            chosen: dict[str, SSL.Context] = {}
            for each in (pair, *others):
                made = self._context if each is pair else _context(each)
                for name in each.names:
                    chosen.setdefault(name, made)
            self._context.set_tlsext_servername_callback(partial(_choose, chosen))

    def getContext(self) -> SSL.Context:
        return self._context


def _context(pair: KeyPair) -> SSL.Context:
    first, *rest = (crypto.X509.from_cryptography(c) for c in pair.chain)
    return CertificateOptions(
        privateKey=crypto.PKey.from_cryptography_key(pair.key),  # type: ignore[arg-type]
        certificate=first,
        extraCertChain=rest,
        raiseMinimumTo=TLSVersion.TLSv1_2,
        enableSessions=False,
        enableSessionTickets=False,
    ).getContext()


def _choose(contexts: dict[str, SSL.Context], connection: SSL.Connection) -> None:
    """Answer with the certificate for the name that the client asked for, if there is one."""
    name = (connection.get_servername() or b"").decode("ascii", "replace").lower().rstrip(".")
    context = contexts.get(name) or contexts.get("*." + name.partition(".")[2])
    if context is not None:
        connection.set_context(context)


Files = tuple[Path, Path]
"""A certificate's and its key's."""


class ServerTLS:
    """The server's certificates, each read from two PEM files, for all listeners.

    The first is for whoever names no host, or one that is not in ``also``.  Opens nothing before
    ``load``.
    """

    def __init__(self, certificate: Path, key: Path, also: Sequence[Files] = ()) -> None:
        self.certificate = certificate
        self.key = key
        self._files: tuple[Files, ...] = ((certificate, key), *also)
        self._pairs: tuple[KeyPair, ...] = ()
        self._seen: object = None
        self._listeners: list[ListenerTLS] = []

    def load(self) -> None:
        """Read the files, for the first time or again; a failure changes nothing.

        Raises:
            CertificateError: they cannot be used.
        """
        self._seen = self._look()
        self.use(self._read())

    def changed(self) -> tuple[KeyPair, ...]:
        """What the files hold, if they are others than at the last look; else nothing. Blocks.

        Raises:
            CertificateError: they have changed and cannot be used; told once for each change.
        """
        seen = self._look()
        if seen == self._seen:
            return ()
        self._seen = seen
        return self._read()

    def use(self, pairs: tuple[KeyPair, ...]) -> None:
        """Serve with ``pairs`` from now on."""
        for listener in self._listeners:
            listener.use(*pairs)
        self._pairs = pairs

    def _read(self) -> tuple[KeyPair, ...]:
        return tuple(read_pair(certificate, key) for certificate, key in self._files)

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_identity(path) for files in self._files for path in files]

    def listener(self) -> ListenerTLS:
        """A context factory of its own for one listener; call it once for each, after ``load``."""
        self._loaded()
        listener = ListenerTLS(*self._pairs)
        self._listeners.append(listener)
        return listener

    def warnings(self, hostname: str, now: datetime.datetime | None = None) -> list[str]:
        """What an administrator should know: the certificate has ended or soon will, or is for others."""
        now = now or datetime.datetime.now(datetime.UTC)
        pair = self._loaded()
        left = pair.expires - now
        day = f"{pair.expires:%Y-%m-%d}"
        said = []
        if left <= datetime.timedelta(0):
            said.append(f"{self.certificate}: ended on {day}, others may refuse it; renew it")
        elif left < datetime.timedelta(days=RENEW_DAYS):
            said.append(f"{self.certificate}: ends on {day}, in {left.days} days; renew it")
        if pair.chain[0].not_valid_before_utc > now:
            said.append(
                f"{self.certificate}: is not valid before {pair.chain[0].not_valid_before_utc:%Y-%m-%d}"
            )
        wildcard = "*." + hostname.partition(".")[2]
        if not pair.names & {domain_key(hostname), domain_key(wildcard)}:
            said.append(f"{self.certificate}: is not for {hostname} but for {', '.join(sorted(pair.names))}")
        return said

    def _loaded(self) -> KeyPair:
        if not self._pairs:
            raise CertificateError(f"{self.certificate}: has not been read yet")
        return self._pairs[0]


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What is another one when a file was written or replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class CertificateWatch:
    """Looks at the files from time to time, off the reactor: a renewed certificate needs no restart."""

    def __init__(self, tls: ServerTLS, workers: Workers, clock: IReactorTime) -> None:
        self._tls = tls
        self._workers = workers
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    def start(self) -> None:
        """Look every ``WATCH_SECONDS``, for the first time after as many."""
        self._looking.start(WATCH_SECONDS, now=False)

    def stop(self) -> None:
        """Look no more."""
        if self._looking.running:
            self._looking.stop()

    def _look(self) -> Deferred[None]:
        return self._workers.call(self._tls.changed).addCallbacks(self._use, self._keep)

    def _use(self, pairs: tuple[KeyPair, ...]) -> None:
        if pairs:
            self._tls.use(pairs)
            log.info("certificate: {file} was read again", file=self._tls.certificate)

    def _keep(self, failure: Failure) -> None:
        if failure.check(WorkersStopped) is None:
            log.warn("{why}; the old certificate stays in use", why=failure.getErrorMessage())
