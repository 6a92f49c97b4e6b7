"""Log-in by every mechanism, on every way in, with the clients people have: swaks, curl, gsasl, smtplib,
poplib; and what holds for those who have logged in."""

from __future__ import annotations

import base64
import hashlib
import poplib
import re
import smtplib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailserver.wire.sasl_client import ScramClient
from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import PATIENCE, eventually, run, tool

ADA = "ada@a.test"
LETTER = f"From: {ADA}\r\nTo: {ADA}\r\nSubject: by {{}}\r\n\r\nHello\r\n"
TOKENS = """
class Tokens:
    failure = {"scope": "mail"}

    def user_of(self, token, username):
        return "ada@a.test" if token == "good-token" else None
"""
CLEAR = ("SCRAM-SHA-256", "SCRAM-SHA-1", "OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN", "CRAM-MD5")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all: every mechanism is on, and log-in without TLS is allowed."""
    folder = tmp_path_factory.mktemp("login") / "a"
    settings = {
        "login": {"allow_cleartext": True, "oauth": "own_tokens:Tokens", "cram_md5": True},
        "policy": {"rules_folder": str(folder)},
        "submission": {"hide_client": True},
    }
    made = Server(folder, "mx.a.test", ["a.test"], settings)
    (folder / "own_tokens.py").write_text(TOKENS)
    made.add_user(ADA)
    made.add_user("bob@a.test")
    made.start()
    yield made
    made.stop()
    assert "Traceback" not in made.console(), made.console()


def scram(mechanism: str, name: str = ADA, password: str = PASSWORD) -> Callable[[bytes | None], bytes]:
    """What a client says to each challenge, the initial response first."""
    client = ScramClient(mechanism, name, password)
    said = [lambda _: client.first(), client.final, client.verify]
    return lambda challenge: said.pop(0)(challenge or b"")


def connected(server: Server, way: str, tls: ssl.SSLContext) -> smtplib.SMTP:
    if way == "tls":
        return smtplib.SMTP_SSL(server.host, server.ports["submissions"], timeout=PATIENCE, context=tls)
    client = smtplib.SMTP(server.host, server.ports["submission"], timeout=PATIENCE)
    if way == "starttls":
        client.starttls(context=tls)
    return client


WAYS = ("clear", "starttls", "tls")


@pytest.mark.parametrize("way", WAYS)
def test_smtplib(server: Server, unverified: ssl.SSLContext, way: str) -> None:
    before = len(server.raw_mail(ADA))
    for mechanism in CLEAR:
        with connected(server, way, unverified) as client:
            client.ehlo()
            offered = client.esmtp_features["auth"].split()
            assert ("SCRAM-SHA-256-PLUS" in offered) is (way != "clear")
            assert set(offered) - {"SCRAM-SHA-256-PLUS"} == set(CLEAR)
            client.user, client.password = ADA, PASSWORD
            for initial in (False, True) if mechanism not in ("CRAM-MD5", "LOGIN") else (False,):
                client.rset()
                _authenticate(client, mechanism, initial)
                if not initial and mechanism not in ("CRAM-MD5", "LOGIN"):
                    client.close()
                    client = connected(server, way, unverified)
                    client.ehlo()
                    client.user, client.password = ADA, PASSWORD
            client.sendmail(ADA, ADA, LETTER.format(mechanism))
    eventually(lambda: len(server.raw_mail(ADA)) == before + len(CLEAR), "a letter by each mechanism")


def _authenticate(client: smtplib.SMTP, mechanism: str, initial: bool) -> None:
    """AUTH with or without an initial response, to the 235."""
    respond = {
        "PLAIN": lambda _: f"\0{ADA}\0{PASSWORD}".encode(),
        "OAUTHBEARER": lambda _: f"n,a={ADA},\x01auth=Bearer good-token\x01\x01".encode(),
        "XOAUTH2": lambda _: f"user={ADA}\x01auth=Bearer good-token\x01\x01".encode(),
        "LOGIN": lambda challenge: ADA.encode() if b"User" in challenge else PASSWORD.encode(),
        "CRAM-MD5": lambda challenge: client.auth_cram_md5(challenge).encode(),
    }.get(mechanism)
    respond = respond or scram(mechanism)
    first = [_base64(respond(None))] if initial else []
    code, answer = client.docmd("AUTH", " ".join([mechanism, *first]))
    while code == 334:
        code, answer = client.docmd(_base64(respond(base64.b64decode(answer))))
    assert code == 235, (mechanism, initial, code, answer)


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "OAUTHBEARER"])
def test_a_wrong_secret(server: Server, unverified: ssl.SSLContext, mechanism: str) -> None:
    with connected(server, "tls", unverified) as client:
        client.ehlo()
        client.user, client.password = ADA, "wrong"
        respond = {"OAUTHBEARER": lambda c: b"\x01" if c else b"n,,\x01auth=Bearer bad\x01\x01"}.get(
            mechanism
        ) or scram(mechanism, password="wrong")
        code, answer = client.docmd("AUTH", mechanism)
        while code == 334:
            code, answer = client.docmd(_base64(respond(base64.b64decode(answer))))
        assert (code, answer[:5]) == (535, b"5.7.8")
        # So that the next one does not have to wait for the penalty of this one.
        client.user, client.password = ADA, PASSWORD
        client.auth("PLAIN", client.auth_plain)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize(
    ("listener", "options"), [("submission", []), ("submission", ["-tls"]), ("submissions", ["-tlsc"])]
)
def test_swaks(server: Server, mechanism: str, listener: str, options: list[str]) -> None:
    where = ["--server", server.host, "--port", str(server.ports[listener])]
    who = ["--auth", mechanism, "--auth-user", ADA, "--auth-password", PASSWORD]
    done = run([tool("swaks"), *where, *who, *options, "--from", ADA, "--to", ADA])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "235 2.7.0" in done.stdout


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize(("scheme", "option"), [("smtp", "-sS"), ("smtp", "--ssl-reqd"), ("smtps", "-sS")])
def test_curl(server: Server, mechanism: str, scheme: str, option: str, tmp_path: Path) -> None:
    (letter := tmp_path / "letter").write_text(LETTER.format("curl"), newline="")
    who = ["--user", f"{ADA}:{PASSWORD}"]
    if mechanism in ("XOAUTH2", "OAUTHBEARER"):
        who = ["--user", ADA, "--oauth2-bearer", "good-token"]
    how = ["-k", "--login-options", f"AUTH={mechanism}", option]
    port = server.ports["submissions" if scheme == "smtps" else "submission"]
    paths = ["--mail-from", ADA, "--mail-rcpt", ADA, "-T", str(letter)]
    sent = run([tool("curl"), "-sS", *how, *who, *paths, f"{scheme}://{server.host}:{port}"])
    assert sent.returncode == 0, sent.stderr


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize(("scheme", "option"), [("pop3", "-sS"), ("pop3", "--ssl-reqd"), ("pop3s", "-sS")])
def test_curl_reads(server: Server, mechanism: str, scheme: str, option: str) -> None:
    who = ["--user", f"bob@a.test:{PASSWORD}"]
    if mechanism in ("XOAUTH2", "OAUTHBEARER"):
        who = ["--user", ADA, "--oauth2-bearer", "good-token"]
    how = ["-k", "--login-options", f"AUTH={mechanism}", option]
    read = run([tool("curl"), "-sS", *how, *who, f"{scheme}://{server.host}:{server.ports[scheme]}/"])
    assert read.returncode == 0, read.stderr


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
def test_gsasl(server: Server, mechanism: str) -> None:
    """A client that nobody here wrote, with channel binding to the TLS session (RFC 9266)."""
    who = ["-a", ADA, "-z", "", "-p", PASSWORD, "-m", mechanism, "--no-client-first"]
    who += [] if mechanism.endswith("-PLUS") else ["--no-cb"]
    where = ["--smtp", "--starttls", "--x509-ca-file", "", server.host, str(server.ports["submission"])]
    done = run([tool("gsasl"), *who, *where], input="")
    assert "235 2.7.0" in done.stdout, done.stdout + done.stderr


def test_binding_to_the_certificate(server: Server, unverified: ssl.SSLContext) -> None:
    """RFC 5929 §4: for TLS 1.2, and for clients whose library has no exporter (Python's)."""
    unverified.maximum_version = ssl.TLSVersion.TLSv1_2
    for right in (True, False):
        with connected(server, "tls", unverified) as client:
            client.ehlo()
            assert isinstance(client.sock, ssl.SSLSocket)
            certificate = client.sock.getpeercert(binary_form=True) or b""
            bound = hashlib.sha256(certificate).digest() if right else bytes(32)
            scram = ScramClient("SCRAM-SHA-256-PLUS", ADA, PASSWORD, ("tls-server-end-point", bound))
            code, answer = client.docmd("AUTH", f"SCRAM-SHA-256-PLUS {_base64(scram.first())}")
            code, answer = client.docmd(_base64(scram.final(base64.b64decode(answer))))
            if right:
                code, answer = client.docmd(_base64(scram.verify(base64.b64decode(answer))))
            assert code == (235 if right else 501), answer


@pytest.mark.parametrize("way", ["starttls", "tls"])
@pytest.mark.parametrize("right", [True, False])
def test_binding_over_pop3(server: Server, unverified: ssl.SSLContext, way: str, right: bool) -> None:
    unverified.maximum_version = ssl.TLSVersion.TLSv1_2
    if way == "tls":
        client: poplib.POP3 = poplib.POP3_SSL(server.host, server.ports["pop3s"], context=unverified)
    else:
        client = poplib.POP3(server.host, server.ports["pop3"], timeout=PATIENCE)
        client.stls(context=unverified)
    assert isinstance(client.sock, ssl.SSLSocket)
    certificate = client.sock.getpeercert(binary_form=True) or b""
    bound = hashlib.sha256(certificate).digest() if right else bytes(32)
    name = "bob@a.test"
    scram = ScramClient("SCRAM-SHA-256-PLUS", name, PASSWORD, ("tls-server-end-point", bound))
    client._putcmd(f"AUTH SCRAM-SHA-256-PLUS {_base64(scram.first())}")
    line, _ = client._getline()
    client._putcmd(_base64(scram.final(base64.b64decode(line[2:]))))
    line, _ = client._getline()
    if right:
        client._putcmd(_base64(scram.verify(base64.b64decode(line[2:]))))
        line, _ = client._getline()
    assert line.startswith(b"+OK Logged in" if right else b"-ERR"), line
    client.quit()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN", "LOGIN", "OAUTHBEARER"])
def test_poplib(server: Server, unverified: ssl.SSLContext, way: str, mechanism: str) -> None:
    if way == "tls":
        client: poplib.POP3 = poplib.POP3_SSL(server.host, server.ports["pop3s"], context=unverified)
    else:
        client = poplib.POP3(server.host, server.ports["pop3"], timeout=PATIENCE)
    if way == "starttls":
        client.stls(context=unverified)
    assert ("SCRAM-SHA-256-PLUS" in client.capa()["SASL"]) is (way != "clear")
    bob = "bob@a.test" if mechanism != "OAUTHBEARER" else ADA
    respond = {
        "PLAIN": lambda _: f"\0{bob}\0{PASSWORD}".encode(),
        "OAUTHBEARER": lambda _: b"n,,\x01auth=Bearer good-token\x01\x01",
        "LOGIN": lambda challenge: bob.encode() if b"User" in challenge else PASSWORD.encode(),
    }.get(mechanism) or scram(mechanism, bob)
    client._putcmd(f"AUTH {mechanism}")
    line, _ = client._getline()
    while line.startswith(b"+ "):
        client._putcmd(_base64(respond(base64.b64decode(line[2:]))))
        line, _ = client._getline()
    assert line.startswith(b"+OK Logged in"), line
    client.quit()


# -- what holds for those who have logged in -------------------------------------------------------


def _submit(server: Server, letter: str, sender: str = ADA, to: str = "bob@a.test") -> str:
    """The queue id, or the refusal."""
    with smtplib.SMTP(server.host, server.ports["submission"], timeout=PATIENCE) as client:
        client.login(ADA, PASSWORD)
        code, answer = client.mail(sender)
        if code == 250:
            client.rcpt(to)
            code, answer = client.data(letter)
        return answer.decode().split()[-1] if code == 250 else f"{code} {answer.decode()}"


def test_senders_and_the_exception(server: Server) -> None:
    before = len(server.raw_mail("bob@a.test"))
    assert _submit(server, "Subject: x\r\n\r\n", sender="bob@a.test").startswith("550 5.7.1 <bob@a.test>")
    assert _submit(server, "From: bob@a.test\r\n\r\n").startswith("550 5.7.1 From: <bob@a.test>")
    server.cli("alias", "add", "sales@a.test", ADA)
    _submit(server, "From: sales@a.test\r\nSubject: own\r\n\r\n", sender="sales@a.test")
    server.cli("user", "allow", ADA, "*")
    _submit(server, "From: ceo@elsewhere.test\r\nSubject: allowed\r\n\r\n", sender="ceo@elsewhere.test")
    eventually(lambda: len(server.raw_mail("bob@a.test")) == before + 2, "two letters")
    own, allowed = server.mail("bob@a.test")[-2:]
    assert (own["Subject"], allowed["Subject"]) == ("own", "allowed")
    assert str(own["Received"]).startswith("from client.invalid")
    assert "127.0.0.1" not in str(own)


def _own_server(make_server: Callable[..., Server], **submission: object) -> Server:
    server = make_server(
        "own", "mx.a.test", ["a.test"], {"login": {"allow_cleartext": True}, "submission": submission}
    )
    server.add_user(ADA)
    server.add_user("bob@a.test")
    return server.start()


def test_a_message_is_taken_back(make_server: Callable[..., Server]) -> None:
    server = _own_server(make_server, hold="1h")
    first, second = (_submit(server, f"Subject: {n}\r\n\r\n") for n in ("kept", "regretted"))
    assert second in server.cli("recall", "last")
    assert [entry["id"] for entry in server.queue()] == [first]
    assert server.raw_mail("bob@a.test") == []
    server.cli("queue", "retry", first)
    eventually(lambda: len(server.raw_mail("bob@a.test")) == 1, "the letter that was not taken back")
    assert server.mail("bob@a.test")[0]["Subject"] == "kept"


def test_an_account_over_its_limit_is_held(make_server: Callable[..., Server]) -> None:
    server = _own_server(make_server, messages_per_hour=2)
    ids = [_submit(server, f"Subject: {n}\r\n\r\n") for n in range(4)]
    eventually(lambda: len(server.raw_mail("bob@a.test")) == 2, "the letters within the limit")
    held = server.queue()
    assert [entry["id"] for entry in held] == ids[2:]
    assert all("more than 2 messages in an hour" in entry["hold"] for entry in held)
    # Nobody is called postmaster, so the first user is.
    eventually(lambda: len(server.raw_mail(ADA)) == 1, "the notice")
    assert "Your mail is held" in str(server.mail(ADA)[0]["Subject"])
    # The hold survives a restart, is told once, and one command ends it.
    server.stop()
    server.start()
    ids.append(_submit(server, "Subject: 4\r\n\r\n"))
    assert len(server.queue()) == 3
    released = server.cli("queue", "release", "--sender", ADA)
    assert re.search(rf"{ids[2]}, {ids[3]}, {ids[4]} released; {ADA} may send again", released)
    eventually(lambda: len(server.raw_mail("bob@a.test")) == 5, "what was held")
    assert len(server.raw_mail(ADA)) == 1
