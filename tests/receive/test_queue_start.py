"""ETRN: who may start which queue, and that floods of it start nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailserver.interfaces import SpoolUnavailable
from mailserver.receive.queue_start import FAILED, MOST_DOMAINS, NOT_ALLOWED, PAUSE_SECONDS, QueueStart
from mailserver.threads import Bridge
from mailserver.values.account import Account
from mailserver.values.address import Address
from mailserver.values.reply import Reply
from mailserver.values.session import SessionFacts


class Soon:
    def callFromThread(self, function: Callable[[], object]) -> None:
        function()


class Spool:
    """Remembers what it was asked, and answers at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.waiting = 2
        self.broken = False

    def expedite(self, domain: str) -> Future[int]:
        self.asked.append(domain)
        done: Future[int] = Future()
        if self.broken:
            done.set_exception(SpoolUnavailable("the disk is gone"))
        else:
            done.set_result(self.waiting)
        return done


class QueueStartTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.spool = Clock(), Spool()
        spool: Any = self.spool
        self.start = QueueStart(spool, Bridge(Soon()), ["Partner.test", "пошта.укр"], self.clock.seconds)
        self.stranger = SessionFacts("smtp", "192.0.2.1", 1)

    def ask(self, domain: str, session: SessionFacts | None = None) -> Reply:
        answer = self.start(session or self.stranger, domain)
        return self.successResultOf(answer) if isinstance(answer, Deferred) else answer

    def test_named_domains_are_for_everybody_in_any_spelling(self) -> None:
        assert self.ask("PARTNER.test").code == 253
        assert self.ask("xn--80a1acn3a.xn--j1amh").code == 253
        assert self.spool.asked == ["partner.test", "xn--80a1acn3a.xn--j1amh"]

    def test_other_domains_are_for_those_we_know(self) -> None:
        assert self.ask("b.test") == NOT_ALLOWED
        assert self.spool.asked == []
        self.stranger.account = Account(Address("ada", "example.test"))
        assert self.ask("b.test").code == 253
        assert self.ask("c.test", SessionFacts("smtp", "192.0.2.1", 1, trusted=True)).code == 253

    def test_an_empty_queue(self) -> None:
        self.spool.waiting = 0
        assert self.ask("partner.test").code == 251

    def test_a_flood_starts_once(self) -> None:
        self.ask("partner.test")
        assert {self.ask("partner.test").code for _ in range(100)} == {250}
        assert len(self.spool.asked) == 1
        self.clock.advance(PAUSE_SECONDS)
        assert self.ask("partner.test").code == 253

    def test_a_flood_of_names_costs_little(self) -> None:
        trusted = SessionFacts("smtp", "192.0.2.1", 1, trusted=True)
        for n in range(MOST_DOMAINS + 50):
            self.ask(f"d{n}.test", trusted)
        assert len(self.start._started) == MOST_DOMAINS

    def test_a_fault_is_ours_and_can_be_tried_again(self) -> None:
        self.spool.broken = True
        assert self.ask("partner.test") == FAILED
        self.flushLoggedErrors(SpoolUnavailable)
        self.spool.broken = False
        assert self.ask("partner.test").code == 253
