"""POP3 sessions for the dialogues: the real factory, portal, directory and store, without a socket."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock

from mailserver.accounts.directory import SqliteDirectory
from mailserver.accounts.login_key import LoginKey
from mailserver.durable import Disk
from mailserver.interfaces import IMaildrop, IMaildropOwner
from mailserver.retrieve.login_times import LoginTimes
from mailserver.retrieve.pop3 import Pop3Factory, Pop3Session
from mailserver.retrieve.settings import Pop3Settings
from mailserver.store.mailstore import MailStore
from mailserver.values.account import Account
from mailserver.values.address import Address
from tests.dialogues.logins import authenticator, stored
from tests.dialogues.script import octets
from tests.dialogues.transports import Wire

ADA = Address("ada", "example.test")
BOB = Address("bob", "example.test")
MESSAGE = "Subject: message {}\n\nThe text of message {}.\n"


class Pop3Talk:
    """One dialogue's server, with its clock and its disk."""

    def __init__(self, setup: list[list[str]]) -> None:
        settings = {words[0]: words[1:] for words in setup}
        self.folder = Path(tempfile.mkdtemp(prefix="pop3-dialogue-"))
        self.mbox = "mbox" in settings
        self.clock = Clock()
        self.is_broken = False
        self.error: OSError | None = None
        self.slow: list[tuple[Deferred[IMaildrop], Account, Callable[[], None]]] = []
        self.is_slow = "slow" in settings
        self.arrived = 0
        self.store = MailStore(self.folder / "mail", "mbox" if self.mbox else "maildir", Disk(), "mx.test")
        self.store.start()
        self.directory = SqliteDirectory(self.folder / "accounts", ["example.test"])
        self.directory.open()
        self.key = LoginKey(self.folder / "login.key")
        self.key.open()
        kept = stored("secret")
        self.directory.add_user(ADA, replace(kept, cram_md5=self.key.seal("secret")))
        self.directory.add_user(BOB, stored("hunter2"))
        self._fill(setup)
        self.factory = self._factory(settings)
        self.wire: Wire
        self.session: Pop3Session
        self._connect([])

    def _fill(self, setup: list[list[str]]) -> None:
        for words in setup:
            if words[0] == "mail":
                self._deliver(words[1:])
            elif words[0] == "mails":
                for n in range(1, int(words[1]) + 1):
                    self._add(MESSAGE.format(n, n).encode())

    def _factory(self, settings: dict[str, list[str]]) -> Pop3Factory:
        workers: Any = self
        apop = "apop" in settings
        login = authenticator(
            self.directory,
            workers,
            self._maildrop_of,
            self.clock,
            "pop3",
            IMaildropOwner,
            unseal=self.key.unseal if apop else None,
        )
        secure = settings.keys() & {"tls", "implicit"}
        delay = float(settings["delay"][0]) if "delay" in settings else 0.0
        proxies = [ip_network(text) for text in settings.get("proxy", ())]
        return Pop3Factory(
            Pop3Settings(
                hostname="mx.example.test",
                authenticator=login,
                workers=workers,
                clock=self.clock,
                tls=object() if "tls" in settings else None,  # type: ignore[arg-type]
                implicit_tls="implicit" in settings,
                allow_cleartext="cleartext" in settings or not secure,
                login_times=LoginTimes(self.folder / "times", delay, self._now) if delay else None,
                expire=int(settings["expire"][0]) if "expire" in settings else 0,
                apop=apop,
                proxies=proxies,
            )
        )

    def _now(self) -> float:
        return 1_700_000_000 + self.clock.seconds()

    def call(self, function: Any, *args: Any) -> Deferred[Any]:
        """Workers that do in place what they are asked for, but for a slow opening, which holds the lock."""
        if self.error is not None and function == self._maildrop_of:
            return fail(self.error)
        if self.is_slow and function == self._maildrop_of:
            waiting: Deferred[IMaildrop] = Deferred()
            self.slow.append((waiting, *args))
            args[1]()
            return waiting
        try:
            return succeed(function(*args))
        except Exception:
            return fail()

    def _maildrop_of(self, account: Account, locked: Callable[[], None]) -> IMaildrop:
        maildrop = self.store.mailbox(account).maildrop(locked)
        if self.is_broken:
            maildrop.commit = lambda: len(maildrop.marked)  # type: ignore[method-assign]
        return maildrop

    # -- Talk --------------------------------------------------------------------------------

    def send(self, octets: bytes) -> None:
        if not self.wire.is_closed:
            self.session.dataReceived(octets)

    def received(self) -> bytes:
        written = self.wire.value()
        self.wire.clear()
        if stamp := re.search(rb"<[^>]+>", written):
            self.timestamp = stamp[0]
        return written

    def direct(self, words: list[str]) -> None:
        getattr(self, f"_{words[0].replace('-', '_')}")(words[1:])

    def close(self) -> None:
        for session in list(self.factory.sessions):
            session.transport.lose(ConnectionLost())
        self.directory.close()
        self.store.stop()
        shutil.rmtree(self.folder)
        assert not [c for c in self.clock.getDelayedCalls() if c.active()], "a timer is left behind"

    # -- directives --------------------------------------------------------------------------

    def _connect(self, words: list[str]) -> None:
        session = self.factory.buildProtocol(IPv4Address("TCP", words[0] if words else "192.0.2.1", 4321))
        self.session, self.wire = session, Wire(session)
        session.makeConnection(self.wire)

    def _login(self, words: list[str]) -> None:
        self.send(b"USER ada@example.test\r\nPASS secret\r\n")
        last = self.received().splitlines()[-1]
        assert last.startswith(b"+OK Logged in"), f"the log-in was answered {last!r}"

    def _handshake(self, words: list[str]) -> None:
        assert self.wire.tls is not None or self.factory.settings.implicit_tls, "nobody asked for TLS"
        self.session.handshakeCompleted()

    def _wait(self, words: list[str]) -> None:
        self.clock.advance(float(words[0]))

    def _lose(self, words: list[str]) -> None:
        self.wire.lose(ConnectionLost())

    def _break(self, words: list[str]) -> None:
        self.is_broken = True

    def _fault(self, words: list[str]) -> None:
        self.error = OSError(int(words[0]), "a fault of the disk") if words else None

    def _opened(self, words: list[str]) -> None:
        waiting, account, _ = self.slow.pop(0)
        if words:
            waiting.errback(OSError(int(words[0]), "a fault of the disk"))
        else:
            waiting.callback(self.store.mailbox(account).maildrop())

    def _apop(self, words: list[str]) -> None:
        """``@apop name password``: log in by APOP with the timestamp of the last greeting."""
        digest = hashlib.md5(self.timestamp + words[1].encode()).hexdigest()
        self.send(f"APOP {words[0]} {digest}\r\n".encode())

    def _half_close(self, words: list[str]) -> None:
        self.session.readConnectionLost()

    def _closed(self, words: list[str]) -> None:
        assert self.wire.is_closed, "the connection is still open"

    def _open(self, words: list[str]) -> None:
        assert not self.wire.is_closed, "the connection is closed"

    def _deliver(self, words: list[str]) -> None:
        self._add(octets(" ".join(words)))

    def _vanish(self, words: list[str]) -> None:
        self._files()[int(words[0]) - 1].unlink()

    def _held(self, words: list[str]) -> None:
        held = self._mbox_file().read_bytes().count(b"From dialogue") if self.mbox else len(self._files())
        assert held == int(words[0]), f"{held} messages are there"

    # -- the disk ----------------------------------------------------------------------------

    def _files(self) -> list[Path]:
        user = self.folder / "mail" / "example.test" / "ada"
        return sorted([*user.glob("new/*"), *user.glob("cur/*")], key=lambda path: path.name)

    def _mbox_file(self) -> Path:
        return self.folder / "mail" / "example.test" / "ada.mbox"

    def _add(self, text: bytes) -> None:
        self.arrived += 1
        if self.mbox:
            self._mbox_file().parent.mkdir(parents=True, exist_ok=True)
            with self._mbox_file().open("ab") as file:
                file.write(b"From dialogue Thu Jan  1 00:00:00 1970\n" + text + b"\n")
            return
        user = self.folder / "mail" / "example.test" / "ada"
        for folder in ("tmp", "new", "cur"):
            (user / folder).mkdir(parents=True, exist_ok=True)
        (user / "new" / f"{1_700_000_000 + self.arrived}.{self.arrived}.mx").write_bytes(text)
