"""The MDA's mailbox agent: the header it builds, the outcomes it names, the content it trims."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailserver.deliver.automatic import beginning_of
from mailserver.deliver.header import HEAD_OCTETS, head_of, without_return_path
from mailserver.deliver.mailbox import MailboxAgent
from mailserver.interfaces import Delivery, IDeliveryAgent, IMailbox, IMaildrop, MailboxUnavailable
from mailserver.threads import Bridge
from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.content import Content, FileContent, MemoryContent, PiecesContent
from mailserver.values.envelope import Entry, Envelope, Recipient, Waiting
from mailserver.values.outcome import Delayed, Delivered, Failed, Outcome

BOB = Address("bob", "elsewhere.test")


class Reactor:
    """Runs what threads ask for when it is told to."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def callFromThread(self, callable: Callable[[], object]) -> None:
        self.calls.append(callable)

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


@implementer(IMailbox)
class Mailbox:
    """Takes deliveries and keeps their futures for the test to finish."""

    format = "maildir"

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.futures: list[Future[None]] = []

    def deliver(self, delivery: Delivery) -> Future[None]:
        self.deliveries.append(delivery)
        self.futures.append(Future())
        return self.futures[-1]

    def maildrop(self) -> IMaildrop:
        raise AssertionError("nobody reads here")


def recipient(number: int, local: str = "ada") -> Recipient:
    address = Address(local, "example.test")
    return Recipient(number, address, address)


def entry_of(
    *recipients: Recipient,
    octets: bytes = b"Subject: x\r\n\r\nHello\r\n",
    sender: Address = BOB,
    recovered: bool = False,
    attempts: int = 0,
    content: Content | None = None,
) -> Entry:
    waiting = tuple(Waiting(r, attempts) for r in recipients)
    return Entry(77, 5.5, Envelope(sender, recipients), waiting, content or MemoryContent(octets), recovered)


class Setup:
    def __init__(self) -> None:
        self.reactor = Reactor()
        self.mailbox = Mailbox()
        self.agent = MailboxAgent(
            Bridge(self.reactor),
            lambda r: self.mailbox if r.address.local != "nobody" else None,
            "mx.example.test",
        )

    def outcomes(self, waiting: Deferred[object]) -> list[Outcome]:
        self.reactor.turn()
        got: list[list[Outcome]] = []
        waiting.addCallback(got.append)
        assert got, "no outcome yet"
        return got[0]

    def one(self, error: BaseException | None) -> Outcome:
        """The outcome of one delivery that ends as told."""
        waiting = self.agent.attempt(entry_of(recipient(0)), [recipient(0)])
        if error is None:
            self.mailbox.futures[0].set_result(None)
        else:
            self.mailbox.futures[0].set_exception(error)
        return self.outcomes(waiting)[0]


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_it_provides_the_interface(setup: Setup) -> None:
    verifyObject(IDeliveryAgent, setup.agent)


def test_a_delivery_has_its_name_and_final_header(setup: Setup) -> None:
    setup.agent.attempt(entry_of(recipient(3)), [recipient(3)])
    (delivery,) = setup.mailbox.deliveries
    assert delivery.name == f"{entry_of().queue_id}.3"
    assert delivery.header == b"Return-Path: <bob@elsewhere.test>\r\nDelivered-To: ada@example.test\r\n"
    assert (delivery.arrived, delivery.reverse_path, delivery.repeated) == (5.5, BOB, False)


def test_the_null_sender_is_shown_as_such(setup: Setup) -> None:
    setup.agent.attempt(entry_of(recipient(0), sender=NULL_SENDER), [recipient(0)])
    assert setup.mailbox.deliveries[0].header.startswith(b"Return-Path: <>\r\n")


@pytest.mark.parametrize(("recovered", "attempts"), [(True, 0), (False, 1)])
def test_a_second_attempt_says_so(setup: Setup, recovered: bool, attempts: int) -> None:
    entry = entry_of(recipient(0), recovered=recovered, attempts=attempts)
    setup.agent.attempt(entry, [recipient(0)])
    assert setup.mailbox.deliveries[0].repeated


def test_success(setup: Setup) -> None:
    outcome = setup.one(None)
    assert isinstance(outcome, Delivered)
    assert outcome.relay == "maildir"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/secret/path"), "4.3.1"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/secret/path"), "4.2.2"),
        (OSError(errno.EACCES, "Permission denied", "/secret/path"), "4.2.0"),
        (OSError("/secret/path is not a regular file"), "4.2.0"),
        (MailboxUnavailable("the mbox is locked"), "4.2.0"),
        (ZeroDivisionError("/secret/path"), "4.3.0"),
    ],
)
def test_a_fault_here_is_a_delay_and_no_path_leaves_the_house(
    setup: Setup, error: Exception, status: str
) -> None:
    outcome = setup.one(error)
    assert isinstance(outcome, Delayed)
    assert outcome.status == status
    assert outcome.diagnostic
    assert "secret" not in outcome.diagnostic


def test_one_outcome_for_each_recipient_in_order_after_one_wake_up(setup: Setup) -> None:
    recipients = [recipient(0), recipient(1, "nobody"), recipient(2, "eve")]
    waiting = setup.agent.attempt(entry_of(*recipients), recipients)
    setup.mailbox.futures[1].set_exception(OSError(errno.EIO, "Input/output error"))
    assert setup.reactor.calls == []
    setup.mailbox.futures[0].set_result(None)
    assert len(setup.reactor.calls) == 1
    outcomes = setup.outcomes(waiting)
    assert [outcome.recipient for outcome in outcomes] == recipients
    assert [type(outcome) for outcome in outcomes] == [Delivered, Failed, Delayed]
    assert outcomes[1].status == "5.1.1"


def test_content_that_cannot_be_read_delays_all(setup: Setup, tmp_path: Path) -> None:
    entry = entry_of(recipient(0), content=FileContent(tmp_path / "gone", 10))
    (outcome,) = setup.outcomes(setup.agent.attempt(entry, [recipient(0)]))
    assert isinstance(outcome, Delayed)
    assert setup.mailbox.deliveries == []


def test_a_bug_in_one_mailbox_delays_its_recipient_only(setup: Setup) -> None:
    def broken(wanted: Recipient) -> IMailbox | None:
        if wanted.number == 0:
            raise ZeroDivisionError
        return setup.mailbox

    setup.agent = MailboxAgent(Bridge(setup.reactor), broken, "mx.example.test")
    recipients = [recipient(0), recipient(1)]
    waiting = setup.agent.attempt(entry_of(*recipients), recipients)
    setup.mailbox.futures[0].set_result(None)
    assert [outcome.status for outcome in setup.outcomes(waiting)] == ["4.3.0", "2.0.0"]


@pytest.mark.parametrize("field", [b"Delivered-To: ada@example.test", b"delivered-to:\r\n ADA@example.test "])
def test_a_message_that_was_here_before_loops(setup: Setup, field: bytes) -> None:
    entry = entry_of(recipient(0), recipient(1, "eve"), octets=b"A: b\r\n" + field + b"\r\n\r\nHello\r\n")
    waiting = setup.agent.attempt(entry, [recipient(0), recipient(1, "eve")])
    setup.mailbox.futures[0].set_result(None)
    looped, delivered = setup.outcomes(waiting)
    assert isinstance(looped, Failed)
    assert looped.status == "5.4.6"
    assert isinstance(delivered, Delivered)


def test_delivered_to_in_the_body_is_no_loop(setup: Setup) -> None:
    entry = entry_of(recipient(0), octets=b"A: b\r\n\r\nDelivered-To: ada@example.test\r\n")
    setup.agent.attempt(entry, [recipient(0)])
    assert len(setup.mailbox.deliveries) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"Return-Path: <old@a.test>\r\nA: b\r\n\r\nbody\r\n", b"A: b\r\n\r\nbody\r\n"),
        (
            b"A: b\r\nRETURN-PATH:\r\n\t<old@a.test>\r\n  more\r\nC: d\r\nreturn-path: x\r\nE: f\r\n\r\nbody",
            b"A: b\r\nC: d\r\nE: f\r\n\r\nbody",
        ),
        (b"A: b\r\nReturn-Path: <x>\r\n\r\nbody", b"A: b\r\n\r\nbody"),
        (b"A: b\r\n\r\nReturn-Path: <x>\r\n", b"A: b\r\n\r\nReturn-Path: <x>\r\n"),
        (b"A: b\r\nX-Return-Path: <x>\r\n\r\n", b"A: b\r\nX-Return-Path: <x>\r\n\r\n"),
        (b"Return-Path: <x>", b""),
        (b"", b""),
    ],
)
def test_older_return_paths_go(before: bytes, after: bytes, tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(before)
    for content in (MemoryContent(before), FileContent(tmp_path / "content", len(before))):
        trimmed = without_return_path(content, head_of(content))
        assert b"".join(trimmed.chunks()) == after
        assert trimmed.size == len(after)


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_header_is_found_wherever_it_was_cut(cut: int) -> None:
    octets = b"A: b\r\nC: d\r\n\r\nbody\r\n\r\nmore"
    pieces = tuple(octets[at : at + cut] for at in range(0, len(octets), cut))
    assert head_of(PiecesContent(pieces, len(octets))) == b"A: b\r\nC: d\r\n"


def test_many_small_pieces_of_a_header_stop_nobody_else() -> None:
    content = PiecesContent((b"a:\r\n" * 16,) * 5000, 5000 * 64)
    began = time.process_time()
    assert len(head_of(content)) == HEAD_OCTETS
    assert len(beginning_of(content)) >= HEAD_OCTETS
    assert time.process_time() - began < 0.1  # quadratic, it was half a second


def test_a_header_without_end_is_searched_in_bounded_memory() -> None:
    content = MemoryContent(b"x" * (HEAD_OCTETS * 3))
    assert len(head_of(content)) == HEAD_OCTETS
