"""What the receiver does with answers that come late; ``tests/dialogues`` has what it says."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from mailserver.receive.session import Session
from tests.dialogues.smtp_talk import SmtpTalk


class LateAnswerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.later: Deferred[object] = Deferred()
        self.talk = SmtpTalk([])
        self.addCleanup(self.talk.close)
        self.talk.received()
        self.patch(Session, "answer", lambda session, event: self.later)
        self.talk.send(b"EHLO client.test\r\nNOOP\r\n")

    def test_a_fault_is_told_and_logged_and_the_session_goes_on(self) -> None:
        self.later.errback(ZeroDivisionError())
        replies = self.talk.received()
        assert replies.startswith(b"451 4.3.0 ")
        assert replies.endswith(b"250 2.0.0 OK\r\n")
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_a_fault_behind_a_client_who_has_gone_is_logged(self) -> None:
        self.talk.wire.lose(ConnectionLost())
        self.later.errback(ZeroDivisionError())
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
