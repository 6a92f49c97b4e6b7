"""The session machine: dialogues, order, limits, cuts, and any octets at all."""

import base64
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.reply import Reply, reply
from mailserver.wire.smtp_events import (
    AuthBegin,
    AuthResponse,
    ContentChunk,
    ContentEnd,
    DataBegin,
    Expand,
    Hello,
    MailFrom,
    Offer,
    Quit,
    RcptTo,
    Refused,
    Reset,
    StartTLS,
    Verify,
)
from mailserver.wire.smtp_server import SmtpServer
from mailserver.wire.smtp_table import ENTITLED
from tests.wire.smtp_peer import SMTP, SUBMISSION, Peer, codes

GREETED = ["EHLO client.test"]
OPEN = [*GREETED, "MAIL FROM:<a@b.test>"]
READY = [*OPEN, "RCPT TO:<c@d.test>"]
EVERYTHING = (
    b"EHLO client.test\r\nMAIL FROM:<a@b.test> SIZE=12\r\n"
    b"RCPT TO:<c@d.test>\r\nRCPT TO:<broken\r\nDATA\r\n"
    b"Subject: x\r\n\r\n..dot\r\n.\r\n"
    b"mail from:<>\r\nrset\r\nNOOP\r\nHELP MAIL\r\nFOO\r\nVRFY ada\r\nQUIT\r\nNOOP\r\n"
)
WHOLE_SESSION = ["250", "250", "250", "501", "354", "250", "250", "250", "250", "214", "500", "250", "221"]


def peer_after(lines: list[str], offer: Offer = SMTP, tls: bool = False) -> Peer:
    peer = Peer(offer)
    if tls:
        peer.machine.tls_started()
    for line in lines:
        assert codes(peer.say(line + "\r\n"))[-1][0] in "235", line
    peer.events.clear()
    return peer


def test_a_whole_session() -> None:
    peer = Peer()
    peer.machine.greet()
    assert peer.say(b"").startswith(b"220 mx.example.test ESMTP")
    assert codes(peer.say(EVERYTHING)) == WHOLE_SESSION
    assert peer.events == [
        Hello("client.test", True),
        MailFrom(Address("a", "b.test"), size=12),
        RcptTo(Address("c", "d.test")),
        peer.events[3],
        DataBegin(),
        ContentChunk(b"Subject: x\r\n\r\n.dot\r\n"),
        ContentEnd(None),
        MailFrom(NULL_SENDER),
        Reset(),
        peer.events[9],
        Verify("ada"),
        Quit(),
    ]


def test_one_event_at_a_time() -> None:
    machine = Peer().machine
    machine.feed(b"EHLO a\r\nNOOP\r\n")
    assert isinstance(machine.next_event(), Hello)
    assert machine.next_event() is None
    machine.feed(b"QUIT\r\n")
    assert machine.next_event() is None
    assert machine.take_output() == b""
    machine.answer(reply(250, "", "hi"))
    assert isinstance(machine.next_event(), Quit)


def test_octet_by_octet_gives_the_same() -> None:
    whole, pieces = Peer(), Peer()
    whole.say(EVERYTHING)
    for n in range(len(EVERYTHING)):
        pieces.say(EVERYTHING[n : n + 1])
    assert pieces.events == whole.events
    assert pieces.output == whole.output


def test_ehlo_lists_what_is_true() -> None:
    common = ["SIZE 10000", "8BITMIME", "BINARYMIME", "CHUNKING", "PIPELINING", "ENHANCEDSTATUSCODES"]
    common += ["SMTPUTF8", "DSN", "LIMITS RCPTMAX=3", "DELIVERBY"]
    submitted = [*common, "MT-PRIORITY"]

    def offered(peer: Peer) -> list[str]:
        return [line[4:] for line in peer.lines("EHLO x")[1:]]

    assert Peer().lines("EHLO x")[0] == "250-mx.example.test at your service"
    assert offered(Peer()) == [*common, "STARTTLS", "HELP"]
    assert offered(peer_after([], SMTP, tls=True)) == [*common, "HELP"]
    assert offered(Peer(SUBMISSION)) == [*submitted, "STARTTLS", "HELP"]
    under_tls = peer_after([], SUBMISSION, tls=True)
    assert offered(under_tls) == [*submitted, "AUTH PLAIN LOGIN", "HELP"]
    assert under_tls.code("AUTH PLAIN =") == "235 2.7.0"
    assert offered(under_tls) == [*submitted, "HELP"]
    assert offered(Peer(Offer("mx", "submission", 1, 1, False, ("PLAIN",), True)))[-2:] == [
        "AUTH PLAIN",
        "HELP",
    ]


def test_some_extensions_are_offered_where_they_are_true() -> None:
    def offered(offer: Offer, tls: bool = True, now: float = 1_790_000_000.0) -> list[str]:
        peer = Peer(offer)
        peer.machine = SmtpServer(offer, lambda: now)
        if tls:
            peer.machine.tls_started()
        return [line[4:] for line in peer.lines("EHLO x")[1:]]

    everything = {"future_release": 3600, "require_tls": True, "etrn": True}
    smtp, submission = replace(SMTP, **everything), replace(SUBMISSION, **everything)
    assert {"REQUIRETLS", "ETRN"} <= set(offered(smtp))
    assert not any(line.startswith(("FUTURERELEASE", "MT-PRIORITY")) for line in offered(smtp))
    assert "REQUIRETLS" not in offered(smtp, tls=False)
    assert "FUTURERELEASE 3600 2026-09-21T15:00:00Z" in offered(submission)
    assert "FUTURERELEASE 3600 2026-09-21T16:00:00Z" in offered(submission, now=1_790_003_600.0)


def test_helo_has_no_extensions() -> None:
    assert Peer().lines("HELO x") == ["250 mx.example.test at your service"]


def test_our_name_comes_first_in_the_reply_to_ehlo() -> None:
    assert Peer(answers={Hello: reply(250, "", "hello")}).lines("HELO x") == ["250 mx.example.test hello"]


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("client.test", "client.test"),
        ("word", "word"),
        ("192.0.2.1", "192.0.2.1"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ("my laptop (ok; by x)", "my?laptop??ok??by?x?"),
        ("ü", "??"),
        ("a" * 255, "a" * 255),
    ],
)
@pytest.mark.parametrize("verb", ["EHLO", "HELO", "ehlo"])
def test_hello_names(verb: str, argument: str, name: str) -> None:
    peer = peer_after([f"{verb} {argument}"])
    peer.say(f"{verb} {argument}\r\n")
    assert peer.events == [Hello(name, verb.upper() == "EHLO")]


REPLIES = [
    # before EHLO
    ([], "EHLO", "501 5.5.4"),
    ([], "HELO  ", "501 5.5.4"),
    ([], "EHLO " + "a" * 256, "501 5.5.4"),
    ([], "MAIL FROM:<a@b.test>", "503 5.5.1"),
    ([], "RCPT TO:<a@b.test>", "503 5.5.1"),
    ([], "DATA", "503 5.5.1"),
    ([], "NOOP", "250 2.0.0"),
    ([], "NOOP anything", "250 2.0.0"),
    ([], "  NOOP  ", "250 2.0.0"),
    ([], "RSET", "250 2.0.0"),
    ([], "VRFY ada", "250 2.0.0"),
    ([], "QUIT", "221 2.0.0"),
    ([], "QUIT now", "501 5.5.4"),
    ([], "RSET now", "501 5.5.4"),
    ([], "VRFY", "501 5.5.4"),
    ([], "EXPN", "550 5.7.1"),
    ([], b"VRFY \xff", "501 5.5.2"),
    ([], "", "500 5.5.2"),
    ([], "FOO", "500 5.5.1"),
    ([], "MAILFROM:<a@b.test>", "500 5.5.1"),
    ([], "GET / HTTP/1.1", "500 5.5.1"),
    ([], b"\x16\x03\x01\x02", "500 5.5.2"),
    ([], b"NOOP\0", "500 5.5.2"),
    ([], b"NO\rOP", "500 5.5.2"),
    ([], "TURN", "502 5.5.1"),
    ([], "SEND FROM:<a@b.test>", "502 5.5.1"),
    ([], "SOML FROM:<a@b.test>", "502 5.5.1"),
    ([], "SAML FROM:<a@b.test>", "502 5.5.1"),
    ([], "ETRN example.test", "502 5.5.1"),
    (["EHLO x"], "ETRN b.test", "502 5.5.1"),
    (["EHLO x"], "LHLO x", "500 5.5.1"),
    (["EHLO x"], "MAIL FROM:<a@b.test> REQUIRETLS", "555 5.5.4"),
    (["EHLO x"], "MAIL FROM:<a@b.test> HOLDFOR=60", "555 5.5.4"),
    (["EHLO x"], "MAIL FROM:<a@b.test> MT-PRIORITY=3", "555 5.5.4"),
    (["EHLO x"], "MAIL FROM:<a@b.test> BY=60;R", "250 2.0.0"),
    ([], "AUTH PLAIN", "502 5.5.1"),
    ([], "STARTTLS now", "501 5.5.4"),
    ([], "HELP FOO", "504 5.5.4"),
    # MAIL
    (GREETED, "MAIL", "501 5.5.4"),
    (GREETED, "MAIL FROM", "501 5.5.4"),
    (GREETED, "MAIL FROM:", "501 5.5.4"),
    (GREETED, "MAIL TO:<a@b.test>", "501 5.5.4"),
    (GREETED, "MAIL <a@b.test>", "501 5.5.4"),
    (GREETED, "MAIL FROM:<a>", "501 5.1.7"),
    (GREETED, "MAIL FROM:<postmaster>", "501 5.1.7"),
    (GREETED, "MAIL FROM:<a@b.test", "501 5.1.7"),
    (GREETED, "MAIL FROM:<a@b.test>SIZE=1", "501 5.1.7"),
    (GREETED, b"MAIL FROM:<\xff@b.test> SMTPUTF8", "501 5.1.7"),
    (GREETED, "MAIL FROM:<ü@b.test>", "553 5.6.7"),
    (GREETED, "MAIL FROM:<ü@b.test> SMTPUTF8", "250 2.0.0"),
    (GREETED, "MAIL FROM:<>", "250 2.0.0"),
    (GREETED, "MAIL FROM: <a@b.test>", "250 2.0.0"),
    (GREETED, "mail from:a@b.test", "250 2.0.0"),
    (GREETED, "MAIL FROM:<a@b.test> SIZE=10000", "250 2.0.0"),
    (GREETED, "MAIL FROM:<a@b.test> SIZE=10001", "552 5.3.4"),
    (GREETED, "MAIL FROM:<a@b.test> SIZE=" + "9" * 20, "552 5.3.4"),
    (GREETED, "MAIL FROM:<a@b.test> SIZE=" + "9" * 21, "501 5.5.4"),
    (GREETED, "MAIL FROM:<a@b.test> SIZE=-1", "501 5.5.4"),
    (GREETED, "MAIL FROM:<a@b.test> SIZE=1_0", "501 5.5.4"),
    (GREETED, "MAIL FROM:<a@b.test> SIZE=١", "501 5.5.4"),
    (GREETED, "MAIL FROM:<a@b.test> FOO=1", "555 5.5.4"),
    (GREETED, "MAIL FROM:<a@b.test> NOTIFY=NEVER", "555 5.5.4"),
    # RCPT and DATA
    (GREETED, "RCPT TO:<a@b.test>", "503 5.5.1"),
    (OPEN, "MAIL FROM:<a@b.test>", "503 5.5.1"),
    (OPEN, "RCPT", "501 5.5.4"),
    (OPEN, "RCPT TO:", "501 5.5.4"),
    (OPEN, "RCPT FROM:<a@b.test>", "501 5.5.4"),
    (OPEN, "RCPT TO:<>", "501 5.1.3"),
    (OPEN, "RCPT TO:<a>", "501 5.1.3"),
    (OPEN, "RCPT TO:<a@b@c.test>", "501 5.1.3"),
    (OPEN, 'RCPT TO:<""@b.test>', "501 5.1.3"),
    (OPEN, "RCPT TO:<ü@b.test>", "553 5.6.7"),
    (OPEN, "RCPT TO:<a@b.test> ORCPT=utf-8;ü@b.test", "553 5.6.7"),
    (OPEN, "RCPT TO:<a@b.test> SIZE=1", "555 5.5.4"),
    (OPEN, "RCPT TO:<pOsTmAsTeR>", "250 2.0.0"),
    (OPEN, "DATA", "503 5.5.1"),
    ([*READY], "DATA now", "501 5.5.4"),
    ([*READY], "DATA", "354 Go"),
    ([*READY], "EHLO again.test", "250 HELP"),
]


@pytest.mark.parametrize(("before", "line", "code"), REPLIES)
def test_replies(before: list[str], line: str | bytes, code: str) -> None:
    assert peer_after(before).code(line) == code


def test_errors_tell_the_syntax_and_what_comes_first() -> None:
    assert peer_after(GREETED).lines("MAIL") == ["501 5.5.4 Syntax: MAIL FROM:<address>"]
    assert "Syntax: RCPT TO:<address>" in peer_after(OPEN).lines("RCPT TO:<a>")[0]
    assert "EHLO" in Peer().lines("MAIL FROM:<a@b.test>")[0]
    assert "MAIL FROM:<address> first" in peer_after(GREETED).lines("RCPT TO:<a@b.test>")[0]
    assert "RCPT TO:<address> first" in peer_after(OPEN).lines("DATA")[0]


def test_mail_parameters() -> None:
    peer = peer_after(GREETED)
    peer.say(
        "MAIL FROM:<ü@b.test> size=5  body=8bitmime SMTPUTF8 "
        "RET=hdrs ENVID=QQ+2B314159 AUTH=e+3Dmc2@b.test\r\n"
    )
    assert peer.events == [
        MailFrom(Address("ü", "b.test"), 5, "8BITMIME", True, "HDRS", "QQ+2B314159", "e=mc2@b.test")
    ]


def test_rcpt_parameters() -> None:
    peer = peer_after([*GREETED, "MAIL FROM:<a@b.test> SMTPUTF8"])
    peer.say("RCPT TO:<c@d.test> NOTIFY=success,DELAY ORCPT=utf-8;ü@d.test\r\n")
    assert peer.events == [RcptTo(Address("c", "d.test"), frozenset({"SUCCESS", "DELAY"}), "utf-8;ü@d.test")]


def test_refused_commands_are_told_with_their_verb() -> None:
    peer = Peer()
    peer.say("foo\u0085bar secret\r\nRCPT TO:<a>\r\n\r\n" + "AUTH PLAIN c2VjcmV0\r\n")
    refused = [event.command for event in peer.events if isinstance(event, Refused)]
    assert refused == ["FOO??BAR", "RCPT", "", "AUTH"]


def test_no_valid_recipients() -> None:
    peer = peer_after(OPEN)
    peer.answers[RcptTo] = reply(550, "5.1.1", "No such user")
    assert peer.code("RCPT TO:<nobody@d.test>") == "550 5.1.1"
    assert peer.code("DATA") == "554 5.5.1"
    assert peer_after(OPEN).code("DATA") == "503 5.5.1"
    malformed = peer_after(OPEN)
    malformed.say("RCPT TO:<a\r\n")
    assert malformed.code("DATA") == "554 5.5.1"


def test_too_many_recipients() -> None:
    peer = peer_after(READY)
    assert [peer.code(f"RCPT TO:<c{n}@d.test>") for n in range(3)] == ["250 2.0.0", "250 2.0.0", "452 4.5.3"]
    assert peer.code("DATA") == "354 Go"


def test_a_refused_recipient_takes_no_place() -> None:
    peer = peer_after(OPEN)
    peer.answers[RcptTo] = reply(550, "5.1.1", "No such user")
    for n in range(5):
        assert peer.code(f"RCPT TO:<c{n}@d.test>") == "550 5.1.1"
    peer.answers[RcptTo] = reply(250, "2.1.5", "OK")
    assert [peer.code(f"RCPT TO:<c{n}@d.test>") for n in range(4)] == ["250 2.1.5"] * 3 + ["452 4.5.3"]


def test_a_refused_sender_opens_nothing() -> None:
    peer = peer_after(GREETED)
    peer.answers[MailFrom] = reply(550, "5.7.1", "No")
    assert peer.code("MAIL FROM:<a@b.test>") == "550 5.7.1"
    assert not peer.machine.in_transaction
    assert peer.code("RCPT TO:<c@d.test>") == "503 5.5.1"


@pytest.mark.parametrize(
    "way", ["RSET", "EHLO x", "HELO x", "refused DATA", "end of data", "refused end of data", "TLS"]
)
def test_every_way_out_of_a_transaction_forgets_all_of_it(way: str) -> None:
    peer = peer_after([*GREETED, "MAIL FROM:<a@b.test> SMTPUTF8", "RCPT TO:<c@d.test>", "RCPT TO:<e@d.test>"])
    assert peer.machine.in_transaction
    if way == "refused DATA":
        peer.answers[DataBegin] = reply(451, "4.3.0", "Not now")
        assert peer.code("DATA") == "451 4.3.0"
        del peer.answers[DataBegin]
        peer.answers[DataBegin] = reply(354, "", "Go on")
    elif way.endswith("end of data"):
        if way.startswith("refused"):
            peer.answers[ContentEnd] = reply(550, "5.7.1", "No")
        peer.say("DATA\r\nx\r\n.\r\n")
    elif way == "TLS":
        peer.say("STARTTLS\r\n")
        peer.machine.tls_started()
        assert peer.code("MAIL FROM:<a@b.test>") == "503 5.5.1"
        peer.say("EHLO x\r\n")
    else:
        peer.say(way + "\r\n")
    assert not peer.machine.in_transaction
    assert peer.code("RCPT TO:<c@d.test>") == "503 5.5.1"
    assert peer.code("DATA") == "503 5.5.1"
    assert peer.code("MAIL FROM:<a@b.test>") == "250 2.0.0"
    assert peer.code("DATA") == "503 5.5.1"
    assert peer.code("RCPT TO:<ü@d.test>") == "553 5.6.7"
    assert [peer.code("RCPT TO:<c@d.test>") for _ in range(4)] == ["250 2.0.0"] * 3 + ["452 4.5.3"]


def test_several_messages_in_one_session() -> None:
    peer = peer_after(GREETED)
    for _ in range(3):
        said = peer.say("MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nx\r\n.\r\n")
        assert codes(said) == ["250", "250", "354", "250"]
        assert peer.say("HELO again\r\n")


def test_pipelined_commands_behind_a_failing_one_are_kept() -> None:
    peer = peer_after(GREETED)
    said = peer.say("MAIL FROM:<broken\r\nRCPT TO:<c@d.test>\r\nDATA\r\nMAIL FROM:<a@b.test>\r\nQUIT\r\n")
    assert codes(said) == ["501", "503", "503", "250", "221"]


def test_bare_line_feeds_end_commands_but_not_content() -> None:
    peer = Peer()
    said = peer.say(b"EHLO x\nMAIL FROM:<a@b.test>\nRCPT TO:<c@d.test>\nDATA\ntext\n.\nQUIT\n")
    assert codes(said) == ["250", "250", "250", "354"]
    assert peer.machine.is_reading_content
    assert codes(peer.say(b"\r\n.\r\nQUIT\r\n")) == ["550", "221"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"a\nb\r\n.\r\n", "550 5.5.2"),
        (b"a\rb\r\n.\r\n", "550 5.5.2"),
        (b"a\0b\r\n.\r\n", "550 5.6.0"),
        (b"x" * 999 + b"\r\n.\r\n", "550 5.6.0"),
        (b"x\r\n" * 3334 + b".\r\n", "552 5.3.4"),
        (b"x\r\n" * 3333 + b".\r\n", "250 2.0.0"),
        (b"\xc3\xbc\r\n.\r\n", "250 2.0.0"),
    ],
)
def test_faults_of_content_are_told_at_its_end(text: bytes, code: str) -> None:
    peer = peer_after([*READY, "DATA"])
    assert peer.code(text[:-2]) == code
    assert peer.code("NOOP") == "250 2.0.0"
    end = next(event for event in peer.events if isinstance(event, ContentEnd))
    assert (end.fault is None) == code.startswith("250")


def test_line_limits() -> None:
    assert Peer().code("NOOP " + "x" * (2048 - 6)) == "250 2.0.0"
    assert Peer().code("NOOP " + "x" * (2048 - 5)) == "500 5.5.2"
    assert Peer().code("x" * 4000) == "500 5.5.2"
    long_orcpt = "RCPT TO:<a@b.test> ORCPT=rfc822;" + "x" * 480 + " " * 2000
    assert peer_after(OPEN).code(long_orcpt) == "250 2.0.0"
    assert peer_after(OPEN).code(long_orcpt + " " * 2000) == "500 5.5.2"
    password = base64.b64encode(b"\0ada\0" + b"x" * 9000).decode()
    assert peer_after(GREETED, SUBMISSION, tls=True).code(f"AUTH PLAIN {password}") == "235 2.7.0"
    assert peer_after(GREETED, SUBMISSION, tls=True).code("AUTH PLAIN " + "x" * 12278) == "500 5.5.2"


def test_a_line_without_end_is_refused_once_and_kept_nowhere() -> None:
    peer = Peer()
    assert codes(peer.say(b"x" * 3000)) == ["500"]
    for _ in range(100):
        assert peer.say(b"y" * 65536) == b""
        assert not peer.machine._buffer
    assert codes(peer.say(b"z\nNOOP\r\n")) == ["250"]
    assert len(peer.events) == 1


def test_idle_commands_have_an_end() -> None:
    peer = Peer()
    peer.say(b"NOOP\r\n" * 100)
    assert not peer.events
    peer.say(b"HELP\r\nNOOP\r\n")
    assert [type(event) for event in peer.events] == [Refused, Refused]
    assert (
        codes(peer.say("EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n.\r\nNOOP\r\n"))[-1]
        == "250"
    )


def test_help_tells_what_is_legal_now() -> None:
    before, after = Peer().say("HELP\r\n").decode(), peer_after(READY).say("HELP\r\n").decode()
    assert all(line.startswith(("214-2.0.0 ", "214 2.0.0 ")) for line in before.splitlines())
    assert "STARTTLS" in before
    assert "  MAIL FROM:<address>" not in before.splitlines()[2]
    assert "214-2.0.0   DATA\r\n" in after.partition("Limits")[0]
    assert "MAIL" not in after.partition("Limits")[0].replace("HELP MAIL", "")
    assert "10000 octets a message, 3 recipients" in after
    assert "BDAT" not in before
    assert "214-2.0.0   BDAT octets [LAST]\r\n" in after


def test_help_explains_one_command() -> None:
    peer = Peer()
    assert peer.lines("help rcpt")[0] == "214-2.0.0 Syntax: RCPT TO:<address>"
    assert peer.lines("HELP RCPT")[-1] == "214 2.0.0 Not legal now: 503 5.5.1 Send MAIL FROM:<address> first"
    assert peer.lines("HELP NOOP")[-1] == "214 2.0.0 Legal now."
    assert not peer.events


def test_answers_without_an_event_and_hanging_up() -> None:
    peer = peer_after(READY)
    peer.machine.answer(reply(421, "4.4.2", "Timeout", hang_up=True))
    assert peer.say("NOOP\r\nQUIT\r\n") == b"421 4.4.2 Timeout\r\n"
    assert not peer.events


def test_nothing_is_read_after_quit() -> None:
    peer = Peer()
    assert codes(peer.say("QUIT\r\nNOOP\r\n")) == ["221"]
    assert peer.say("NOOP\r\n") == b""


# -- STARTTLS --------------------------------------------------------------------------------------


def test_starttls_forgets_what_was_said() -> None:
    peer = peer_after(READY)
    assert codes(peer.say("STARTTLS\r\n")) == ["220"]
    assert not peer.machine.plaintext_pending
    peer.machine.tls_started()
    assert peer.code("MAIL FROM:<a@b.test>") == "503 5.5.1"
    assert peer.code("STARTTLS") == "503 5.5.1"


@pytest.mark.parametrize("behind", [b"NOOP\r\n", b"N", b"x" * 65536])
def test_plaintext_behind_starttls(behind: bytes) -> None:
    together, apart = Peer(), Peer()
    assert codes(together.say(b"STARTTLS\r\n" + behind)) == ["220"]
    assert together.machine.plaintext_pending
    apart.say(b"STARTTLS\r\n")
    assert apart.say(behind) == b""
    for peer in (together, apart):
        assert peer.machine.plaintext_pending
        peer.machine.tls_started()
        assert peer.machine.plaintext_pending
        assert peer.say(b"") == b""
        assert peer.code("NOOP") == "250 2.0.0"


def test_starttls_refused_by_the_application() -> None:
    peer = Peer(answers={StartTLS: reply(454, "4.7.0", "Not now")})
    assert codes(peer.say("STARTTLS\r\nNOOP\r\n")) == ["454", "250"]
    assert not peer.machine.plaintext_pending


def test_starttls_that_is_not_offered() -> None:
    assert Peer(Offer("mx", "smtp", 1, 1)).code("STARTTLS") == "502 5.5.1"


# -- AUTH ------------------------------------------------------------------------------------------


def test_submission_in_the_clear_and_without_auth() -> None:
    peer = peer_after(GREETED, SUBMISSION)
    assert peer.lines("MAIL FROM:<a@b.test>") == ["530 5.7.0 Must issue a STARTTLS command first"]
    assert peer.code("AUTH PLAIN AGEAYg==") == "530 5.7.0"
    without = peer_after(GREETED, Offer("mx", "submission", 1, 1, False, ("PLAIN",)))
    assert without.code("AUTH PLAIN") == "538 5.7.11"
    assert without.code("MAIL FROM:<a@b.test>") == "530 5.7.0"
    under_tls = peer_after(GREETED, SUBMISSION, tls=True)
    assert under_tls.lines("MAIL FROM:<a@b.test>") == ["530 5.7.0 Authentication required"]
    assert under_tls.code("RCPT TO:<a@b.test>") == "503 5.5.1"
    cleartext = peer_after(GREETED, Offer("mx", "submission", 1, 1, True, ("PLAIN",), True))
    assert cleartext.code("MAIL FROM:<a@b.test>") == "530 5.7.0"
    assert cleartext.code("AUTH PLAIN =") == "235 2.7.0"


def test_auth_opens_the_way_to_mail() -> None:
    peer = peer_after(GREETED, SUBMISSION, tls=True)
    assert peer.code("auth plain AGFkYQBzZWNyZXQ=") == "235 2.7.0"
    assert peer.events == [AuthBegin("PLAIN", b"\0ada\0secret")]
    assert peer.machine.authenticated
    assert peer.code("AUTH PLAIN") == "503 5.5.1"
    assert peer.code("STARTTLS") == "503 5.5.1"
    assert peer.code("MAIL FROM:<a@b.test>") == "250 2.0.0"


def test_auth_inside_a_transaction() -> None:
    smtp = Offer("mx", "submission", 10_000, 3, True, ("PLAIN",))
    peer = peer_after([*GREETED, "AUTH PLAIN =", "MAIL FROM:<a@b.test>"], smtp, tls=True)
    assert peer.lines("AUTH PLAIN =") == ["503 5.5.1 AUTH comes before MAIL; RSET ends the transaction"]
    assert peer.code("RSET") == "250 2.0.0"
    assert peer.lines("AUTH PLAIN =") == ["503 5.5.1 You are already logged in"]


def test_starttls_after_auth_in_the_clear() -> None:
    peer = peer_after([*GREETED, "AUTH PLAIN ="], Offer("mx", "submission", 1, 1, True, ("PLAIN",), True))
    assert peer.code("STARTTLS") == "503 5.5.1"


def test_auth_with_challenges() -> None:
    peer = peer_after(GREETED, SUBMISSION, tls=True)
    peer.answers[AuthBegin] = b"Username:"
    assert peer.say("AUTH LOGIN\r\n") == b"334 VXNlcm5hbWU6\r\n"
    peer.answers[AuthResponse] = b""
    assert peer.say("YWRh\r\n") == b"334 \r\n"
    peer.answers[AuthResponse] = reply(535, "5.7.8", "No")
    assert peer.code("c2VjcmV0") == "535 5.7.8"
    assert peer.events == [AuthBegin("LOGIN", None), AuthResponse(b"ada"), AuthResponse(b"secret")]
    assert not peer.machine.authenticated
    assert peer.code("MAIL FROM:<a@b.test>") == "530 5.7.0"


@pytest.mark.parametrize(
    ("line", "code", "event"),
    [
        ("*", "501 5.7.0", AuthResponse(None)),
        ("", "501 5.7.0", AuthResponse(b"")),
        ("QUIT", "501 5.7.0", AuthResponse(b"A\x42\x13")),
        ("not base64", "501 5.5.2", None),
        ("YQ", "501 5.5.2", None),
        ("=", "501 5.5.2", None),
        ("YWRh" * 3073, "500 5.5.6", None),
    ],
)
def test_responses(line: str, code: str, event: AuthResponse | None) -> None:
    peer = peer_after(GREETED, SUBMISSION, tls=True)
    peer.answers[AuthBegin] = b""
    peer.answers[AuthResponse] = reply(501, "5.7.0", "Cancelled")
    peer.say("AUTH PLAIN\r\n")
    assert peer.code(line) == code
    assert event is None or peer.events[-1] == event
    assert event is not None or isinstance(peer.events[-1], Refused)
    assert peer.code("NOOP") == "250 2.0.0"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("AUTH", "501 5.5.4"),
        ("AUTH CRAM-MD5", "504 5.5.4"),
        ("AUTH PLÄIN", "504 5.5.4"),
        ("AUTH PLAIN !", "501 5.5.2"),
        ("AUTH PLAIN YQ== YQ==", "501 5.5.2"),
        ("AUTH PLAIN  ", "235 2.7.0"),
    ],
)
def test_auth_arguments(line: str, code: str) -> None:
    assert peer_after(GREETED, SUBMISSION, tls=True).code(line) == code


# -- whatever comes --------------------------------------------------------------------------------

PARTS = st.sampled_from(
    [
        b"EHLO x\r\n",
        b"HELO x\n",
        b"MAIL FROM:<a@b.test>\r\n",
        b"MAIL FROM:<",
        b"RCPT TO:<c@d.test>\r\n",
        b"RCPT TO:c@d.test NOTIFY=NEVER\n",
        b"DATA\r\n",
        b".\r\n",
        b"\r\n.\r\n",
        b"\n.\n",
        b"\r",
        b"\n",
        b"\0",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"HELP\r\n",
        b"STARTTLS\r\n",
        b"AUTH PLAIN\r\n",
        b"AUTH LOGIN YWRh\r\n",
        b"YWRh\r\n",
        b"*\r\n",
        b"x" * 2500,
        b"AUTH " + b"y" * 5000,
        b"VRFY \xff\r\n",
        b"EXPN a\r\n",
        b"QUIT",
        b"\xe2\x80\xa8",
    ]
)
SESSIONS = st.lists(PARTS, max_size=25).map(b"".join)
WELL_FORMED = re.compile(rb"(?:(?:[2-5][0-9]{2}-[^\r\n\0]*\r\n)*[2-5][0-9]{2} [^\r\n\0]*\r\n)*")


def talk(pieces: list[bytes], tls: bool) -> Peer:
    peer = Peer(
        SUBMISSION if tls else SMTP, answers={AuthBegin: b"?", AuthResponse: reply(535, "5.7.8", "No")}
    )
    if tls:
        peer.machine.tls_started()
        peer.machine._facts |= ENTITLED  # as if logged in before, so that transactions are reached too
    for piece in pieces:
        peer.say(piece)
    return peer


def comparable(peer: Peer) -> list[object]:
    """Events; of a faulty message how much was handed on depends on the cuts, and does not count."""
    kept: list[object] = []
    for event in peer.events:
        if isinstance(event, ContentEnd) and event.fault and kept and isinstance(kept[-1], ContentChunk):
            kept.pop()
        kept.append(event)
    if kept and isinstance(kept[-1], ContentChunk):
        kept.pop()
    return kept


@given(SESSIONS, st.booleans(), st.data())
@settings(max_examples=300, deadline=None)
def test_cuts_change_nothing(octets: bytes, tls: bool, data: st.DataObject) -> None:
    whole = talk([octets], tls)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=6)))
    pieces = [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    cut = talk(pieces, tls)
    assert comparable(cut) == comparable(whole)
    assert cut.output == whole.output


@given(st.lists(st.one_of(PARTS, st.binary(max_size=40)), max_size=25), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_octets_give_events_and_well_formed_replies(pieces: list[bytes], tls: bool) -> None:
    peer = talk(pieces, tls)
    assert WELL_FORMED.fullmatch(peer.output)
    for event in peer.events:
        if isinstance(event, Hello):
            assert re.fullmatch(r"[A-Za-z0-9.\-_:\[\]?]{1,255}", event.name)
        if isinstance(event, Verify | Expand):
            assert event.argument.isprintable()


def enhanced_class_fits(answer: Reply) -> bool:
    return not answer.enhanced or answer.enhanced[0] == str(answer.code)[0]


@given(st.lists(PARTS, max_size=25))
@settings(max_examples=100, deadline=None)
def test_enhanced_codes_have_the_class_of_their_reply(pieces: list[bytes]) -> None:
    refusals = [event.reply for event in talk(pieces, False).events if isinstance(event, Refused)]
    assert all(answer.enhanced and enhanced_class_fits(answer) for answer in refusals)
