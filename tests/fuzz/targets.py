"""What is fed with anything: one function for each reader of strangers' octets in wire/ and receive/.

A target takes octets and returns, or fails: whatever the octets are, there must be an event or one of
the protocol's own errors, never another exception, and what comes out must hold what it promises.  The
first octets choose a situation and where the rest is cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mailserver.receive.header import HeaderReader
from mailserver.receive.submitted import SubmittedHeader
from mailserver.values.address import Address
from mailserver.values.reply import Reply, reply
from mailserver.wire import grammar, proxy, sasl_mechanisms, smtp_parameters
from mailserver.wire.client_commands import speakable
from mailserver.wire.client_events import (
    Ready,
    SendContent,
    SessionEnded,
    StartTLS,
    TransactionDone,
)
from mailserver.wire.dots import DotStuffer
from mailserver.wire.mailboxes import UnreadableField, addresses_in
from mailserver.wire.pop3_downgrade import downgraded
from mailserver.wire.sasl import Challenge, SaslError
from mailserver.wire.sasl_scram import ScramVerifier
from mailserver.wire.seven_bit import NotReencodable, in_seven_bits
from mailserver.wire.smtp_chunks import BinaryScanner, Checked, TextScanner, chunk_from
from mailserver.wire.smtp_client import SMTPClientMachine
from mailserver.wire.smtp_data import ContentScanner
from mailserver.wire.smtp_events import (
    AuthBegin,
    AuthResponse,
    ContentChunk,
    ContentEnd,
    DataBegin,
    Event,
    MailFrom,
    Offer,
    RcptTo,
)
from mailserver.wire.smtp_table import AUTH_LINE_OCTETS
from tests.wire.smtp_peer import Peer
from tests.wire.test_pop3_server import OFFER as POP3_OFFER
from tests.wire.test_pop3_server import play
from tests.wire.test_smtp_client import envelope

Target = Callable[[bytes], None]

MECHANISMS = sasl_mechanisms.offered(tokens=True, cram_md5=True)
_ROOM = {"message_size": 3000, "recipients": 3}
OFFERS = (
    Offer("mx.example.test", "smtp", **_ROOM, starttls=True, etrn=True),
    Offer("mx.example.test", "smtp", **_ROOM, normalize=True),
    Offer("mx.example.test", "submission", **_ROOM, starttls=True, mechanisms=MECHANISMS, future_release=60),
    Offer("mx.example.test", "submission", **_ROOM, mechanisms=MECHANISMS, cleartext_auth=True),
    Offer("mx.example.test", "lmtp", **_ROOM, require_tls=True),
    Offer(
        "mx.example.test",
        "smtp",
        message_size=3000,
        recipients=3,
        messages=2,
        domains=1,
        trusted=True,
        terminals="everybody",
        verify="everybody",
        expand="everybody",
    ),
)
WELL_FORMED = re.compile(rb"(?:(?:[2-5][0-9]{2}-[^\r\n\0]*\r\n)*[2-5][0-9]{2} [^\r\n\0]*\r\n)*")
_OK, _NO, _LATER = reply(250, "2.0.0", "Ok"), reply(550, "5.7.1", "No"), reply(451, "4.3.0", "Later")
_GO_ON, _BYE = reply(354, "", "Go on"), reply(421, "4.3.2", "Bye", hang_up=True)
_WELCOME, _WRONG = reply(235, "2.7.0", "Welcome"), reply(535, "5.7.8", "Wrong")


def _head(data: bytes, octets: int) -> tuple[bytes, bytes]:
    """The octets that choose, filled up with zeros, and the rest."""
    return data[:octets].ljust(octets, b"\0"), data[octets:]


def cut(octets: bytes, choice: int) -> list[bytes]:
    """Pieces of ``choice`` octets; whole for 0 and for most."""
    step = choice if 0 < choice < 64 else len(octets) or 1
    return [octets[at : at + step] for at in range(0, len(octets), step)] or [b""]


def _pick(number: int, *choices: Reply | bytes) -> Reply | bytes:
    return choices[number % len(choices)]


def _answers(choice: int) -> dict[type, Reply | bytes]:
    """How the server's other half answers: mostly well, sometimes not."""
    return {
        MailFrom: _pick(choice, _OK, _OK, _OK, _NO, _LATER),
        RcptTo: _pick(choice // 5, _OK, _OK, _NO, _LATER),
        DataBegin: _pick(choice // 7, _GO_ON, _GO_ON, _GO_ON, _LATER),
        ContentEnd: _pick(choice // 11, _OK, _OK, _NO, _LATER, _BYE),
        AuthBegin: _pick(choice // 3, b"go on", _WELCOME, _WRONG),
        AuthResponse: _pick(choice // 13, _WELCOME, b"", _WRONG),
    }


def smtp_server(data: bytes) -> None:
    """A whole session: every role, in clear and in TLS, any answers, any cuts."""
    head, octets = _head(data, 3)
    peer = Peer(OFFERS[head[0] % len(OFFERS)], _answers(head[1]))
    machine = peer.machine
    if head[0] & 0x80:
        machine.tls_started()
    machine.greet()
    for piece in cut(octets, head[2]):
        peer.say(piece)
        if machine.is_handshaking:
            machine.tls_started()
        assert len(machine._buffer) - machine._position <= AUTH_LINE_OCTETS, "an unbounded buffer"
    assert WELL_FORMED.fullmatch(peer.output), peer.output
    assert all(isinstance(event, Event) for event in peer.events)
    for event in peer.events:
        if isinstance(event, ContentChunk):
            _canonical(event.octets, whole=False)


def _canonical(octets: bytes, whole: bool = True) -> None:
    """Lines end in CRLF alone."""
    assert octets.count(b"\r\n") == octets.count(b"\n") == octets.count(b"\r"), octets
    assert not whole or not octets or octets.endswith(b"\r\n"), octets


def smtp_client(data: bytes) -> None:
    """A hostile server: a machine that sends three recipients a time, until it is told to stop."""
    head, octets = _head(data, 2)
    machine = SMTPClientMachine("mx.a.test", bool(head[0] & 1))
    seen: list[object] = []
    for piece in cut(octets, head[1]):
        for event in machine.feed(piece):
            seen.append(event)
            if machine.ended:
                continue
            if isinstance(event, StartTLS):
                machine.tls_started()
            elif isinstance(event, SendContent):
                machine.content_sent()
            elif isinstance(event, Ready | TransactionDone):
                mail = envelope(3)
                machine.begin(mail, mail.recipients, 10)
        assert machine.take().isascii()
    seen += machine.abandon("lost")
    assert [isinstance(event, SessionEnded) for event in seen].count(True) == 1
    assert all(len(event.replies) == 3 for event in seen if isinstance(event, TransactionDone))


def pop3_server(data: bytes) -> None:
    """A whole session, of somebody who logs in or does not."""
    head, octets = _head(data, 2)
    login = [b"USER ada\r\nPASS right\r\n"] if head[0] & 1 else []
    _, output = play([*login, *cut(octets, head[1])], POP3_OFFER)
    assert output == b"" or output.endswith(b"\r\n")


def addresses(data: bytes) -> None:
    """The paths of MAIL and RCPT: an address comes out that says no more than went in."""
    for keyword in (b"TO:", b"FROM:"):
        for text in (data, b"<" + data + b">", b'<"' + data + b'"@c.test>', b"<a@" + data + b">"):
            try:
                found = grammar.path(keyword + text, keyword)
            except grammar.Malformed:
                continue
            if found is None or not found.address.domain:
                continue
            shown = str(found.address)
            assert not any(c in shown for c in "\r\n\0\u2028\u2029\x85"), shown
            assert isinstance(speakable(found.address), bool)
            # What was read is written so that it reads the same again.
            again = grammar.path(b"TO:<" + shown.encode() + b">", b"TO:")
            assert again is not None
            assert again.address == found.address


def parameters(data: bytes) -> None:
    """ESMTP parameters of MAIL and RCPT, and the argument of BDAT."""
    for known in (smtp_parameters.MAIL_PARAMETERS, smtp_parameters.RCPT_PARAMETERS):
        try:
            fields = smtp_parameters.parse(data, known)
        except smtp_parameters.Unacceptable as why:
            refusal: Reply | None = why.reply
        else:
            refusal = None
            assert not any(isinstance(v, str) and ("\r" in v or "\n" in v) for v in fields.values())
        assert refusal is None or refusal.code in (501, 555)
        assert refusal is None or WELL_FORMED.fullmatch(refusal.encode())
    found = chunk_from(data)
    assert found is None or 0 <= found[0] < 10**20


def dots(data: bytes) -> None:
    """Whatever is stuffed, in any cuts, has one end, where it ends; and the scanner undoes it."""
    head, octets = _head(data, 2)
    stuffer = DotStuffer()
    wire = b"".join(stuffer.feed(piece) for piece in cut(octets, head[0])) + stuffer.finish()
    _canonical(wire)
    scanner = ContentScanner(10**6, line_limit=10**6)
    content = b"".join(scanner.scan(piece) for piece in cut(wire, head[1]) if not scanner.ended)
    assert scanner.ended
    assert scanner.rest == b""
    if b"\0" not in octets:
        assert len(content) - len(octets) in (0, 1, 2)  # at most the last line's end is added


def _scanned(scanner: Checked, pieces: list[bytes]) -> tuple[bytes, Reply | None]:
    content = b"".join(scanner.scan(piece) for piece in pieces) + scanner.finish()
    return b"" if scanner.fault else content, scanner.fault


def chunks(data: bytes) -> None:
    """Text and binary content by BDAT: the cuts change nothing, and lines come out."""
    head, octets = _head(data, 2)
    makes: tuple[Callable[[], Checked], ...] = (
        lambda: TextScanner(2000),
        lambda: TextScanner(2000, normalize=True),
        lambda: BinaryScanner(2000),
    )
    make = makes[head[0] % len(makes)]
    content, fault = _scanned(make(), cut(octets, head[1]))
    assert (content, fault) == _scanned(make(), [octets])
    _canonical(content)


def binary_mime(data: bytes) -> None:
    """A message of BODY=BINARYMIME."""
    header = (
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    )
    head, octets = _head(data, 1)
    for begin in (b"", header):
        content, fault = _scanned(BinaryScanner(5000), cut(begin + octets, head[0]))
        assert (content, fault) == _scanned(BinaryScanner(5000), [begin + octets])
        _canonical(content)


def header(data: bytes) -> None:
    """The header of content that passes by, and that of a submission."""
    head, octets = _head(data, 2)
    text = TextScanner(10**6, normalize=True)
    canonical = text.scan(octets) + text.finish()
    if text.fault:
        return

    def read(step: int) -> tuple[object, ...]:
        reader = HeaderReader()
        kept = b"".join(reader.feed(piece) for piece in cut(canonical, step)) + reader.finish()
        return kept, reader.fields, reader.delivered_to, reader.says_tls_is_optional

    assert read(head[1]) == read(0)
    mine = Address("ada", "example.test")
    submitted = SubmittedHeader(mine, lambda address: address == mine, "mx.example.test")
    kept = b"".join(submitted.feed(piece) for piece in cut(canonical, head[1])) + submitted.finish()
    _canonical(kept)
    assert submitted.refusal is None or submitted.refusal.code in (451, 550, 552)


def author_fields(data: bytes) -> None:
    """The body of From or Sender, and a header for clients without UTF-8."""
    try:
        for address in addresses_in(data):
            assert "\n" not in str(address)
    except UnreadableField:
        pass
    b"".join(downgraded(iter([data])))
    try:
        assert in_seven_bits(data).isascii()
    except NotReencodable:
        pass


def proxy_header(data: bytes) -> None:
    """A PROXY header is the same whatever follows it, and none while it is not whole."""
    for octets in (data, b"PROXY TCP4 " + data, proxy.SIGNATURE + b"\x21\x11\x00\x0c" + data):
        try:
            found = proxy.parse(octets)
        except proxy.NotProxied:
            continue
        if found is None:
            continue
        assert proxy.parse(octets[: found.length]) == found == proxy.parse(octets + b"EHLO x\r\n")
        assert proxy.parse(octets[: found.length - 1]) is None


_VERIFIERS = {
    name: ScramVerifier.of("secret", b"0123456789abcdef", 4096, name)
    for name in ("SCRAM-SHA-256", "SCRAM-SHA-1")
}


def sasl(data: bytes) -> None:
    """One exchange of any mechanism; responses are parted by the octet 0xFF."""
    head, octets = _head(data, 2)
    around = sasl_mechanisms.Surroundings(
        "mx.example.test",
        lambda name, mechanism: _VERIFIERS[mechanism],
        MECHANISMS,
        lambda kind: b"bound" if head[1] & 2 else None,
    )
    mechanism = sasl_mechanisms.begin(MECHANISMS[head[0] % len(MECHANISMS)], around)
    responses: list[bytes | None] = [*octets.split(b"\xff")]
    why = ""
    try:
        for response in [None, *responses] if head[1] & 1 else responses:
            said = mechanism.step(response)
            if not isinstance(said, Challenge):
                assert isinstance(said.username, str)
                mechanism.accepted()
                mechanism.refused()
                break
    except SaslError as error:
        why = str(error)
    assert why.isprintable()


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        smtp_server,
        smtp_client,
        pop3_server,
        addresses,
        parameters,
        dots,
        chunks,
        binary_mime,
        header,
        author_fields,
        proxy_header,
        sasl,
    )
}
"""By name."""
