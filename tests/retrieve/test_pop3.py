"""POP3 sessions over a transport: back-pressure, time limits, lost connections, stopping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailserver.interfaces import IMaildrop, IMaildropOwner, LoginUnavailable, MaildropInUse, MaildropUnusable
from mailserver.login import Authenticator
from mailserver.retrieve import opening, outlet, pop3, reading
from mailserver.retrieve import settings as times
from mailserver.retrieve.message import CHUNK_OCTETS
from mailserver.retrieve.pop3 import Pop3Factory
from mailserver.retrieve.settings import Pop3Settings
from mailserver.sockets import TURN_OCTETS
from mailserver.values.account import Account
from mailserver.values.address import Address
from mailserver.values.listing import Listings
from mailserver.wire.sasl_mechanisms import Surroundings
from mailserver.wire.sasl_scram import ScramVerifier
from tests.dialogues.transports import Wire

BIG = 64 * 1024 * 40
"""A message that is many times what may be in memory."""


@implementer(IMaildrop)
class Drop:
    def __init__(self, sizes: list[int], real: dict[int, int] | None = None) -> None:
        self.listings = Listings(sizes, [f"id{n}" for n in range(len(sizes))])
        self.real = real or {}
        self.marked: set[int] = set()
        self.released = 0
        self.committed: set[int] | None = None
        self.given = 0
        self.error: Exception | None = None
        self.fails_after = -1
        self.is_in_memory = True
        self.looks = 0

    def read(self, index: int) -> Iterator[bytes]:
        if self.error:
            raise self.error
        return self._pieces(self.real.get(index, self.listings[index].octets))

    def _pieces(self, octets: int) -> Iterator[bytes]:
        pieces = 0
        while octets:
            if pieces == self.fails_after:
                raise OSError(5, "Input/output error")
            piece = min(octets, 64 * 1024)
            octets -= piece
            pieces += 1
            self.given += piece
            yield b"x" * (piece - 2) + b"\r\n"

    def whole(self, index: int) -> bytes | None:
        self.looks += 1
        octets = self.real.get(index, self.listings.octets[index])
        if self.error or not self.is_in_memory or octets != self.listings.octets[index]:
            return None
        return b"".join(self.read(index))

    def mark(self, index: int) -> None:
        self.marked.add(index)

    def unmark_all(self) -> None:
        self.marked.clear()

    def commit(self) -> int:
        if self.error:
            raise self.error
        self.committed = set(self.marked)
        return 0

    def release(self) -> None:
        self.released += 1


class Threads:
    """Workers whose calls run when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def call(self, function: Any, *args: Any) -> Deferred[Any]:
        result: Deferred[Any] = Deferred()
        self.waiting.append((result, lambda: function(*args)))
        return result

    def run(self) -> None:
        while self.waiting:
            self.run_one()

    def run_one(self) -> None:
        result, work = self.waiting.pop(0)
        try:
            value = work()
        except Exception:
            result.errback(Failure())
        else:
            result.callback(value)


class Owner:
    account = Account(Address("ada", "example.test"))

    def __init__(self, drop: Deferred[Any]) -> None:
        self._drop = drop

    def maildrop(self, locked: Callable[[], None]) -> Deferred[Any]:
        return self._drop


class Portal:
    """Knows one password; the maildrop is what the test has put here."""

    def __init__(self) -> None:
        self.drop: Deferred[Any] = Deferred()
        self.error: Exception | None = None

    def login(self, credentials: UsernamePassword, mind: object, interface: object) -> Deferred[Any]:
        assert interface is IMaildropOwner
        if self.error:
            return fail(self.error)
        if credentials.password != b"right":
            return fail(UnauthorizedLogin())
        return succeed((interface, Owner(self.drop), lambda: None))


class Penalty:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.told: list[str] = []

    def wait_for(self, host: str, name: str) -> float:
        return self.seconds

    def failed(self, host: str, name: str) -> None:
        self.told.append(f"failed {host}")

    def succeeded(self, host: str, name: str) -> None:
        self.told.append(f"succeeded {host}")


def nobodys_verifier(name: str, mechanism: str) -> ScramVerifier:
    raise AssertionError("nobody logs in by SCRAM here")


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.threads, self.portal, self.penalty = Clock(), Threads(), Portal(), Penalty()
        self.log: list[tuple[str, Any]] = []
        for name in ("login", "login_failed", "pop3_session", "fault"):
            self.patch(pop3.maillog, name, self.recorder(name))
        self.factory = self.made()
        self.connect()

    def recorder(self, name: str) -> Callable[..., None]:
        return lambda *args, **named: self.log.append((name, named or args))

    def made(self, **settings: Any) -> Pop3Factory:
        settings = {"allow_cleartext": True, **settings}
        around = Surroundings("mx.test", nobodys_verifier)
        authenticator = Authenticator(
            self.portal,  # type: ignore[arg-type]
            self.penalty,  # type: ignore[arg-type]
            self.clock,
            "pop3",
            IMaildropOwner,
            around,
        )
        return Pop3Factory(
            Pop3Settings("mx.test", authenticator, self.threads, self.clock, **settings)  # type: ignore[arg-type]
        )

    def connect(self) -> None:
        self.session = self.factory.buildProtocol(None)
        self.wire = Wire(self.session)
        self.session.makeConnection(self.wire)

    def tearDown(self) -> None:
        self.wire.lose(ConnectionLost())
        self.threads.run()
        assert not self.factory.sessions
        assert not [c for c in self.clock.getDelayedCalls() if c.active()]

    def say(self, octets: bytes) -> bytes:
        self.session.dataReceived(octets)
        return self.heard()

    def heard(self) -> bytes:
        written = self.wire.value()
        self.wire.clear()
        return written

    def log_in(self, drop: Drop) -> None:
        self.portal.drop = succeed(drop)
        assert b"+OK Logged in" in self.say(b"USER ada\r\nPASS right\r\n")


class LogInTests(Case):
    def test_waits_for_the_maildrop(self) -> None:
        assert b"Logged" not in self.say(b"USER ada\r\nPASS right\r\nSTAT\r\n")
        self.portal.drop.callback(Drop([10]))
        assert self.heard() == b"+OK Logged in, 1 message, 10 octets\r\n+OK 1 10\r\n"
        assert self.penalty.told == ["succeeded 127.0.0.1"]
        assert self.log == [("login", ("pop3", "127.0.0.1", "ada", False))]

    def test_a_wrong_password(self) -> None:
        assert self.say(b"USER ada\r\nPASS x\r\n").endswith(b"-ERR [AUTH] Wrong user name or password\r\n")
        assert self.penalty.told == ["failed 127.0.0.1"]
        assert self.log == [("login_failed", ("pop3", "127.0.0.1", "ada", "USER"))]

    def test_the_penalty_comes_first(self) -> None:
        self.penalty.seconds = 4
        self.portal.drop = succeed(Drop([]))
        assert b"Logged" not in self.say(b"USER ada\r\nPASS right\r\n")
        self.clock.advance(4)
        assert b"+OK Logged in" in self.heard()

    def test_who_leaves_during_the_penalty_has_not_tried(self) -> None:
        self.penalty.seconds = 4
        self.say(b"USER ada\r\nPASS x\r\n")
        self.wire.lose(ConnectionLost())
        self.clock.advance(4)
        assert self.penalty.told == []

    def test_who_leaves_during_the_penalty_opens_no_maildrop(self) -> None:
        self.penalty.seconds = 4
        self.say(b"USER ada\r\nPASS right\r\n")
        self.wire.lose(ConnectionLost())
        drop = Drop([10])
        self.portal.drop = succeed(drop)
        self.clock.advance(4)
        self.threads.run()
        assert drop.released == 0

    def test_an_exchange(self) -> None:
        self.portal.drop = succeed(Drop([]))
        assert self.say(b"AUTH LOGIN\r\n").endswith(b"+ VXNlcm5hbWU6\r\n")
        assert self.say(b"YWRh\r\n") == b"+ UGFzc3dvcmQ6\r\n"
        assert self.say(b"cmlnaHQ=\r\n").startswith(b"+OK Logged in")
        assert self.log == [("login", ("pop3", "127.0.0.1", "ada", False))]

    def test_an_exchange_that_breaks_the_rules(self) -> None:
        assert self.say(b"AUTH PLAIN YWRh\r\n").endswith(
            b"-ERR Expected [authorization] NUL name NUL password\r\n"
        )
        assert (
            self.say(b"AUTH PLAIN YgBhAGM=\r\n") == b"-ERR [AUTH] Acting as another user is not allowed\r\n"
        )

    def test_in_use(self) -> None:
        self.patch(opening, "WAIT_SECONDS", 0.0)
        self.portal.drop = fail(MaildropInUse("another"))
        assert b"-ERR [IN-USE] " in self.say(b"USER ada\r\nPASS right\r\n")

    def test_a_maildrop_that_cannot_be_opened(self) -> None:
        self.portal.drop = fail(OSError(5, "Input/output error on /secret"))
        answer = self.say(b"USER ada\r\nPASS right\r\n")
        assert b"-ERR [SYS/TEMP] The maildrop cannot be opened now\r\n" in answer
        assert self.log[0][0] == "fault"

    def test_a_maildrop_that_somebody_has_to_mend(self) -> None:
        for error in (PermissionError(13, "secret path"), MaildropUnusable("cur is not a folder")):
            self.portal.drop = fail(error)
            answer = self.say(b"USER ada\r\nPASS right\r\n")
            assert (
                b"-ERR [SYS/PERM] The maildrop cannot be opened; the postmaster has to mend it\r\n" in answer
            )
            assert self.log.pop()[0] == "fault"

    def test_a_directory_that_cannot_be_read(self) -> None:
        self.portal.error = LoginUnavailable()
        assert b"-ERR [SYS/TEMP] " in self.say(b"USER ada\r\nPASS right\r\n")
        assert self.penalty.told == []

    def test_a_connection_lost_meanwhile_unlocks(self) -> None:
        self.say(b"USER ada\r\nPASS right\r\n")
        self.wire.lose(ConnectionLost())
        drop = Drop([10])
        self.portal.drop.callback(drop)
        self.threads.run()
        assert drop.released == 1
        assert self.log == []

    def test_a_bug_in_a_checker_is_no_wrong_password(self) -> None:
        self.portal.error = ZeroDivisionError()
        assert b"-ERR [SYS/TEMP] " in self.say(b"USER ada\r\nPASS right\r\n")
        assert self.log[0][0] == "fault"

    def test_a_bug_ends_the_session_and_no_other(self) -> None:
        broken = Drop([])
        broken.listings = None  # type: ignore[assignment]
        self.portal.drop = succeed(broken)
        self.say(b"USER ada\r\nPASS right\r\n")
        assert self.wire.was_aborted
        assert self.log[0][0] == "fault"


class ReadingTests(Case):
    def writes(self) -> list[bytes]:
        """What is written from now on, write by write."""
        writes: list[bytes] = []
        self.session._outlet._write = writes.append
        return writes

    def test_a_small_message_is_one_write_without_threads(self) -> None:
        self.log_in(Drop([100]))
        writes = self.writes()
        self.session.dataReceived(b"RETR 1\r\n")
        assert writes == [b"+OK 100 octets\r\n" + b"x" * 98 + b"\r\n.\r\n"]
        assert self.threads.waiting == []

    def test_pipelined_small_messages_are_one_write(self) -> None:
        self.log_in(Drop([100, 100]))
        writes = self.writes()
        self.session.dataReceived(b"RETR 1\r\nRETR 2\r\nNOOP\r\n")
        assert len(writes) == 1
        assert writes[0].count(b"+OK") == 3

    def test_a_large_message_is_read_in_a_thread(self) -> None:
        self.log_in(Drop([BIG]))
        assert self.say(b"RETR 1\r\nNOOP\r\n") == b""
        self.threads.run()
        assert self.heard() == b"+OK %d octets\r\n" % BIG + (b"x" * 65534 + b"\r\n") * 40 + b".\r\n+OK\r\n"

    def test_what_the_disk_must_be_waited_for_is_read_in_a_thread(self) -> None:
        drop = Drop([100])
        drop.is_in_memory = False
        self.log_in(drop)
        for _ in range(times.READ_IN_THREADS + 1):
            assert self.say(b"RETR 1\r\n") == b""
            self.threads.run_one()
            assert self.threads.waiting == [], "one call is enough for a small message"
            assert self.heard() == b"+OK 100 octets\r\n" + b"x" * 98 + b"\r\n.\r\n"
        assert drop.looks == 1
        drop.is_in_memory = True
        assert self.say(b"RETR 1\r\n").endswith(b".\r\n")
        assert self.threads.waiting == []

    def test_the_next_message_is_ready_before_it_is_asked_for(self) -> None:
        drop = Drop([100, 120, 140])
        self.log_in(drop)
        for number, looks in ((1, 2), (2, 3), (3, 3)):
            assert self.say(b"RETR %d\r\n" % number).endswith(b"x" * (78 + 20 * number) + b"\r\n.\r\n")
            assert drop.looks == looks
            self.say(b"DELE %d\r\nNOOP\r\n" % number)
            assert drop.looks == looks

    def test_what_was_made_ready_is_the_message_that_is_asked_for(self) -> None:
        drop = Drop([100, 120, 140])
        self.log_in(drop)
        self.say(b"RETR 1\r\n")
        assert self.say(b"TOP 2 0\r\n").endswith(b"\r\n.\r\n")
        assert self.say(b"RETR 3\r\n").endswith(b"x" * 138 + b"\r\n.\r\n")
        assert self.say(b"RETR 2\r\n").endswith(b"x" * 118 + b"\r\n.\r\n")
        assert self.say(b"RETR 2\r\n").endswith(b"x" * 118 + b"\r\n.\r\n")

    def test_nothing_is_made_ready_for_who_jumps_about(self) -> None:
        drop = Drop([100, 120, 140])
        self.log_in(drop)
        self.say(b"RETR 2\r\n")
        self.say(b"RETR 1\r\n")
        assert drop.looks == 2
        self.say(b"RETR 2\r\n")
        assert drop.looks == 4

    def test_a_large_message_is_not_made_ready(self) -> None:
        drop = Drop([100, BIG])
        self.log_in(drop)
        self.say(b"RETR 1\r\n")
        assert (drop.looks, drop.given) == (1, 100)

    def test_a_next_message_that_is_not_in_memory_is_read_in_a_thread(self) -> None:
        self.log_in(Drop([100, 120], {1: 119}))
        self.say(b"RETR 1\r\n")
        assert self.threads.waiting == [], "nobody has asked for it"
        assert self.say(b"RETR 2\r\n") == b""
        self.threads.run()
        assert self.heard().endswith(b"x" * 117 + b"\r\n.\r\n")

    def test_a_fault_in_a_message_that_nobody_has_asked_for_harms_nobody(self) -> None:
        drop = Drop([100, 120])
        self.log_in(drop)
        whole = drop.whole
        drop.whole = lambda index: whole(index) if index == 0 else 1 // 0  # type: ignore[method-assign,return-value]
        assert self.say(b"RETR 1\r\n").endswith(b".\r\n")
        assert self.say(b"DELE 1\r\nQUIT\r\n") == b"+OK Message 1 marked as deleted\r\n"
        self.threads.run()
        assert drop.committed == {0}

    def test_what_is_ready_is_bounded_over_all_sessions(self) -> None:
        drop = Drop([100, 120, 140])
        self.log_in(drop)
        ahead = self.session.factory.ahead
        self.say(b"RETR 1\r\n")
        assert ahead.octets == 123
        ahead.octets += reading.AHEAD_OCTETS
        self.say(b"RETR 2\r\n")
        assert (ahead.octets, drop.looks) == (reading.AHEAD_OCTETS, 2)
        ahead.octets = 0
        self.say(b"RETR 3\r\nRETR 1\r\nRETR 2\r\n")
        assert ahead.octets == 143
        self.say(b"QUIT\r\n")
        assert ahead.octets == 0

    def test_answers_leave_before_anything_is_made_ready(self) -> None:
        drop = Drop([100, 120, 140])
        self.log_in(drop)
        looks: list[int] = []
        self.session._outlet._write = lambda _: looks.append(drop.looks)
        self.session.dataReceived(b"RETR 1\r\nRETR 2\r\n")
        assert (looks, drop.looks) == ([2], 3)

    def test_a_slow_reader_costs_little(self) -> None:
        drop = Drop([BIG])
        self.log_in(drop)
        self.wire.is_read = False
        self.session.dataReceived(b"RETR 1\r\nNOOP\r\n")
        self.threads.run()
        received = []
        while drop.given < BIG:
            before = drop.given
            received.append(self.wire.read_all())
            self.threads.run()
            assert 0 < drop.given - before <= 3 * CHUNK_OCTETS
        for _ in range(3):
            received.append(self.wire.read_all())
            self.threads.run()
        assert self.wire.most_unread < 200 * 1024
        octets = b"".join(received)
        assert octets.endswith(b"\r\n.\r\n+OK\r\n")
        assert octets.count(b"x") == BIG - 80

    def test_a_reader_that_never_reads_is_dropped(self) -> None:
        drop = Drop([BIG])
        self.log_in(drop)
        self.wire.is_read = False
        self.session.dataReceived(b"RETR 1\r\n")
        self.threads.run()
        self.clock.advance(times.IDLE_SECONDS + 1)
        assert self.wire.was_aborted
        self.threads.run()
        assert drop.released == 1

    def test_pipelined_messages_wait_for_the_reader(self) -> None:
        drop = Drop([20_000] * 100)
        self.log_in(drop)
        self.wire.is_read = False
        self.session.dataReceived(b"".join(b"RETR %d\r\n" % n for n in range(1, 101)))
        assert drop.given < 200_000
        total = b""
        for _ in range(40):
            total += self.wire.read_all()
        assert total.count(b"+OK 20000 octets\r\n") == 100
        assert self.wire.most_unread < 200_000

    def test_a_long_list_waits_for_the_reader(self) -> None:
        self.log_in(Drop([1000] * 50_000))
        self.wire.is_read = False
        self.session.dataReceived(b"UIDL\r\nLIST\r\n")
        assert self.wire.most_unread < 100_000
        total = b""
        while not total.endswith(b"\r\n50000 1000\r\n.\r\n"):
            more = self.wire.read_all()
            assert more
            total += more
        assert total.count(b"\r\n") == 2 * 50_002

    def test_a_client_that_reads_as_fast_as_we_write_leaves_turns_to_others(self) -> None:
        direct: list[bytes] = []
        self.patch(outlet, "direct_writer", lambda transport: direct.append)
        self.wire.lose(ConnectionLost())
        self.connect()
        self.log_in_unheard(Drop([1000] * 50_000))
        direct.clear()
        self.wire.is_read = False
        self.session.dataReceived(b"UIDL\r\nNOOP\r\n")
        total = b""
        for turn in range(1, 100):
            octets = sum(map(len, direct))
            assert octets <= turn * (TURN_OCTETS + 32 * 1024)
            assert self.wire.most_unread < 100_000
            total += b"".join(direct) + b"".join(self.wire.unread)
            direct.clear()
            if total.endswith(b"\r\n.\r\n+OK\r\n"):
                break
            self.wire.read_all()
        assert turn > 2
        assert total.count(b"\r\n") == 50_003
        lines = total.split(b"\r\n")
        assert lines[1:50_001] == [b"%d id%d" % (n + 1, n) for n in range(50_000)]

    def log_in_unheard(self, drop: Drop) -> None:
        self.portal.drop = succeed(drop)
        self.session.dataReceived(b"USER ada\r\nPASS right\r\n")

    def test_who_sends_without_reading_is_not_heard(self) -> None:
        self.log_in(Drop([BIG]))
        self.wire.is_read = False
        self.session.dataReceived(b"RETR 1\r\n")
        self.threads.run()
        self.session.dataReceived(b"NOOP\r\n" * 1000)
        assert self.wire.producerState == "producing"
        self.session.dataReceived(b"NOOP\r\n" * 3000)
        assert self.wire.producerState == "paused"
        for _ in range(100):
            self.wire.read_all()
            self.threads.run()
        assert self.wire.producerState == "producing"

    def test_a_size_that_lies_is_read_in_a_thread_all_the_same(self) -> None:
        drop = Drop([100], {0: BIG})
        self.log_in(drop)
        assert self.say(b"RETR 1\r\n") == b""
        self.threads.run_one()
        assert self.heard().startswith(b"+OK 100 octets\r\nxxx")
        assert drop.given <= 128 * 1024
        self.threads.run()
        assert self.heard().endswith(b"x\r\n.\r\n")

    def test_unreadable(self) -> None:
        for size in (100, BIG):
            drop = Drop([size])
            self.log_in(drop)
            drop.error = OSError(5, "Input/output error on /secret")
            self.session.dataReceived(b"RETR 1\r\n")
            self.threads.run()
            assert self.heard() == b"-ERR [SYS/TEMP] The message cannot be read now\r\n"
            self.wire.lose(ConnectionLost())
            self.connect()

    def test_unreadable_in_the_middle(self) -> None:
        drop = Drop([BIG])
        drop.fails_after = 3
        self.log_in(drop)
        self.session.dataReceived(b"RETR 1\r\nNOOP\r\n")
        self.threads.run()
        assert self.wire.was_aborted
        assert not self.heard().endswith(b".\r\n")
        assert drop.released == 1

    def test_the_lock_outlives_a_read_under_way(self) -> None:
        drop = Drop([BIG])
        self.log_in(drop)
        self.session.dataReceived(b"RETR 1\r\n")
        self.wire.lose(ConnectionLost())
        assert len(self.threads.waiting) == 1, "released while a thread reads"
        self.threads.run()
        assert drop.released == 1

    def test_top_of_a_large_message_reads_little(self) -> None:
        drop = Drop([BIG])
        drop._pieces = self._endless  # type: ignore[method-assign]
        self.log_in(drop)
        self.session.dataReceived(b"TOP 1 1\r\n")
        self.threads.run()
        assert self.heard() == b"+OK Top of message follows\r\nA: b\r\n\r\none\r\n.\r\n"

    def _endless(self, octets: int) -> Iterator[bytes]:
        yield b"A: b\r\n\r\none\r\ntw"
        raise AssertionError("read too far")


class EndTests(Case):
    def test_the_log_tells_what_happened(self) -> None:
        self.log_in(Drop([100, 50, 7]))
        self.session.dataReceived(b"RETR 1\r\nTOP 2 0\r\nRETR 2\r\nDELE 1\r\nQUIT\r\n")
        self.threads.run()
        assert self.heard().endswith(b"+OK Goodbye\r\n")
        assert self.wire.is_closed
        assert self.log[1:] == [
            (
                "pop3_session",
                {
                    "client": "127.0.0.1",
                    "user": "ada",
                    "reason": "Logged out",
                    "retrieved": 2,
                    "octets": 150,
                    "deleted": 1,
                    "left": 2,
                },
            )
        ]

    def test_quit_removes_then_unlocks_then_answers(self) -> None:
        drop = Drop([1, 2])
        self.log_in(drop)
        assert self.say(b"DELE 2\r\nQUIT\r\n") == b"+OK Message 2 marked as deleted\r\n"
        self.threads.run()
        assert drop.committed == {1}
        assert drop.released == 1
        assert self.heard() == b"+OK Goodbye\r\n"

    def test_quit_goes_on_without_its_client(self) -> None:
        drop = Drop([1, 2])
        self.log_in(drop)
        self.say(b"DELE 2\r\nQUIT\r\n")
        self.wire.lose(ConnectionLost())
        self.threads.run()
        assert drop.committed == {1}
        assert drop.released == 1

    def test_an_update_that_fails(self) -> None:
        drop = Drop([1, 2])
        self.log_in(drop)
        drop.error = OSError(30, "Read-only file system")
        self.say(b"DELE 2\r\nQUIT\r\n")
        self.threads.run()
        assert self.heard() == b"-ERR [SYS/TEMP] some deleted messages not removed\r\n"
        assert drop.released == 1
        assert self.wire.is_closed

    def test_a_lost_connection_removes_nothing(self) -> None:
        drop = Drop([1, 2])
        self.log_in(drop)
        self.say(b"DELE 1\r\n")
        self.wire.lose(ConnectionLost())
        self.threads.run()
        assert drop.committed is None
        assert drop.released == 1
        assert self.log[-1][1]["left"] == 2

    def test_reading_is_activity(self) -> None:
        self.log_in(Drop([BIG]))
        self.wire.is_read = False
        self.session.dataReceived(b"RETR 1\r\n")
        self.threads.run()
        for _ in range(5):
            self.clock.advance(times.IDLE_SECONDS - 1)
            assert self.wire.read_all()
            self.threads.run()
        assert not self.wire.is_closed

    def test_a_slow_disk_is_not_the_clients_fault(self) -> None:
        self.log_in(Drop([BIG]))
        self.session.dataReceived(b"RETR 1\r\n")
        self.clock.advance(times.IDLE_SECONDS + 1)
        assert not self.wire.is_closed

    def test_a_last_response_that_does_not_leave(self) -> None:
        self.patch(self.wire, "loseConnection", lambda: None)
        self.say(b"QUIT\r\n")
        assert not self.wire.is_closed
        self.clock.advance(times.LAST_SECONDS + 1)
        assert self.wire.was_aborted


class StopTests(Case):
    def test_nobody_there(self) -> None:
        self.wire.lose(ConnectionLost())
        assert self.successResultOf(self.factory.stop()) is None

    def test_idle_sessions_end_at_once(self) -> None:
        drop = Drop([1])
        self.log_in(drop)
        self.say(b"DELE 1\r\n")
        self.successResultOf(self.factory.stop())
        assert self.heard() == b"-ERR [SYS/TEMP] The server is stopping\r\n"
        assert self.wire.is_closed
        self.threads.run()
        assert drop.committed is None
        assert drop.released == 1

    def test_the_command_at_hand_is_answered(self) -> None:
        self.log_in(Drop([BIG]))
        self.say(b"RETR 1\r\nNOOP\r\n")
        stopped = self.factory.stop()
        self.assertNoResult(stopped)
        self.threads.run()
        assert self.heard().endswith(b"x\r\n.\r\n-ERR [SYS/TEMP] The server is stopping\r\n")
        self.successResultOf(stopped)

    def test_but_not_for_ever(self) -> None:
        self.log_in(Drop([BIG]))
        self.wire.is_read = False
        self.say(b"RETR 1\r\n")
        self.threads.run()
        stopped = self.factory.stop()
        self.assertNoResult(stopped)
        self.clock.advance(times.LAST_SECONDS + 1)
        self.successResultOf(stopped)
        assert self.wire.was_aborted


class TLSTests(Case):
    def made(self, **settings: Any) -> Pop3Factory:
        return super().made(tls=object(), allow_cleartext=False, **settings)

    def test_the_log_knows_of_tls(self) -> None:
        self.portal.drop = succeed(Drop([]))
        self.say(b"STLS\r\n")
        assert self.wire.tls is self.factory.settings.tls
        self.session.handshakeCompleted()
        self.say(b"USER ada\r\nPASS right\r\n")
        assert self.log == [("login", ("pop3", "127.0.0.1", "ada", True))]

    def test_a_client_that_sends_at_once_after_the_handshake(self) -> None:
        self.say(b"STLS\r\n")
        self.session.handshakeCompleted()
        assert self.say(b"CAPA\r\n").startswith(b"+OK Capability")

    def test_injected_commands_never_run(self) -> None:
        self.say(b"STLS\r\nUSER ada\r\nPASS right\r\n")
        assert self.wire.was_aborted
        assert self.wire.tls is None
        assert self.log == []
