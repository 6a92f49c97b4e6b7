"""SMTP sessions for the dialogues: the real receiver, policy, directory and log-in; the spool is a list."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock

from mailserver.accounts.directory import SqliteDirectory
from mailserver.connections import Times
from mailserver.group_commit import GroupCommit
from mailserver.interfaces import IMaildrop, ISubmitter, SpoolFull
from mailserver.policy.chains import receiving
from mailserver.policy.greylist import Greylist
from mailserver.policy.rates import ClientRates
from mailserver.policy.reputation import refusal
from mailserver.policy.rules import recipient_has_room
from mailserver.policy.submission import SenderRights
from mailserver.receive.address_book import AddressBook
from mailserver.receive.queue_start import QueueStart
from mailserver.receive.sender_domains import SenderDomains
from mailserver.receive.session import ReceiverSettings
from mailserver.receive.smtp import SMTPReceiverFactory
from mailserver.receive.submission import Submission
from mailserver.receive.transaction import Intake
from mailserver.terminals.registry import Terminals
from mailserver.threads import Bridge, Workers
from mailserver.values.account import Account, Alias
from mailserver.values.address import Address
from mailserver.values.content import MemoryContent
from mailserver.values.envelope import Entry, Envelope, Waiting
from mailserver.wire.smtp_events import Offer
from tests.dialogues.logins import authenticator, stored
from tests.dialogues.pop3_talk import ADA, BOB
from tests.dialogues.script import octets
from tests.dialogues.transports import Wire

STATES = ("start", "hello", "mail", "attempted", "recipient", "chunked")
"""How far a session has come."""
_ON_THE_WAY = (
    b"MAIL FROM:<ada@example.test>\r\n",
    b"RCPT TO:<nobody@example.test>\r\n",
    b"RCPT TO:<bob@example.test>\r\n",
    b"BDAT 3\r\nx\r\n",
)


class AtOnce:
    """Workers that do in place what they are asked for."""

    def call(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return maybeDeferred(function, *args)


class Soon:
    """A reactor's thread that is always this one."""

    def callFromThread(self, function: Callable[[], object]) -> None:
        function()


class Draft:
    """One message on its way into the list."""

    def __init__(self, kept: list[tuple[Envelope, bytes]], number: int) -> None:
        self.id = number
        self._kept = kept
        self._octets = b""

    def write(self, chunk: bytes) -> None:
        self._octets += chunk

    def commit(self, envelope: Envelope) -> Future[Entry]:
        self._kept.append((envelope, self._octets))
        waiting = tuple(Waiting(recipient) for recipient in envelope.recipients)
        done: Future[Entry] = Future()
        done.set_result(Entry(self.id, 0.0, envelope, waiting, MemoryContent(self._octets)))
        return done

    def abort(self) -> None:
        self._octets = b""


class Kept:
    """The spool: what was accepted, in order."""

    def __init__(self) -> None:
        self.messages: list[tuple[Envelope, bytes]] = []
        self.fault: Exception | None = None
        self.queue_fault: Exception | None = None

    def begin(self) -> Draft:
        if self.fault is not None:
            raise self.fault
        return Draft(self.messages, len(self.messages) + 1)

    def expedite(self, domain: str) -> Future[int]:
        """Three messages wait for partner.test."""
        done: Future[int] = Future()
        if self.queue_fault is not None:
            done.set_exception(self.queue_fault)
        else:
            done.set_result(3 if domain == "partner.test" else 0)
        return done


class NullMX:
    """DNS that knows one domain, which takes no mail."""

    async def texts(self, name: str, record: str) -> list[str]:
        return ["0 ."] if (name, record) == ("null.test", "MX") else []


def no_maildrop(account: Account) -> IMaildrop:
    raise AssertionError("nobody reads mail here")


class SmtpTalk:
    """One dialogue's server, with its clock and what it has accepted."""

    def __init__(self, setup: list[list[str]]) -> None:
        settings = {words[0] for words in setup}
        self.folder = Path(tempfile.mkdtemp(prefix="smtp-dialogue-"))
        self.clock = Clock()
        self.spool = Kept()
        self.group = GroupCommit(Bridge(Soon()), lambda: 0.0)
        self.directory = SqliteDirectory(self.folder / "accounts", ["example.test", "example.org"])
        self.directory.open()
        self.directory.add_user(ADA, stored("secret"))
        self.directory.add_user(BOB, stored("hunter2"))
        self.directory.add_user(Address("bob", "example.org"), stored("hunter2"))
        self.directory.add_user(Address("юлія", "example.org"), stored("hunter2"))
        self.directory.add_alias(Address("sales", "example.test"), [ADA, Address("bob", "elsewhere.test")])
        self.directory.add_alias(Address("kyiv", "example.test"), [Address("юлія", "example.org")])
        self.terminals = Terminals(self.clock, cast(Workers, AtOnce()), self.directory.resolve)
        self.factory = SMTPReceiverFactory(self._settings(settings))
        self._connect([])

    def _settings(self, settings: set[str]) -> ReceiverSettings:
        spool: Any = self.spool
        workers: Any = AtOnce()
        tls: Any = object() if "tls" in settings else None
        submission = "submission" in settings
        rights = SenderRights(self.directory.resolve)
        login = authenticator(self.directory, workers, no_maildrop, self.clock, "smtp", ISubmitter)
        bridge = Bridge(Soon())
        return ReceiverSettings(
            offer=Offer(
                hostname="mx.example.test",
                role="submission" if submission else "lmtp" if "lmtp" in settings else "smtp",
                message_size=2000,
                recipients=3,
                starttls=tls is not None,
                mechanisms=("PLAIN", "LOGIN") if submission else (),
                cleartext_auth="cleartext" in settings,
                future_release=86400 if "extensions" in settings else 0,
                require_tls="extensions" in settings,
                etrn="extensions" in settings,
                normalize="normalize-listener" in settings,
                messages=2 if "limits" in settings else 0,
                domains=1 if "limits" in settings else 0,
                verify="everybody" if "open-book" in settings else "users",
                expand="everybody" if "open-book" in settings else "users",
                terminals="everybody" if "open-terminals" in settings else "users",
            ),
            intake=Intake(
                hostname="mx.example.test",
                spool=spool,
                directory=self.directory,
                bridge=bridge,
                may_receive=receiving(*self._rules(settings)),
                accepted=lambda entry: None,
                now=lambda: 1_700_000_000.0,
                submission=Submission(
                    rights.may_use,
                    rights.objection,
                    hide_client="discreet" in settings,
                    delay=20.0 if "discreet" in settings else 0.0,
                    highest_priority=lambda account: 3 if "modest" in settings else 9,
                    charge=lambda account, recipients: "over its limit" if "held" in settings else "",
                ),
                terminals=self.terminals,
                group=self.group,
            ),
            clock=self.clock,
            tls=tls,
            closed="closed" in settings,
            implicit_tls="implicit" in settings,
            authenticator=login,
            times=Times(greet_wait=1.0 if "greet-wait" in settings else 0.0),
            normalize=[ip_network("192.0.2.0/24")] if "normalize" in settings else [],
            trusted_networks=[ip_network("192.0.2.0/24")] if "trusted" in settings else [],
            rates=ClientRates(1, 2, self.clock.seconds, lambda: False) if "rates" in settings else None,
            address_book=AddressBook(self.directory.resolve, ["example.test", "example.org"]),
            start_queue=QueueStart(spool, bridge, ["partner.test"], self.clock.seconds),
        )

    def _rules(self, settings: set[str]) -> list[Any]:
        rules: list[Any] = []
        if "null-mx" in settings:
            rules.append(SenderDomains(NullMX(), self.clock, 5.0))
        if "full" in settings or "full-refuse" in settings:
            rules.append(
                recipient_has_room(lambda account: account.address == BOB, "full-refuse" in settings)
            )
        if "listed" in settings:
            rules.append(lambda facts: refusal(facts, 5, 5, ["bl.test"]))
        if "greylist" in settings:
            rules.append(Greylist(self.folder / "greylist", 300.0, self.clock.seconds))
        return rules

    # -- Talk --------------------------------------------------------------------------------

    def send(self, octets: bytes) -> None:
        if not self.wire.is_closed:
            self.session.dataReceived(octets)

    def received(self) -> bytes:
        written = self.wire.value()
        self.wire.clear()
        return written

    def direct(self, words: list[str]) -> None:
        getattr(self, f"_{words[0].replace('-', '_')}")(words[1:])

    def close(self) -> None:
        for session in list(self.factory.sessions):
            session.transport.lose(ConnectionLost())
        assert not self.group.expects_more(1.0), "a transaction is left under way"
        self.directory.close()
        shutil.rmtree(self.folder)
        assert not [call for call in self.clock.getDelayedCalls() if call.active()], "a timer is left behind"

    # -- directives --------------------------------------------------------------------------

    def _connect(self, words: list[str]) -> None:
        session = self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 4321))
        self.session, self.wire = session, Wire(session)
        session.makeConnection(self.wire)

    def _handshake(self, words: list[str]) -> None:
        assert self.wire.tls is not None or self.factory.settings.implicit_tls, "nobody asked for TLS"
        self.session.handshakeCompleted()

    def _wait(self, words: list[str]) -> None:
        self.clock.advance(float(words[0]))

    def _attach(self, words: list[str]) -> None:
        """``ada@example.test shows|silent``: a terminal that shows what comes, or does not answer."""
        address, how = words
        self.shown: list[str] = []

        def take(message: object) -> None:
            assert isinstance(message, dict)
            self.shown += message["show"]
            if how == "shows":
                self.clock.callLater(0, self.terminal.heard, {"shown": message["number"]})

        self.terminal = self.terminals.attach({"address": address}, take)

    def _detach(self, words: list[str]) -> None:
        self.terminal.gone()

    def _shown(self, words: list[str]) -> None:
        assert " ".join(words) in self.shown, f"the terminal shows {self.shown}"

    def _half_close(self, words: list[str]) -> None:
        self.session.readConnectionLost()

    def _hello(self, words: list[str]) -> None:
        role = self.factory.settings.offer.role
        self.send(b"LHLO x\r\n" if role == "lmtp" else b"EHLO x\r\n")
        self.received()

    def _at(self, words: list[str]) -> None:
        if not self.wire.is_closed:
            self.wire.lose(ConnectionLost())
        self._connect([])
        reached = STATES.index(words[0])
        if reached >= STATES.index("hello"):
            self._hello([])
            if self.factory.settings.offer.role == "submission":
                self.send(b"AUTH PLAIN AGFkYUBleGFtcGxlLnRlc3QAc2VjcmV0\r\n")
        for line in _ON_THE_WAY[: max(0, reached - 1)]:
            self.send(line)
        self.received()

    def _break(self, words: list[str]) -> None:
        (what,) = words
        if what == "spool":
            self.spool.fault = OSError("the disk is gone")
        elif what == "full":
            self.spool.fault = SpoolFull("no room")
        elif what == "queue":
            self.spool.queue_fault = OSError("the disk is gone")
        elif what == "aliases":
            directory: Any = self.directory
            directory.resolve = lambda address: Alias(address, (address,))
        else:
            assert what == "directory", what
            self.directory.close()

    def _stop(self, words: list[str]) -> None:
        self.factory.stop()

    def _lose(self, words: list[str]) -> None:
        self.wire.lose(ConnectionLost())

    def _closed(self, words: list[str]) -> None:
        assert self.wire.is_closed, "the connection is still open"

    def _open(self, words: list[str]) -> None:
        assert not self.wire.is_closed, "the connection is closed"

    def _kept(self, words: list[str]) -> None:
        found = len(self.spool.messages)
        assert found == int(words[0]), f"{found} messages were accepted"

    def _envelope(self, words: list[str]) -> None:
        envelope = self.spool.messages[-1][0]
        found = [f"<{envelope.reverse_path}>", *(f"<{each.address}>" for each in envelope.recipients)]
        assert found == words, f"the envelope is {found}"

    def _envelope_has(self, words: list[str]) -> None:
        """``name value``: a field of the last message's envelope."""
        found = str(getattr(self.spool.messages[-1][0], words[0]))
        assert found == " ".join(words[1:]), f"{words[0]} is {found}"

    def _begins(self, words: list[str]) -> None:
        content = self.spool.messages[-1][1]
        assert content.startswith(octets(" ".join(words))), f"the content is {content!r}"

    def _ends(self, words: list[str]) -> None:
        content = self.spool.messages[-1][1]
        assert content.endswith(octets(" ".join(words))), f"the content is {content!r}"
