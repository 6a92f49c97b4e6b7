"""Certificates: what is made, what is refused and why, and what the contexts agree to."""

from __future__ import annotations

import contextlib
import datetime
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from mailserver.certificates import (
    WATCH_SECONDS,
    CertificateError,
    CertificateWatch,
    ListenerTLS,
    ServerTLS,
    ensure_self_signed,
    read_pair,
)
from mailserver.durable import Disk

NAMES = ("mx.example.test", "example.test", "пошта.укр")
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "tls"
    ensure_self_signed(Disk(), folder / "cert.pem", folder / "key.pem", NAMES)
    return folder / "cert.pem", folder / "key.pem"


def made(folder: Path, *names: str) -> tuple[Path, Path]:
    paths = folder / "cert.pem", folder / "key.pem"
    ensure_self_signed(Disk(), *paths, names or NAMES)
    return paths


def client_context(trusted: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A client by another library, which checks the certificate and its name."""
    context = ssl.create_default_context(cafile=str(trusted))
    if version is not None:
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    return context


def handshake(
    server: ListenerTLS,
    context: ssl.SSLContext,
    session: ssl.SSLSession | None = None,
    host: str = "mx.example.test",
) -> ssl.SSLObject:
    """The client's end of a finished handshake in memory."""
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(coming, going, server_hostname=host, session=session)
    accepted = SSL.Connection(server.getContext())
    accepted.set_accept_state()
    for _ in range(6):
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
            client.read(1)  # takes in the session tickets that TLS 1.3 sends behind the handshake
        if going.pending:
            accepted.bio_write(going.read())
        with contextlib.suppress(SSL.WantReadError):
            accepted.do_handshake()
        with contextlib.suppress(SSL.WantReadError):
            coming.write(accepted.bio_read(65536))
    return client


def test_a_pair_of_our_own(files: tuple[Path, Path]) -> None:
    pair = read_pair(*files)
    assert isinstance(pair.key, ec.EllipticCurvePrivateKey)
    assert pair.key.curve.name == "secp256r1"
    assert pair.names == {"mx.example.test", "example.test", "xn--80a1acn3a.xn--j1amh"}
    assert pair.expires > NOW + 3000 * DAY
    assert {p.stat().st_mode & 0o777 for p in files} == {0o600}
    assert sorted(os.listdir(files[0].parent)) == ["cert.pem", "key.pem"]


def test_a_good_pair_is_kept(files: tuple[Path, Path]) -> None:
    before = files[0].read_bytes()
    assert not ensure_self_signed(Disk(), *files, NAMES)
    assert not ensure_self_signed(Disk(), *files, NAMES[:1])
    assert files[0].read_bytes() == before


@pytest.mark.parametrize(
    "fault", ["no key", "no certificate", "torn", "other key", "new name", "ends", "leftover"]
)
def test_a_pair_that_cannot_serve_is_made_anew(files: tuple[Path, Path], tmp_path: Path, fault: str) -> None:
    certificate, key = files
    names, now = NAMES, NOW
    match fault:
        case "no key":
            key.unlink()
        case "no certificate":
            certificate.unlink()
        case "torn":
            certificate.write_bytes(certificate.read_bytes()[:100])
        case "other key":  # a crash between the two renames
            key.write_bytes(made(tmp_path / "other")[1].read_bytes())
        case "new name":
            names = (*NAMES, "new.test")
        case "ends":
            now = NOW + 3640 * DAY
        case "leftover":
            key.unlink()
            key.with_name("key.pem.new").write_bytes(b"half")
    assert ensure_self_signed(Disk(), certificate, key, names, now)
    assert read_pair(certificate, key).names >= {"mx.example.test"}
    assert sorted(os.listdir(certificate.parent)) == ["cert.pem", "key.pem"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "tls").write_bytes(b"a file")
    with pytest.raises(CertificateError, match="tls"):
        made(tmp_path / "tls")


def test_a_name_longer_than_a_common_name(tmp_path: Path) -> None:
    long = ".".join(["a" * 60] * 3)
    assert read_pair(*made(tmp_path, long)).names == {long}


def test_missing_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"none\.pem: No such file.*\[tls\]"):
        read_pair(tmp_path / "none.pem", files[1])
    with pytest.raises(CertificateError, match=r"none\.pem: No such file"):
        read_pair(files[0], tmp_path / "none.pem")


def test_files_that_hold_something_else(files: tuple[Path, Path]) -> None:
    certificate, key = files
    with pytest.raises(CertificateError, match="holds no certificate"):
        read_pair(key, key)
    with pytest.raises(CertificateError, match="holds no private key"):
        read_pair(certificate, certificate)


def test_a_key_of_another_certificate(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="does not belong to the first certificate"):
        read_pair(files[0], made(tmp_path / "other")[1])


def test_a_locked_key(files: tuple[Path, Path]) -> None:
    locked = read_pair(*files).key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    files[1].write_bytes(locked)
    with pytest.raises(CertificateError, match="pass phrase"):
        read_pair(*files)


def test_warnings(files: tuple[Path, Path]) -> None:
    tls = ServerTLS(*files)
    tls.load()
    assert tls.warnings("MX.example.test") == []
    assert tls.warnings("пошта.укр") == []
    (other,) = tls.warnings("elsewhere.test")
    assert "is not for elsewhere.test but for example.test, mx.example.test" in other
    (soon,) = tls.warnings("mx.example.test", NOW + 3640 * DAY)
    assert "ends on" in soon
    (ended,) = tls.warnings("mx.example.test", NOW + 3651 * DAY)
    assert "ended on" in ended
    (early,) = tls.warnings("mx.example.test", NOW - DAY)
    assert "not valid before" in early


def test_a_wildcard_is_for_the_host(tmp_path: Path) -> None:
    tls = ServerTLS(*made(tmp_path, "*.example.test"))
    tls.load()
    assert tls.warnings("mx.example.test") == []


def test_nothing_is_read_before_load(tmp_path: Path) -> None:
    tls = ServerTLS(tmp_path / "none", tmp_path / "none")
    with pytest.raises(CertificateError, match="not been read"):
        tls.listener()


def loaded(files: tuple[Path, Path]) -> ServerTLS:
    tls = ServerTLS(*files)
    tls.load()
    return tls


def test_versions(files: tuple[Path, Path]) -> None:
    listener = loaded(files).listener()
    assert handshake(listener, client_context(files[0])).version() == "TLSv1.3"
    older = client_context(files[0], ssl.TLSVersion.TLSv1_2)
    assert handshake(listener, older).version() == "TLSv1.2"
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        oldest = client_context(files[0], ssl.TLSVersion.TLSv1_1)
    with pytest.raises(SSL.Error, match=r"version|protocol"):
        handshake(listener, oldest)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_not_resumed_at_another_listener(
    files: tuple[Path, Path], version: ssl.TLSVersion
) -> None:
    tls = loaded(files)
    one, two = tls.listener(), tls.listener()
    assert one.getContext() is not two.getContext()
    context = client_context(files[0], version)
    session = handshake(one, context).session
    for listener in (one, two):
        assert not handshake(listener, context, session).session_reused


def test_a_pair_that_is_read_again_serves_from_then_on(files: tuple[Path, Path], tmp_path: Path) -> None:
    tls = loaded(files)
    listener = tls.listener()
    certificate, key = made(tmp_path / "renewed")
    old, new = client_context(files[0]), client_context(certificate)
    files[0].write_bytes(certificate.read_bytes())
    with pytest.raises(CertificateError):
        tls.load()
    assert handshake(listener, old).version()
    files[1].write_bytes(key.read_bytes())
    tls.load()
    assert handshake(listener, new).version()
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(listener, old)


def test_who_names_a_host_gets_its_certificate(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = made(tmp_path / "other", "mail.other.test", "*.wild.test")
    tls = ServerTLS(*files, [other])
    tls.load()
    listener = tls.listener()
    first, second = client_context(files[0]), client_context(other[0])
    assert handshake(listener, first).version()
    assert handshake(listener, second, host="mail.other.test").version()
    assert handshake(listener, second, host="MX.Wild.test").version()
    first.check_hostname = False
    assert handshake(listener, first, host="nobody.test").version()  # the first is for all others
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(listener, first, host="mail.other.test")


class AtOnce:
    def call(self, function: Callable[[], Any]) -> Deferred[Any]:
        return execute(function)


def test_changed_files_are_picked_up_and_a_bad_one_is_told_once(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    tls = loaded(files)
    listener, clock, workers = tls.listener(), Clock(), AtOnce()
    watch = CertificateWatch(tls, workers, clock)  # type: ignore[arg-type]
    said: list[Any] = []
    globalLogPublisher.addObserver(said.append)
    try:
        watch.start()
        clock.advance(WATCH_SECONDS)
        assert not said
        certificate, key = made(tmp_path / "renewed")
        old, new = client_context(files[0]), client_context(certificate)
        files[0].write_bytes(b"not a certificate")
        for _ in range(3):
            clock.advance(WATCH_SECONDS)
        assert [event["log_level"].name for event in said] == ["warn"]
        assert handshake(listener, old).version()
        files[0].write_bytes(certificate.read_bytes())
        files[1].write_bytes(key.read_bytes())
        clock.advance(WATCH_SECONDS)
        assert [event["log_level"].name for event in said] == ["warn", "info"]
        assert handshake(listener, new).version()
    finally:
        watch.stop()
        globalLogPublisher.removeObserver(said.append)
