"""Peers that refuse, delay, hang up, stall, lie or never end, at each phase, and a real server."""

from __future__ import annotations

import json
import re
import smtplib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.journeys.scripted import HANGS_UP, SILENT, Scripted
from tests.journeys.server import Server
from tests.journeys.tools import PATIENCE, eventually
from tests.relay.authority import Authority

ADA = "ada@a.test"
PHASES = {"connect": "CONNECT", "ehlo": "EHLO", "mail": "MAIL", "rcpt": "RCPT", "data": "DATA", "dot": "."}
SLOW = "250-peer.test\r\n250 8BITMIME"
WELL = {"CONNECT": "220 peer.test", "EHLO": SLOW, "DATA": "354 go"}
ENDLESS = "250-" + "x" * 70 + "\r\n"


@pytest.fixture
def peers() -> Iterator[Callable[..., Scripted]]:
    made: list[Scripted] = []

    def make(**replies: object) -> Scripted:
        made.append(Scripted(**replies))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.stop()


Starter = Callable[[dict[str, Scripted]], Server]


@pytest.fixture
def sender(make_server: Callable[..., Server]) -> Starter:
    """A server with a peer for each of some domains, ``name.test``."""

    def start(peers: dict[str, Scripted]) -> Server:
        relay = {"retry": ["1s"], "trusted_networks": ["127.0.0.1"]}
        routes = {f"{name}.test": f"smtp://127.0.0.1:{peer.port}" for name, peer in peers.items()}
        server = make_server("a", "mx.a.test", ["a.test"], {"relay": relay, "relay.routes": routes})
        server.add_user(ADA)
        return server.start()

    return start


def inject(server: Server, *recipients: str, subject: str = "hello") -> None:
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE) as client:
        client.sendmail(ADA, recipients, f"From: {ADA}\r\nSubject: {subject}\r\n\r\nhello\r\n")


def reasons(server: Server) -> dict[str, str]:
    """Why each recipient in the queue waits."""
    return {
        one["address"]: str(one["reason"])
        for entry in server.queue()
        for one in entry["recipients"]
        if one["reason"]
    }


def once(then: str) -> Callable[[str], str]:
    """``then`` the first time, and a yes ever after."""
    said: list[str] = []

    def answer(line: str) -> str:
        said.append(line)
        if len(said) == 1:
            return then
        if line.startswith("EHLO"):
            return SLOW
        return "220 peer.test" if not line else "354 go" if line == "DATA" else "250 2.0.0 ok"

    return answer


@pytest.mark.parametrize(
    "ehlo",
    ["", pytest.param(SLOW, marks=pytest.mark.long)],
    ids=["pipelining", "one at a time"],
)
def test_a_line_that_drops_at_each_phase(sender: Starter, peers: Callable[..., Scripted], ehlo: str) -> None:
    more = {"EHLO": ehlo} if ehlo else {}
    dropping = {name: peers(**{**more, verb: once(HANGS_UP)}) for name, verb in PHASES.items()}
    server = sender(dropping)
    for name in dropping:
        inject(server, f"bob@{name}.test", subject=name)
    eventually(lambda: all(peer.taken[name] for name, peer in dropping.items()), "a second try of each")
    eventually(lambda: server.queue() == [], "an empty queue")
    assert {name: peer.taken[name] for name, peer in dropping.items()} == dict.fromkeys(PHASES, 1)
    log = server.console()
    for name in PHASES:
        assert re.search(rf"to=<bob@{name}\.test>.*status=deferred", log), name
        assert re.search(rf"to=<bob@{name}\.test>.*status=sent", log), name
    assert server.raw_mail(ADA) == []


def test_a_refusal_at_each_phase_comes_back(sender: Starter, peers: Callable[..., Scripted]) -> None:
    refusing = {name: peers(**{verb: f"554 5.7.1 no {name}"}) for name, verb in PHASES.items()}
    refusing["ehlo"].replies["HELO"] = "554 5.7.1 no ehlo"
    server = sender(refusing)
    for name in refusing:
        inject(server, f"bob@{name}.test", subject=name)
    eventually(lambda: len(server.raw_mail(ADA)) == len(PHASES), "a report of each")
    reports = [raw.decode() for raw in server.raw_mail(ADA)]
    for name in PHASES:
        (report,) = [text for text in reports if f"Final-Recipient: rfc822; bob@{name}.test" in text]
        assert f"554 5.7.1 no {name}" in " ".join(report.split())
        assert "Status: 5.7.1" in report
    assert server.queue() == []


def test_a_delay_at_each_phase_says_why_and_is_tried_again(
    sender: Starter, peers: Callable[..., Scripted]
) -> None:
    delaying = {name: peers(**{verb: f"451 4.3.0 not {name}"}) for name, verb in PHASES.items()}
    server = sender(delaying)
    for name in delaying:
        inject(server, f"bob@{name}.test", subject=name)
    eventually(lambda: len(reasons(server)) == len(PHASES), "a reason for each")
    for name in PHASES:
        assert f"451 4.3.0 not {name}" in reasons(server)[f"bob@{name}.test"]
        why = json.loads(server.cli("queue", "why", f"{name}.test", "--json"))
        assert f"451 4.3.0 not {name}" in json.dumps(why["last"]), name
    (entry,) = [one for one in server.queue() if one["recipients"][0]["address"] == "bob@rcpt.test"]
    assert "451 4.3.0 not rcpt" in server.cli("queue", "show", entry["id"])
    for name, peer in delaying.items():
        peer.replies[PHASES[name]] = WELL.get(PHASES[name], "250 2.0.0 ok")
    server.cli("queue", "retry", "--all")
    eventually(lambda: server.queue() == [], "an empty queue")
    assert {name: peer.taken[name] for name, peer in delaying.items()} == dict.fromkeys(PHASES, 1)
    assert server.raw_mail(ADA) == []


def test_an_answer_for_each_recipient(sender: Starter, peers: Callable[..., Scripted]) -> None:
    answers = {"yes": "250 2.1.5 ok", "no": "550 5.1.1 nobody", "later": "450 4.2.1 busy"}
    peer = peers(RCPT=lambda line: answers[line.partition("<")[2].partition("@")[0]])
    server = sender({"b": peer})
    inject(server, *[f"{name}@b.test" for name in answers])
    eventually(lambda: len(server.raw_mail(ADA)) == 1, "one report")
    (report,) = server.raw_mail(ADA)
    assert b"no@b.test" in report
    assert b"yes@b.test" not in report.partition(b"message/delivery-status")[2].partition(b"Subject:")[0]
    eventually(lambda: list(reasons(server)) == ["later@b.test"], "one who waits")
    answers["later"] = "250 2.1.5 ok"
    eventually(lambda: server.queue() == [], "an empty queue")
    assert peer.delivered == {"yes@b.test": 1, "later@b.test": 1}
    assert len(server.raw_mail(ADA)) == 1


def test_a_report_that_nobody_takes_vanishes(sender: Starter, peers: Callable[..., Scripted]) -> None:
    said: list[str] = []

    def noting(line: str) -> str:
        said.append(line)
        return "250 2.1.0 ok"

    def refusing(line: str) -> str:
        said.append(line)
        return "550 5.1.1 nobody"

    peer = peers(MAIL=noting, RCPT=refusing, DATA="554 5.5.1 nobody")
    server = sender({"b": peer, "c": peer})
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE) as client:
        client.sendmail("eve@b.test", ["bob@c.test"], "From: eve@b.test\r\nSubject: x\r\n\r\n")
        client.sendmail("", ["bob@c.test"], "From: eve@b.test\r\nSubject: x\r\n\r\n")
    eventually(lambda: len(said) == 6 and server.queue() == [], "two messages and one report")
    assert sorted(line.split()[1] for line in said if line.startswith("MAIL")) == [
        "FROM:<>",
        "FROM:<>",
        "FROM:<eve@b.test>",
    ]
    assert sorted(line.split()[1] for line in said if line.startswith("RCPT")) == [
        "TO:<bob@c.test>",
        "TO:<bob@c.test>",
        "TO:<eve@b.test>",
    ]
    assert not peer.taken


def test_lies_and_replies_without_end(sender: Starter, peers: Callable[..., Scripted]) -> None:
    """Ten megabytes of reply, answers before questions, extensions that are not there, octets that are no
    reply: each waits with a reason, nobody else does, and memory stays what it was."""
    ten_megabytes = ENDLESS * (10_000_000 // len(ENDLESS))
    lying = {
        "endless-greeting": peers(CONNECT=ten_megabytes.replace("250-", "220-") + "220 hi"),
        "endless-ehlo": peers(EHLO=ten_megabytes + "250 PIPELINING"),
        "endless-line": peers(RCPT="250 " + "x" * 10_000_000),
        "endless-dot": peers(dot=ten_megabytes + "550 no"),
        "early": peers(EHLO="250-peer.test\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n354 go\r\n250 queued"),
        "nonsense": peers(CONNECT="hello, who are you?"),
        "http": peers(CONNECT="HTTP/1.1 400 Bad Request"),
        "binary": peers(CONNECT="\x16\x03\x01\x00\x05"),
    }
    well = peers()
    server = sender({**lying, "well": well})
    before = resident(server)
    for name in lying:
        inject(server, f"bob@{name}.test")
    eventually(lambda: len(reasons(server)) == len(lying), "a reason for each")
    inject(server, "bob@well.test")
    eventually(lambda: well.taken["hello"] == 1, "mail for somebody else")
    assert resident(server) - before < 30_000
    for name, reason in reasons(server).items():
        assert reason.isprintable(), name
        assert len(reason) < 600, name
    assert "Traceback" not in server.console()


def resident(server: Server) -> int:
    """KiB of memory."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0])


def test_who_stalls_for_ever_holds_up_nobody_and_a_kill_meanwhile_loses_nothing(
    sender: Starter, peers: Callable[..., Scripted]
) -> None:
    stalling = {name: peers(**{verb: SILENT}) for name, verb in PHASES.items()}
    well = peers()
    server = sender({**stalling, "well": well})
    for name in stalling:
        inject(server, f"bob@{name}.test", subject=name)
    eventually(lambda: all(peer.asked[PHASES[name]] for name, peer in stalling.items()), "all to stall")
    inject(server, "bob@well.test")
    eventually(lambda: well.taken["hello"] == 1, "mail for somebody else")
    why = json.loads(server.cli("queue", "why", "data.test", "--json"))
    assert why["destination"]["busy"] == 1
    assert len(server.queue()) == len(stalling)
    server.kill()
    for name, peer in stalling.items():
        peer.replies[PHASES[name]] = WELL.get(PHASES[name], "250 2.0.0 ok")
    server.start()
    eventually(lambda: server.queue() == [], "an empty queue")
    assert {name: peer.taken[name] for name, peer in stalling.items()} == dict.fromkeys(PHASES, 1)


def test_the_next_session_resumes_the_tls_of_the_last(
    sender: Starter, peers: Callable[..., Scripted], tmp_path: Path
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*Authority().issue("peer.test").write(tmp_path / "peer-tls"))
    peer = peers(tls=tls, EHLO="250-peer.test\r\n250 STARTTLS", STARTTLS="220 go")
    server = sender({"b": peer})
    for number in (1, 2):
        inject(server, "bob@b.test", subject=f"message {number}")
        eventually(lambda n=number: peer.asked["QUIT"] == n, "the end of a session")  # type: ignore[misc]
    told = tls.session_stats()
    assert (told["accept_good"], told["hits"]) == (2, 1)
