"""POP3 over real sockets, threads and TLS, with Python's own client."""

from __future__ import annotations

import hashlib
import poplib
import shutil
import socket
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from mailserver.certificates import ServerTLS, ensure_self_signed
from mailserver.durable import Disk
from mailserver.interfaces import IMaildropOwner
from mailserver.login import Authenticator, LoginPenalty, make_portal
from mailserver.retrieve.pop3 import Pop3Factory
from mailserver.retrieve.settings import Pop3Settings
from mailserver.store.mailstore import MailStore
from mailserver.threads import Bridge, Workers
from mailserver.values.account import Account
from mailserver.values.address import Address
from mailserver.wire.sasl_mechanisms import Surroundings
from mailserver.wire.sasl_scram import ScramVerifier

ADA = Account(Address("ada", "example.test"))
BIG = 8 * 1024 * 1024


class Directory:
    def password_hash(self, login: str) -> tuple[Account, str] | None:
        return (ADA, "hash") if login == "ada" else None


class Case(TestCase):
    timeout = 60
    implicit = False

    def setUp(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="pop3-sockets-"))
        self.addCleanup(shutil.rmtree, folder)
        self.disk = Disk()
        self.store = MailStore(folder / "mail", "maildir", self.disk, "mx.test")
        self.store.start()
        self.new = folder / "mail" / "example.test" / "ada" / "new"
        for name in ("tmp", "new", "cur"):
            self.new.with_name(name).mkdir(parents=True)
        self.workers = Workers(Bridge(reactor), "blocking", 2)
        self.workers.start()
        ensure_self_signed(self.disk, folder / "cert.pem", folder / "key.pem", ["mx.test"])
        tls = ServerTLS(folder / "cert.pem", folder / "key.pem")
        tls.load()
        portal = make_portal(
            Directory(),  # type: ignore[arg-type]
            self.workers,
            lambda account, locked: self.store.mailbox(account).maildrop(locked),
            verify=lambda stored, password: password == "secret",
            dummy_hash="",
            clock=reactor,  # type: ignore[arg-type]
        )
        self.factory = Pop3Factory(
            Pop3Settings(
                hostname="mx.test",
                authenticator=Authenticator(
                    portal,
                    LoginPenalty(reactor),  # type: ignore[arg-type]
                    reactor,  # type: ignore[arg-type]
                    "pop3",
                    IMaildropOwner,
                    Surroundings("mx.test", lambda name, mechanism: ScramVerifier(4096, b"s", b"", b"")),
                ),
                workers=self.workers,
                clock=reactor,  # type: ignore[arg-type]
                tls=None if self.implicit else tls.listener(),
                implicit_tls=self.implicit,
            )
        )
        behind: Any = (
            TLSMemoryBIOFactory(tls.listener(), False, self.factory) if self.implicit else self.factory
        )
        self.port = reactor.listenTCP(0, behind, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
        self.context.check_hostname = False

    async def tearDown(self) -> None:
        await maybeDeferred(self.port.stopListening)
        await self.factory.stop()
        self.workers.stop()
        self.store.stop()
        self.disk.close()

    def mail(self, *texts: bytes) -> None:
        for number, text in enumerate(texts, 1):
            (self.new / f"170000000{number}.{number}.mx").write_bytes(text)

    async def in_thread(self, client: Callable[[], Any]) -> Any:
        return await deferToThread(client)

    def log_in(self, client: poplib.POP3) -> poplib.POP3:
        client.user("ada")
        client.pass_("secret")
        return client

    def connect(self) -> poplib.POP3:
        client = poplib.POP3("127.0.0.1", self.port.getHost().port, timeout=20)
        client.stls(self.context)
        return self.log_in(client)


class StlsTests(Case):
    async def test_a_session(self) -> None:
        self.mail(b"Subject: x\n\n.dot\n", b"Subject: y\n\n" + b"line\n" * 10)

        def client() -> None:
            session = self.connect()
            assert session.stat() == (2, 20 + 14 + 60)
            assert session.retr(1)[1] == [b"Subject: x", b"", b".dot"]
            assert session.top(2, 1)[1] == [b"Subject: y", b"", b"line"]
            assert "SASL" in session.capa()
            session.dele(1)
            assert session.quit().startswith(b"+OK")

        await self.in_thread(client)
        assert len(list(self.new.iterdir())) == 1

    async def test_an_injection_before_tls(self) -> None:
        def client() -> bytes:
            with socket.create_connection(("127.0.0.1", self.port.getHost().port), 20) as sock:
                sock.sendall(b"STLS\r\nCAPA\r\n")
                received = b""
                try:
                    while more := sock.recv(4096):
                        received += more
                except ConnectionResetError:
                    pass
                return received

        assert b"TOP" not in await self.in_thread(client)

    async def test_a_large_message_arrives_whole(self) -> None:
        body = b"".join(b".line %d\n" % n for n in range(BIG // 14))
        self.mail(b"Subject: big\n\n" + body)

        def client() -> str:
            session = self.connect()
            digest = hashlib.sha256()
            for line in session.retr(1)[1][2:]:
                digest.update(line + b"\n")
            assert session.noop().startswith(b"+OK")
            session.quit()
            return digest.hexdigest()

        assert await self.in_thread(client) == hashlib.sha256(body).hexdigest()

    async def test_a_client_that_goes_in_the_middle_unlocks(self) -> None:
        self.mail(b"x" * 70 + b"\n" + b"y" * BIG)

        def client() -> None:
            session = self.connect()
            session._putcmd("RETR 1")  # type: ignore[attr-defined]
            session._getresp()  # type: ignore[attr-defined]
            session.close()

        await self.in_thread(client)
        for _ in range(50):
            try:
                await self.in_thread(lambda: self.connect().quit())
            except poplib.error_proto as error:
                assert b"IN-USE" in error.args[0]  # noqa: PT017
            else:
                return
        raise AssertionError("the maildrop is still locked")


class ImplicitTests(Case):
    implicit = True

    async def test_a_session(self) -> None:
        self.mail(b"Subject: x\n\ntext\n")

        def client() -> None:
            session = poplib.POP3_SSL("127.0.0.1", self.port.getHost().port, context=self.context, timeout=20)
            self.log_in(session)
            assert session.retr(1)[1] == [b"Subject: x", b"", b"text"]
            session.quit()

        await self.in_thread(client)
