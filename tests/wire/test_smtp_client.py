"""The client's machine: scripted servers, fed whole, byte by byte and with anything."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.envelope import Envelope, Recipient
from mailserver.wire.client_commands import extensions_from, speakable
from mailserver.wire.client_events import (
    Event,
    Ready,
    SendContent,
    SessionEnded,
    Stage,
    StartTLS,
    TransactionDone,
)
from mailserver.wire.smtp_client import SMTPClientMachine

EHLO_ALL = b"250-mx.b.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN\r\n"
EHLO_BARE = b"250 mx.b.test\r\n"


def rcpt(number: int, local: str = "", domain: str = "b.test", **more: object) -> Recipient:
    address = Address(local or f"r{number}", domain)
    return Recipient(number, address, address, **more)  # type: ignore[arg-type]


def envelope(count: int = 1, **more: object) -> Envelope:
    values = {"reverse_path": Address("ada", "a.test"), **more}
    return Envelope(recipients=tuple(rcpt(n) for n in range(count)), **values)  # type: ignore[arg-type]


class Session:
    """A machine with what it wrote and said; ``bytewise`` cuts the server's octets to single ones."""

    def __init__(self, use_tls: bool = False, bytewise: bool = False) -> None:
        self.machine = SMTPClientMachine("mx.a.test", use_tls)
        self.bytewise = bytewise

    def hear(self, data: bytes) -> tuple[list[Event], bytes]:
        pieces = [data[n : n + 1] for n in range(len(data))] if self.bytewise else [data]
        events = [event for piece in pieces for event in self.machine.feed(piece)]
        return events, self.machine.take()

    def ready(self, ehlo: bytes = EHLO_ALL) -> "Session":
        self.hear(b"220 mx.b.test ESMTP\r\n")
        assert self.hear(ehlo) == ([Ready()], b"")
        return self

    def begin(self, mail: Envelope | None = None, size: int = 10) -> bytes:
        mail = mail or envelope()
        self.machine.begin(mail, mail.recipients, size)
        return self.machine.take()


@pytest.fixture(params=[False, True], ids=["whole", "bytewise"])
def session(request: pytest.FixtureRequest) -> Session:
    return Session(bytewise=request.param)


def codes(event: Event) -> list[int | None]:
    assert isinstance(event, TransactionDone | SessionEnded)
    return [reply and reply.code for reply in event.replies]


def ended(events: Sequence[Event]) -> SessionEnded:
    assert isinstance(events[-1], SessionEnded)
    return events[-1]


# -- the beginning ---------------------------------------------------------------------------------


def test_greeting_then_ehlo(session: Session) -> None:
    assert session.hear(b"220-welcome\r\n220 mx\r\n") == ([], b"EHLO mx.a.test\r\n")
    assert session.hear(EHLO_ALL) == ([Ready()], b"")
    extensions = session.machine.extensions
    assert extensions.pipelining
    assert extensions.size_limit == 1000
    assert session.machine.peer == "welcome"


def test_helo_when_ehlo_is_unknown(session: Session) -> None:
    session.hear(b"220 mx\r\n")
    assert session.hear(b"502 what?\r\n") == ([], b"HELO mx.a.test\r\n")
    assert session.hear(b"250 fine\r\n") == ([Ready()], b"")
    assert not session.machine.extensions.keywords


@pytest.mark.parametrize(
    ("script", "stage"),
    [
        ([b"421 busy\r\n"], Stage.GREETING),
        ([b"554 5.7.1 go away\r\n"], Stage.GREETING),
        ([b"250 odd\r\n"], Stage.GREETING),
        ([b"220 mx\r\n", b"450 later\r\n"], Stage.EHLO),
        ([b"220 mx\r\n", b"500 what\r\n", b"550 no\r\n"], Stage.HELO),
    ],
)
def test_a_refused_session_ends_with_its_stage_and_reply(
    session: Session, script: list[bytes], stage: Stage
) -> None:
    events: list[Event] = []
    for octets in script:
        events, _ = session.hear(octets)
    end = ended(events)
    assert end.stage is stage
    assert end.reply is not None
    assert end.reply.code == int(script[-1][:3])
    session.machine.quit()
    assert session.machine.take() == b"QUIT\r\n"
    assert session.machine.feed(b"250 more\r\n") == []


@pytest.mark.parametrize(
    ("line", "limit"),
    [("SIZE 35651584", 35651584), ("size 0", 0), ("SIZE", 0), ("SIZE ٣", 0), ("SIZE -1", 0), ("SIZE 1_0", 0)],
)
def test_size_is_read_as_ascii_digits_alone(line: str, limit: int) -> None:
    extensions = extensions_from(["mx", line])
    assert extensions.size
    assert extensions.size_limit == limit


def test_the_first_line_of_ehlo_is_no_keyword() -> None:
    assert not extensions_from(["PIPELINING"]).pipelining


# -- TLS ---------------------------------------------------------------------------------------------


def test_starttls_then_ehlo_again_and_nothing_is_remembered() -> None:
    session = Session(use_tls=True)
    session.hear(b"220 mx\r\n")
    assert session.hear(b"250-mx\r\n250-DSN\r\n250 STARTTLS\r\n") == ([], b"STARTTLS\r\n")
    assert session.hear(b"220 go\r\n") == ([StartTLS()], b"")
    session.machine.tls_started()
    assert session.machine.take() == b"EHLO mx.a.test\r\n"
    # STARTTLS offered again inside TLS is not taken up again.
    assert session.hear(b"250-mx\r\n250 STARTTLS\r\n") == ([Ready()], b"")
    assert not session.machine.extensions.dsn


@pytest.mark.parametrize("injected", [b"250 mx\r\n", b"2", b"250-mx\r\n", b"\r\n"])
def test_octets_behind_the_consent_to_tls_end_the_session(injected: bytes) -> None:
    session = Session(use_tls=True)
    session.hear(b"220 mx\r\n")
    session.hear(b"250-mx\r\n250 STARTTLS\r\n")
    events, out = session.hear(b"220 go\r\n" + injected)
    assert ended(events).stage is Stage.STARTTLS
    assert StartTLS() not in events
    assert out == b""


def test_plain_octets_during_the_handshake_end_the_session() -> None:
    session = Session(use_tls=True)
    session.hear(b"220 mx\r\n")
    session.hear(b"250-mx\r\n250 STARTTLS\r\n")
    session.hear(b"220 go\r\n")
    assert ended(session.hear(b"250 mx\r\n")[0]).stage is Stage.STARTTLS


def test_a_server_that_takes_back_starttls_is_used_in_clear(session: Session) -> None:
    session.machine = SMTPClientMachine("mx.a.test", use_tls=True)
    session.hear(b"220 mx\r\n")
    session.hear(b"250-mx\r\n250 STARTTLS\r\n")
    assert session.hear(b"454 4.7.0 not now\r\n") == ([Ready()], b"")


# -- commands ----------------------------------------------------------------------------------------


def test_one_write_for_the_whole_group(session: Session) -> None:
    wire = session.ready().begin(envelope(2))
    assert wire == (
        b"MAIL FROM:<ada@a.test> SIZE=10\r\nRCPT TO:<r0@b.test>\r\nRCPT TO:<r1@b.test>\r\nDATA\r\n"
    )
    events, out = session.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    assert (events, out) == ([SendContent()], b"")
    assert session.machine.stage is Stage.CONTENT
    session.machine.content_sent()
    assert session.machine.stage is Stage.END
    events, _ = session.hear(b"250 2.0.0 queued\r\n")
    assert codes(events[0]) == [250, 250]
    assert session.machine.stage is Stage.IDLE


def test_one_command_at_a_time_without_pipelining(session: Session) -> None:
    assert session.ready(EHLO_BARE).begin(envelope(2)) == b"MAIL FROM:<ada@a.test>\r\n"
    assert session.hear(b"250 ok\r\n") == ([], b"RCPT TO:<r0@b.test>\r\n")
    assert session.hear(b"550 no\r\n") == ([], b"RCPT TO:<r1@b.test>\r\n")
    assert session.hear(b"250 ok\r\n") == ([], b"DATA\r\n")
    assert session.hear(b"354 go\r\n") == ([SendContent()], b"")
    session.machine.content_sent()
    assert codes(session.hear(b"250 ok\r\n")[0][0]) == [550, 250]
    assert session.begin() == b"MAIL FROM:<ada@a.test>\r\n"


def test_parameters_only_where_they_are_offered() -> None:
    recipient = rcpt(0, orcpt="rfc822;x+40y@c.test", notify=frozenset({"SUCCESS", "DELAY"}))
    mail = Envelope(NULL_SENDER, (recipient,), body="8BITMIME", ret="HDRS", envid="Q+2B1")
    assert Session().ready().begin(mail) == (
        b"MAIL FROM:<> SIZE=10 BODY=8BITMIME RET=HDRS ENVID=Q+2B1\r\n"
        b"RCPT TO:<r0@b.test> NOTIFY=DELAY,SUCCESS ORCPT=rfc822;x+40y@c.test\r\nDATA\r\n"
    )
    assert Session().ready(b"250-mx\r\n250 PIPELINING\r\n").begin(mail) == (
        b"MAIL FROM:<>\r\nRCPT TO:<r0@b.test>\r\nDATA\r\n"
    )


def test_an_original_recipient_in_utf8_is_not_for_a_server_without_it() -> None:
    mail = Envelope(NULL_SENDER, (rcpt(0, orcpt="utf-8;юлія@c.test"),))
    said = Session().ready(b"250-mx\r\n250-PIPELINING\r\n250 DSN\r\n").begin(mail)
    assert said == b"MAIL FROM:<>\r\nRCPT TO:<r0@b.test>\r\nDATA\r\n"


def test_smtputf8_only_when_needed_and_a_labels_when_not() -> None:
    domain_only = Envelope(NULL_SENDER, (rcpt(0, "x", "пошта.укр"),))
    assert b"RCPT TO:<x@xn--80a1acn3a.xn--j1amh>\r\n" in Session().ready().begin(domain_only)
    local = Envelope(NULL_SENDER, (rcpt(0, "юлія", "пошта.укр"),))
    wire = Session().ready().begin(local)
    assert wire.startswith(b"MAIL FROM:<> SIZE=10 SMTPUTF8\r\n")
    assert "RCPT TO:<юлія@пошта.укр>\r\n".encode() in wire


@pytest.mark.parametrize(
    ("address", "fit"),
    [
        (Address("a", "b.test"), True),
        (Address("a b", "b.test"), True),
        (Address("a\r\nRSET", "b.test"), False),
        (Address("a", "b.test\r\nRSET"), False),
        (Address("a", "b.test> SIZE=1"), False),
        (Address("a", "b\u2028.test"), False),
        (Address("a\x00", "b.test"), False),
    ],
)
def test_what_can_be_said(address: Address, fit: bool) -> None:
    assert speakable(address) is fit


# -- replies in a transaction ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        # MAIL refused: the others' replies are read and mean nothing.
        (b"452 full\r\n503 no\r\n503 no\r\n503 no\r\n503 no\r\n", [452, 452, 452]),
        # One of three; 552 is temporary there.
        (b"250 ok\r\n250 ok\r\n450 later\r\n550 no\r\n451 no\r\n", [451, 450, 550]),
        (b"250 ok\r\n552 5.2.2 full\r\n550 no\r\n550 no\r\n554 none\r\n", [452, 550, 550]),
    ],
)
def test_replies_before_the_content(session: Session, replies: bytes, expected: list[int]) -> None:
    session.ready().begin(envelope(3))
    events, out = session.hear(replies)
    assert [codes(event) for event in events] == [expected]
    assert out == b""


def test_354_with_nobody_accepted_gets_a_lone_dot(session: Session) -> None:
    session.ready().begin(envelope(2))
    assert session.hear(b"250 ok\r\n550 no\r\n550 no\r\n354 go\r\n") == ([], b".\r\n")
    events, _ = session.hear(b"250 accepted, I say\r\n")
    assert codes(events[0]) == [550, 550]


def test_rset_goes_before_the_next_mail_where_one_may_be_open(session: Session) -> None:
    session.ready().begin()
    session.hear(b"250 ok\r\n550 no\r\n503 none\r\n")
    assert session.begin().startswith(b"RSET\r\nMAIL FROM:")
    events, _ = session.hear(b"250 reset\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    assert events == [SendContent()]
    bare = Session().ready(EHLO_BARE)
    bare.begin()
    bare.hear(b"250 ok\r\n")
    assert codes(bare.hear(b"550 no\r\n")[0][0]) == [550]
    assert bare.begin() == b"RSET\r\n"
    assert bare.hear(b"250 ok\r\n") == ([], b"MAIL FROM:<ada@a.test>\r\n")


def test_a_refused_end_of_data_counts_for_the_accepted_alone(session: Session) -> None:
    session.ready().begin(envelope(2))
    session.hear(b"250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n")
    session.machine.content_sent()
    assert codes(session.hear(b"451 4.3.0 disk\r\n")[0][0]) == [550, 451]


# -- one transaction behind another ----------------------------------------------------------------

EHLO_CHUNKING = b"250-mx.b.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
THREE = b"250 mail\r\n250 rcpt\r\n354 go\r\n"


def behind(session: Session, mail: Envelope) -> bytes:
    """The content of the open transaction is sent, and another goes with it."""
    session.machine.content_sent()
    assert session.machine.takes_another
    session.machine.begin_behind(mail, mail.recipients, 10)
    return session.machine.take()


def test_another_transaction_leaves_with_the_content_of_the_one_before(session: Session) -> None:
    session.ready().begin()
    assert session.hear(THREE) == ([SendContent()], b"")
    assert behind(session, envelope(2)) == (
        b"MAIL FROM:<ada@a.test> SIZE=10\r\nRCPT TO:<r0@b.test>\r\nRCPT TO:<r1@b.test>\r\nDATA\r\n"
    )
    assert not session.machine.takes_another
    events, _ = session.hear(b"250 first\r\n250 mail\r\n550 no\r\n250 yes\r\n354 go\r\n")
    assert [type(event) for event in events] == [TransactionDone, SendContent]
    assert codes(events[0]) == [250]
    session.machine.content_sent()
    (done,), _ = session.hear(b"452 second\r\n")
    assert codes(done) == [550, 452]


def test_a_refused_message_takes_nothing_from_the_one_behind_it(session: Session) -> None:
    session.ready().begin()
    session.hear(THREE)
    behind(session, envelope())
    events, said = session.hear(b"554 no\r\n" + THREE)
    assert ([type(event) for event in events], said) == ([TransactionDone, SendContent], b"")
    assert codes(events[0]) == [554]
    session.machine.content_sent()
    (done,), _ = session.hear(b"250 ok\r\n")
    assert codes(done) == [250]


def test_rset_stands_between_a_bdat_and_what_is_behind_it(session: Session) -> None:
    session.ready(EHLO_CHUNKING).begin()
    session.hear(b"250 mail\r\n250 rcpt\r\n")
    assert behind(session, envelope()) == b"RSET\r\nMAIL FROM:<ada@a.test>\r\nRCPT TO:<r0@b.test>\r\n"
    events, said = session.hear(b"451 no\r\n250 reset\r\n250 mail\r\n250 rcpt\r\n")
    assert ([type(event) for event in events], said) == (
        [TransactionDone, SendContent],
        b"BDAT 10 LAST\r\n",
    )
    session.machine.content_sent()
    assert codes(session.hear(b"250 ok\r\n")[0][0]) == [250]
    assert session.begin().startswith(b"MAIL"), "the one RSET was enough"


@pytest.mark.parametrize("replies", [b"421 bye\r\n", b"nonsense\r\n"])
def test_of_what_is_behind_nothing_is_told_when_the_session_ends(session: Session, replies: bytes) -> None:
    session.ready().begin(envelope(2))
    session.hear(b"250 mail\r\n250 rcpt\r\n250 rcpt\r\n354 go\r\n")
    behind(session, envelope())
    events, _ = session.hear(replies)
    assert ended(events).stage is Stage.END
    assert codes(ended(events)) == [None, None]
    assert session.machine.abandon("lost") == []


def test_nothing_goes_behind_content_without_pipelining(session: Session) -> None:
    session.ready(EHLO_BARE).begin()
    session.hear(b"250 mail\r\n")
    session.hear(b"250 rcpt\r\n")
    session.hear(b"354 go\r\n")
    session.machine.content_sent()
    assert not session.machine.takes_another


def test_421_ends_the_session_and_keeps_what_is_known(session: Session) -> None:
    session.ready().begin(envelope(3))
    end = ended(session.hear(b"250 ok\r\n550 no\r\n250 ok\r\n421 bye\r\n")[0])
    assert codes(end) == [550, None, None]
    assert end.reply is not None
    assert end.reply.code == 421


def test_a_loss_after_the_final_dot_leaves_the_accepted_open(session: Session) -> None:
    session.ready().begin(envelope(2))
    session.hear(b"250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n")
    session.machine.content_sent()
    end = ended(session.machine.abandon("connection lost"))
    assert codes(end) == [550, None]
    assert end.stage is Stage.END
    assert session.machine.abandon("again") == []


@pytest.mark.parametrize(
    ("early", "expected"), [(b"250 ok\r\n", None), (b"552 5.3.4 too big\r\n", 552), (b"451 x\r\n", 451)]
)
def test_a_yes_before_the_final_dot_is_not_believed(
    session: Session, early: bytes, expected: int | None
) -> None:
    session.ready().begin()
    end = ended(session.hear(b"250 ok\r\n250 ok\r\n354 go\r\n" + early)[0])
    assert codes(end) == [expected]


@pytest.mark.parametrize(
    "replies",
    [
        b"250 ok\r\n250 ok\r\n250 ok\r\n",
        b"354 ok\r\n",
        b"250 ok\r\n354 ok\r\n",
        b"250-ok\r\n" * 300,
        b"hello\r\n",
        b"999 x\r\n",
        b"x" * 5000,
    ],
)
def test_a_broken_server_ends_the_session_with_nothing_decided(session: Session, replies: bytes) -> None:
    session.ready().begin()
    assert codes(ended(session.hear(replies)[0])) == [None]


def test_speech_out_of_turn_ends_the_session(session: Session) -> None:
    session.ready()
    assert ended(session.hear(b"250 hm\r\n")[0]).reply is not None


def test_quit_is_said_once_and_its_reply_ends(session: Session) -> None:
    session.ready().machine.quit()
    session.machine.quit()
    assert session.machine.take() == b"QUIT\r\n"
    assert ended(session.hear(b"221 bye\r\n")[0])


LINES = st.lists(
    st.sampled_from(
        [
            *(b"%d x\r\n" % code for code in (220, 250, 354, 421, 450, 550)),
            *(EHLO_ALL, EHLO_BARE, b"250-mx\r\n250 STARTTLS\r\n", b"250-x\r\n", b"2", b"\r\n", b"\xff"),
        ]
    )
    | st.binary(max_size=6),
    max_size=30,
)


@given(LINES, st.booleans())
def test_events_or_an_end_and_never_an_exception(chunks: list[bytes], use_tls: bool) -> None:
    machine = SMTPClientMachine("mx.a.test", use_tls)
    seen: list[Event] = []
    for chunk in chunks:
        for event in machine.feed(chunk):
            seen.append(event)
            if isinstance(event, StartTLS) and not machine.ended:
                machine.tls_started()
            elif isinstance(event, SendContent) and not machine.ended:
                machine.content_sent()
            elif isinstance(event, Ready | TransactionDone) and not machine.ended:
                mail = envelope(3)
                machine.begin(mail, mail.recipients, 10)
        assert machine.take().isascii()
    seen += machine.abandon("lost")
    ends = [event for event in seen if isinstance(event, SessionEnded)]
    assert len(ends) == 1
    assert seen[-1] is ends[0]
    for event in seen:
        if isinstance(event, TransactionDone):
            assert len(event.replies) == 3
