"""TLS on every listener, with the clients people have: openssl, curl, smtplib, poplib."""

from __future__ import annotations

import poplib
import smtplib
import ssl
from pathlib import Path

import pytest

from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import PATIENCE, eventually, run, tool

LETTER = "From: ada@a.test\r\nTo: ada@a.test\r\nSubject: sealed\r\n\r\nHello\r\n"


@pytest.mark.parametrize(
    ("listener", "options", "farewell"),
    [
        ("smtp", ["-starttls", "smtp"], "QUIT\n"),
        ("submission", ["-starttls", "smtp"], "QUIT\n"),
        ("submissions", [], "QUIT\n"),
        ("pop3", ["-starttls", "pop3"], "QUIT\n"),
        ("pop3s", [], "QUIT\n"),
    ],
)
def test_openssl_agrees_on_tls(server: Server, listener: str, options: list[str], farewell: str) -> None:
    where = f"{server.host}:{server.ports[listener]}"
    command = [tool("openssl"), "s_client", "-connect", where, "-brief", "-crlf", "-ign_eof", *options]
    done = run(command, input=farewell)
    output = done.stdout + done.stderr
    assert "TLSv1.3" in output or "TLSv1.2" in output, output
    assert "221 " in done.stdout or "+OK" in done.stdout, output


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_tls_is_refused(server: Server, version: str) -> None:
    where = f"{server.host}:{server.ports['submissions']}"
    done = run(
        [tool("openssl"), "s_client", "-connect", where, version, "-cipher", "ALL:@SECLEVEL=0"], input=""
    )
    assert done.returncode != 0


@pytest.mark.parametrize("listener", ["submission", "submissions"])
def test_curl_submits_and_fetches_under_tls(server: Server, listener: str, tmp_path: Path) -> None:
    (letter := tmp_path / "letter").write_text(LETTER, newline="")
    scheme, option = ("smtps", "-sS") if listener == "submissions" else ("smtp", "--ssl-reqd")
    who = ["-k", "--user", f"ada@a.test:{PASSWORD}"]
    address = f"{scheme}://{server.host}:{server.ports[listener]}"
    paths = ["--mail-from", "ada@a.test", "--mail-rcpt", "ada@a.test", "-T", str(letter)]
    sent = run([tool("curl"), "-sS", option, *who, *paths, address])
    assert sent.returncode == 0, sent.stderr
    eventually(lambda: len(server.raw_mail("ada@a.test")) == 1, "the letter")
    for url, more in (
        (f"pop3s://{server.host}:{server.ports['pop3s']}/1", []),
        (f"pop3://{server.host}:{server.ports['pop3']}/1", ["--ssl-reqd"]),
    ):
        read = run([tool("curl"), "-sS", *more, *who, url])
        assert read.returncode == 0, read.stderr
        assert "Subject: sealed" in read.stdout
        # Submission adds what RFC 6409 §8 lets it add, and says how it came (RFC 3848).
        assert "Message-ID: <" in read.stdout
        assert "Date: " in read.stdout
        assert "with ESMTPSA" in read.stdout


def test_smtplib_on_both_submission_ports(server: Server, unverified: ssl.SSLContext) -> None:
    with smtplib.SMTP(server.host, server.ports["submission"], timeout=PATIENCE) as client:
        client.ehlo()
        assert not client.has_extn("auth")
        client.starttls(context=unverified)
        client.ehlo()
        assert client.has_extn("auth")
        assert not client.has_extn("starttls")
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.login("ada@a.test", "wrong")
        assert refused.value.smtp_code == 535
        client.login("ada@a.test", PASSWORD)
        client.sendmail("ada@a.test", "ada@a.test", LETTER)
    with smtplib.SMTP_SSL(
        server.host, server.ports["submissions"], timeout=PATIENCE, context=unverified
    ) as client:
        client.login("ada@a.test", PASSWORD)
        client.sendmail("ada@a.test", "ada@a.test", LETTER)
    eventually(lambda: len(server.raw_mail("ada@a.test")) == 2, "both letters")


def test_poplib_by_stls(server: Server, unverified: ssl.SSLContext) -> None:
    client = poplib.POP3(server.host, server.ports["pop3"], timeout=PATIENCE)
    assert "STLS" in client.capa()
    client.stls(context=unverified)
    assert "STLS" not in client.capa()
    client.user("ada@a.test")
    client.pass_(PASSWORD)
    assert client.stat() == (0, 0)
    client.quit()


def test_nothing_said_before_tls_counts_after_it(server: Server, unverified: ssl.SSLContext) -> None:
    """RFC 3207 §4.2: commands that came in one segment with STARTTLS are not obeyed inside TLS."""
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE) as client:
        client.ehlo()
        assert client.sock is not None
        client.sock.sendall(b"STARTTLS\r\nNOOP\r\n")
        assert client.getreply()[0] in (220, 501, 503, 554)
        try:
            client.sock = unverified.wrap_socket(client.sock)
            client.file = None
            client.sock.settimeout(2)
            assert client.sock.recv(100) == b"", "an answer to what was said before TLS"
        except (OSError, TimeoutError):
            pass  # it hung up, or said nothing: both are right
        client.sock = None
