"""The POP3 machine: one event at a time, in order, whatever is fed and however it is cut."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailserver.values.listing import Listings
from mailserver.wire import pop3_server
from mailserver.wire.pop3_events import (
    Apop,
    AuthBegin,
    AuthResponse,
    Event,
    HangUp,
    LogIn,
    Retrieve,
    StartTLS,
    Transmit,
    Update,
    XClient,
)
from mailserver.wire.pop3_mail import LISTED_AT_ONCE, Pop3Mail
from mailserver.wire.pop3_offer import Pop3Offer
from mailserver.wire.pop3_replies import Replies
from mailserver.wire.pop3_server import MAX_AUTH_LINE, MAX_LINE, OUTPUT_OCTETS, Pop3Server
from mailserver.wire.pop3_table import COMMANDS, Situation
from mailserver.wire.pop3_xclient import Client

OFFER = Pop3Offer("mx.test", stls=True, allow_cleartext=True)


MESSAGES = Listings([100, 20, 3], ["a", "b", "c"])


def server(offer: Pop3Offer = OFFER, tls: bool = False) -> Pop3Server:
    machine = Pop3Server(offer, tls)
    machine.greet()
    assert machine.take_output() == b"+OK mx.test POP3 ready\r\n"
    return machine


def logged_in(messages: Listings = MESSAGES) -> Pop3Server:
    machine = server()
    machine.feed(b"USER ada\r\nPASS x\r\n")
    assert machine.next_event() == LogIn("ada", "x")
    machine.logged_in(messages)
    machine.take_output()
    return machine


def said(machine: Pop3Server, octets: bytes) -> bytes:
    """The answer to a command that the machine answers alone."""
    machine.feed(octets)
    assert machine.next_event() is None
    return machine.take_output()


def play(pieces: list[bytes], offer: Pop3Offer = OFFER) -> tuple[list[Event], bytes]:
    """Feed the pieces and answer every event as a server with ``MESSAGES`` does."""
    machine, events, output = server(offer), [], []
    for piece in pieces:
        machine.feed(piece)
        while (event := machine.next_event()) is not None or machine.is_resting:
            output.append(machine.take_output())
            if event is None:
                continue
            if isinstance(event, Transmit):
                output += event.pieces
            events.append(event)
            answer(machine, event)
        output.append(machine.take_output())
    return [e for e in events if not isinstance(e, Transmit)], b"".join(output)


def answer(machine: Pop3Server, event: Event) -> None:
    if isinstance(event, LogIn):
        if event.password == "right":
            machine.logged_in(MESSAGES)
        else:
            machine.login_refused("AUTH", "Wrong")
    elif isinstance(event, AuthBegin):
        machine.challenge(b"more?")
    elif isinstance(event, AuthResponse):
        machine.auth_failed("Wrong") if len(event.octets) % 2 else machine.logged_in(MESSAGES)
    elif isinstance(event, StartTLS):
        machine.tls_started()
    elif isinstance(event, Retrieve):
        machine.transmitted() if event.index else machine.refuse("gone")
    elif isinstance(event, Transmit):
        machine.transmitted()
    elif isinstance(event, Update):
        machine.updated(len(event.marked) // 2)


# -- one at a time ---------------------------------------------------------------------------


def test_silent_until_answered() -> None:
    machine = server()
    machine.feed(b"USER ada\r\nPASS x\r\nSTAT\r\nNOPE\r\n")
    assert machine.next_event() == LogIn("ada", "x")
    machine.take_output()
    machine.feed(b"NOOP\r\n")
    assert machine.next_event() is None
    assert machine.take_output() == b""
    machine.logged_in(MESSAGES)
    assert machine.next_event() is None
    assert machine.take_output() == (
        b"+OK Logged in, 3 messages, 123 octets\r\n+OK 3 123\r\n-ERR Unknown command\r\n+OK\r\n"
    )


def test_retrieve_and_top() -> None:
    machine = logged_in()
    machine.feed(b"RETR 2\r\nTOP 3 5\r\nRETR 1\r\n")
    assert machine.next_event() == Retrieve(1, None, b"+OK 20 octets\r\n")
    machine.transmitted()
    assert machine.next_event() == Retrieve(2, 5, b"+OK Top of message follows\r\n")
    machine.refuse("[SYS/TEMP] not now")
    assert machine.next_event() == Retrieve(0, None, b"+OK 100 octets\r\n")
    machine.transmitted()
    assert machine.take_output() == b"-ERR [SYS/TEMP] not now\r\n"


def test_marks_travel_with_the_update() -> None:
    machine = logged_in()
    said(machine, b"DELE 3\r\nDELE 1\r\n")
    machine.feed(b"QUIT\r\n")
    assert machine.next_event() == Update(frozenset({0, 2}))
    machine.updated(0)
    assert machine.next_event() == HangUp()
    assert machine.take_output() == b"+OK Goodbye\r\n"
    assert machine.next_event() is None


def test_nothing_follows_the_end() -> None:
    machine = server()
    machine.feed(b"QUIT\r\nUSER ada\r\n")
    assert machine.next_event() == HangUp()
    machine.feed(b"USER ada\r\n")
    assert machine.next_event() is None
    assert machine.take_output() == b"+OK Goodbye\r\n"
    assert machine.pending_octets == 0


def test_ended_from_our_side() -> None:
    machine = logged_in()
    machine.end("[SYS/TEMP] stopping")
    assert machine.next_event() == HangUp()
    assert machine.take_output() == b"-ERR [SYS/TEMP] stopping\r\n"


def test_an_answer_has_to_fit() -> None:
    machine = logged_in()
    for wrong in (machine.transmitted, machine.tls_started, lambda: machine.updated(0)):
        with pytest.raises(RuntimeError):
            wrong()


def test_output_is_bounded() -> None:
    machine = logged_in()
    octets = b"NOOP\r\n" * 3 * (OUTPUT_OCTETS // 5)
    machine.feed(octets)
    written = 0
    for _ in range(2):
        assert machine.next_event() is None
        assert machine.is_resting
        output = machine.take_output()
        assert len(output) < OUTPUT_OCTETS + 10
        written += len(output)
    assert machine.next_event() is None
    assert not machine.is_resting
    assert written + len(machine.take_output()) == 5 * 3 * (OUTPUT_OCTETS // 5)


def test_long_lists_come_in_pieces() -> None:
    machine = logged_in(Listings([10] * 1200, [f"id{n}" for n in range(1200)]))
    said(machine, b"DELE 2\r\n")
    machine.feed(b"UIDL\r\n")
    event = machine.next_event()
    assert isinstance(event, Transmit)
    pieces = list(event.pieces)
    assert len(pieces) == 4
    assert max(piece.count(b"\n") for piece in pieces) <= LISTED_AT_ONCE
    lines = b"".join(pieces).split(b"\r\n")
    assert lines[:3] == [b"+OK 1199 messages, 11990 octets", b"1 id0", b"3 id2"]
    assert lines[-3:] == [b"1200 id1199", b".", b""]
    assert len(lines) == 1 + 1199 + 2
    machine.transmitted()
    assert said(machine, b"LIST 1200\r\n") == b"+OK 1200 10\r\n"


# -- the table ---------------------------------------------------------------------------------


def in_situation(situation: Situation) -> Pop3Server:
    if situation is Situation.TRANSACTION:
        return logged_in()
    return server(
        Pop3Offer("mx.test", stls=True, allow_cleartext=situation is Situation.CLEAR_ALLOWED),
        tls=situation is Situation.SECURE,
    )


@pytest.mark.parametrize("situation", Situation)
@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_what_is_illegal_is_refused(verb: bytes, situation: Situation) -> None:
    machine = in_situation(situation)
    machine.feed(verb + b" 1 1 1\r\n")  # wrong for every verb but USER and PASS
    event, output = machine.next_event(), machine.take_output()
    if verb in (b"APOP", b"XCLIENT"):
        assert output == b"-ERR Unknown command\r\n"
    elif situation in COMMANDS[verb].legal:
        assert event is None
        if verb == b"USER":
            assert output.startswith(b"+OK")
        else:
            assert output.startswith((b"-ERR Syntax: " + verb, b"-ERR Name first"))
    else:
        assert event is None
        assert output.startswith((b"-ERR Start TLS", b"-ERR Log in", b"-ERR Already", b"-ERR TLS is active"))


def test_every_row_has_an_action() -> None:
    mail = Pop3Mail(Replies(), MESSAGES).actions.keys()
    assert mail | pop3_server._ACTIONS.keys() == COMMANDS.keys()
    assert not mail & pop3_server._ACTIONS.keys()


# -- log-in ------------------------------------------------------------------------------------


def test_an_exchange() -> None:
    machine = server()
    machine.feed(b"auth plain =\r\nYWRh\r\n*\r\nAUTH LOGIN\r\n")
    assert machine.next_event() == AuthBegin("PLAIN", b"")
    assert machine.next_event() is None
    machine.challenge(b"\0\xff")
    assert machine.take_output() == b"+ AP8=\r\n"
    assert machine.next_event() == AuthResponse(b"ada")
    machine.challenge(b"")
    assert machine.next_event() == AuthBegin("LOGIN", None)
    assert machine.take_output() == b"+ \r\n-ERR Cancelled\r\n"
    machine.auth_failed("Expected something else")
    assert machine.take_output() == b"-ERR Expected something else\r\n"
    assert said(machine, b"AUTH PLAIN !!\r\n") == b"-ERR Expected a response in base64\r\n"


def test_channel_binding_needs_a_channel() -> None:
    offer = Pop3Offer("mx.test", stls=True, allow_cleartext=True, mechanisms=("SCRAM-SHA-256-PLUS", "PLAIN"))
    machine = server(offer)
    assert b"SASL PLAIN\r\n" in said(machine, b"CAPA\r\n")
    assert b"-ERR Expected one of" in said(machine, b"AUTH SCRAM-SHA-256-PLUS\r\n")
    machine.feed(b"STLS\r\n")
    machine.next_event()
    machine.tls_started()
    machine.take_output()
    assert b"SASL SCRAM-SHA-256-PLUS PLAIN\r\n" in said(machine, b"CAPA\r\n")
    machine.feed(b"AUTH scram-sha-256-plus\r\n")
    assert machine.next_event() == AuthBegin("SCRAM-SHA-256-PLUS", None)


def test_limits_of_lines() -> None:
    password = "p" * (MAX_LINE - 5)
    machine = server()
    machine.feed(f"USER ada\r\nPASS {password}\r\n".encode())
    assert machine.next_event() == LogIn("ada", password)
    machine = server()
    machine.feed(f"USER ada\r\nPASS {password}x\r\n".encode())
    assert machine.next_event() is None
    assert machine.take_output().endswith(b"-ERR Line too long\r\n")
    machine = server()
    machine.feed(b"AUTH PLAIN " + b"A" * ((MAX_AUTH_LINE - 11) // 4 * 4) + b"\r\n")
    assert isinstance(machine.next_event(), AuthBegin)
    machine = server()
    assert said(machine, b"AUTH PLAIN " + b"A" * (MAX_AUTH_LINE - 10) + b"\r\n") == b"-ERR Line too long\r\n"
    assert said(machine, b"AUTHOR" + b"A" * MAX_LINE + b"\r\n") == b"-ERR Line too long\r\n"


def test_a_fault_of_ours_does_not_end_the_session() -> None:
    machine = server()
    for _ in range(10):
        machine.feed(b"USER ada\r\nPASS x\r\n")
        assert isinstance(machine.next_event(), LogIn)
        machine.login_refused("SYS/TEMP", "later", counts=False)
    assert machine.next_event() is None


def test_passwords_stay_out_of_representations() -> None:
    for event in (LogIn("ada", "secret"), AuthBegin("PLAIN", b"secret"), AuthResponse(b"secret")):
        assert "secret" not in repr(event)


def test_stls_drops_what_lies_behind_it() -> None:
    machine = server()
    machine.feed(b"USER ada\r\nSTLS\r\nPASS x\r\n")
    assert machine.next_event() == StartTLS()
    assert machine.plaintext_pending
    machine.tls_started()
    assert not machine.plaintext_pending
    machine.take_output()
    assert machine.next_event() is None
    assert said(machine, b"PASS x\r\n") == b"-ERR Name first: USER name\r\n"


# -- what an administrator has to turn on --------------------------------------------------------


def test_apop() -> None:
    machine = Pop3Server(Pop3Offer("mx.test", allow_cleartext=True, apop=True))
    machine.greet()
    greeting = machine.take_output()
    stamp = greeting[greeting.index(b"<") : greeting.index(b">") + 1]
    assert greeting == b"+OK mx.test POP3 ready " + stamp + b"\r\n"
    assert said(machine, b"APOP ada 123\r\n") == b"-ERR Syntax: APOP name digest\r\n"
    digest = hashlib.md5(stamp + b"secret").hexdigest()
    machine.feed(b"APOP ada@example.test " + digest.upper().encode() + b"\r\n")
    event = machine.next_event()
    assert isinstance(event, Apop)
    assert event.response.username == "ada@example.test"
    assert event.response.fits("secret")
    assert not event.response.fits("Secret")
    assert digest not in repr(event)
    machine.login_refused("AUTH", "Wrong")
    assert machine.take_output() == b"-ERR [AUTH] Wrong\r\n"


def test_no_two_greetings_have_the_same_timestamp() -> None:
    stamps = set()
    for _ in range(100):
        machine = Pop3Server(Pop3Offer("mx.test", apop=True))
        machine.greet()
        stamps.add(machine.take_output())
    assert len(stamps) == 100


def test_xclient() -> None:
    machine = Pop3Server(OFFER, proxied=True)
    machine.greet()
    assert machine.take_output() == b"+OK [XCLIENT] mx.test POP3 ready\r\n"
    assert b"\r\nXCLIENT\r\n" in said(machine, b"CAPA\r\n")
    machine.feed(b"XCLIENT ADDR=2001:DB8::1 PORT=4321 SESSION=abc+/1 TTL=5 FORWARD=xyz=\r\n")
    assert machine.next_event() == XClient(Client("2001:db8::1", 4321, "abc+/1"))
    machine.moved()
    assert machine.take_output() == b"+OK Updated\r\n"


@pytest.mark.parametrize(
    "wrong", [b"", b"ADDR", b"ADDR=", b"ADDR=mx.test", b"PORT=x", b"PORT=99999", b"SESSION=\xff", b"a b"]
)
def test_xclient_without_sense(wrong: bytes) -> None:
    machine = Pop3Server(OFFER, proxied=True)
    assert said(machine, b"XCLIENT " + wrong + b"\r\n").startswith(b"-ERR Syntax: XCLIENT ADDR=")


# -- a slow opening ------------------------------------------------------------------------------


def opening() -> Pop3Server:
    machine = server()
    machine.feed(b"USER ada\r\nPASS x\r\n")
    assert machine.next_event() == LogIn("ada", "x")
    machine.take_output()
    machine.opening()
    assert machine.take_output() == b"+OK Logged in, the maildrop is being opened\r\n"
    return machine


def test_commands_wait_for_the_snapshot() -> None:
    machine = opening()
    machine.feed(b"STAT\r\nRETR 2\r\n")
    assert machine.next_event() is None
    assert machine.take_output() == b""
    machine.logged_in(MESSAGES)
    assert machine.next_event() == Retrieve(1, None, b"+OK 20 octets\r\n")
    assert machine.take_output() == b"+OK 3 123\r\n"


@pytest.mark.parametrize("command", [b"STAT\r\n", b"QUIT\r\n", b"nonsense\r\n"])
def test_an_opening_that_fails_is_told_at_the_first_command(command: bytes) -> None:
    machine = opening()
    machine.opening_failed("SYS/TEMP", "Not now")
    assert machine.next_event() is None
    machine.feed(command)
    assert machine.next_event() == HangUp()
    assert machine.take_output() == b"-ERR [SYS/TEMP] Not now\r\n"


# -- any octets, any cut -----------------------------------------------------------------------

COMMAND = st.sampled_from(
    [
        *[verb + b"\r\n" for verb in COMMANDS],
        b"USER ada\r\nPASS right\r\n",
        b"USER ada\nPASS wrong\n",
        b"AUTH PLAIN AGFkYQByaWdodA==\r\n",
        b"AUTH LOGIN\r\nYWRh\r\nc2VjcmV0\r\n",
        b"AUTH PLAIN\r\n*\r\n",
        b"STLS\r\n",
        b"RETR 1\r\n",
        b"RETR 2\r\n",
        b"TOP 2 1\r\n",
        b"DELE 2\r\n",
        b"LIST 2\r\n",
        b"UIDL 9\r\n",
        b"RETR 0x1\r\n",
        b"x" * 1100 + b"\r\n",
        b"\0\r\n",
        b"\r\n",
        b"NO",
    ]
)


def without_stls_races(octets: bytes) -> bytes:
    """Octets behind STLS are dropped or served depending on when they come, which is the point."""
    return octets.replace(b"STLS", b"STAT")


@given(st.lists(COMMAND, max_size=25), st.data())
@settings(deadline=None)
def test_any_cut_gives_the_same_session(commands: list[bytes], data: st.DataObject) -> None:
    whole = without_stls_races(b"".join(commands))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert play(pieces) == play([whole]) == play([bytes([octet]) for octet in whole])


@given(st.lists(COMMAND | st.binary(max_size=60), max_size=30))
@settings(deadline=None, max_examples=300)
def test_any_octets_give_events_or_errors(pieces: list[bytes]) -> None:
    events, output = play(pieces)
    assert all(isinstance(event, Event) for event in events)
    assert output == b"" or output.endswith(b"\r\n")
    assert [isinstance(event, HangUp) for event in events[:-1]].count(True) == 0


@given(st.binary(max_size=3000))
def test_any_octets_after_login(octets: bytes) -> None:
    play([b"USER ada\r\nPASS right\r\n", octets, b"\r\nNOOP\r\n" * 3])


def test_trailing_octets_wait() -> None:
    events, output = play([b"USER ada\r\nPASS right\r\nNOOP\r\nNOO"])
    assert len(events) == 1
    assert output.endswith(b"octets\r\n+OK\r\n")


def test_bad_commands_cost_the_same_cut_or_whole() -> None:
    octets = b"X\r\n" * (pop3_server.BAD_COMMANDS_BEFORE_LOGIN + 1)
    for pieces in ([octets], [bytes([octet]) for octet in octets]):
        events, output = play(pieces)
        assert events == [HangUp()]
        assert output.count(b"-ERR Unknown command\r\n") == pop3_server.BAD_COMMANDS_BEFORE_LOGIN
