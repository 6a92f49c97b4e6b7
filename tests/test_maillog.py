"""Lines as Postfix writes them: pflogsumm and fail2ban's filter (Debian's packages) read them unchanged."""

import io
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailserver import maillog
from mailserver.values.account import Account
from mailserver.values.address import NULL_SENDER, address_from
from mailserver.values.attempt import Facts
from mailserver.values.content import MemoryContent
from mailserver.values.envelope import Entry, Envelope, Recipient, Waiting
from mailserver.values.outcome import Delayed, Delivered, Failed, Relayed
from mailserver.values.reply import reply
from mailserver.values.session import SessionFacts
from tests.journeys.tools import tool

CLIENT = SessionFacts("smtp", "192.0.2.9", 4711, hello="mx.c.test", extended=True)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What was logged so far, as it stands in the file."""
    soon: list[Callable[[], Any]] = []
    file = io.StringIO()
    written = maillog._Lines(file, soon.append)
    monkeypatch.setattr(maillog, "_say", written.add)

    def read() -> list[str]:
        while soon:
            soon.pop()()
        return file.getvalue().splitlines()

    return read


def entry(*texts: str, number: int = 1 << 52) -> Entry:
    recipients = tuple(Recipient(n, address_from(t), address_from(t)) for n, t in enumerate(texts))
    envelope = Envelope(address_from("ada@a.test"), recipients)
    return Entry(number, 1000.0, envelope, tuple(map(Waiting, recipients)), MemoryContent(b"x" * 1234))


def test_what_expires_is_told_as_postfix_does(lines: Callable[[], list[str]]) -> None:
    message = entry("x@b.test", "y@b.test")
    outcomes = [
        Failed(recipient=one, status="4.4.7", diagnostic="Given up after too long a time")
        for one in message.envelope.recipients
    ]
    maillog.attempted(message, outcomes, 433_000.0)
    first, second, last = lines()
    assert "to=<x@b.test>" in first
    assert "dsn=4.4.7, status=deferred (Given up after too long a time)" in second
    assert re.search(
        r"postfix/qmgr\[\d+\]: \w+: from=<ada@a.test>, status=expired, returned to sender$", last
    )


def tell_a_story() -> None:
    first = entry("x@b.test", "y@b.test", "me@a.test")
    x, y, me = first.envelope.recipients
    maillog.accepted(first, CLIENT)
    facts = Facts(setup=0.034, sending=1.26, uses=3)
    relay = "mx.b.test[192.0.2.1]:25"
    maillog.attempted(
        first,
        [
            Relayed(recipient=x, status="2.6.0", diagnostic="250 2.6.0 queued", relay=relay, facts=facts),
            Delayed(recipient=y, status="4.2.1", diagnostic="450 4.2.1 later", relay=relay, facts=facts),
        ],
        1002.0,
        1000.5,
    )
    maillog.attempted(
        first,
        [Delivered(recipient=me, status="2.0.0", diagnostic="delivered to maildir", relay="maildir")],
        1000.02,
        1000.01,
    )
    bad = Failed(recipient=y, status="5.1.1", diagnostic="550 5.1.1 no such", relay=relay, facts=facts)
    maillog.attempted(first, [bad], 1090.0, 1089.0)
    maillog.removed(first)
    no = reply(550, "5.7.1", "<z@z.test>: not a mailbox here; relaying is for users who log in")
    for _ in range(2):
        maillog.refused(no, "RCPT", CLIENT, address_from("s@c.test"), address_from("z@z.test"))
    unknown = reply(550, "5.1.1", "<no@a.test>: no such user here")
    maillog.refused(unknown, "RCPT", CLIENT, NULL_SENDER, address_from("no@a.test"))
    maillog.login_failed("smtp", "192.0.2.9", "ada", "PLAIN")


def test_the_fields_of_a_delivery(lines: Callable[[], list[str]]) -> None:
    tell_a_story()
    said = lines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d \S+ postfix/smtpd\[\d+\]: (\S+): "
        r"client=unknown\[192\.0\.2\.9\], proto=ESMTP, helo=<mx\.c\.test>",
        said[0],
    )
    assert said[1].endswith(": from=<ada@a.test>, size=1234, nrcpt=3 (queue active)")
    assert said[2].partition(": ")[2].partition(": ")[2] == (
        "to=<x@b.test>, relay=mx.b.test[192.0.2.1]:25, conn_use=3, delay=2, "
        "delays=0/0.71/0.03/1.3, dsn=2.6.0, status=sent (250 2.6.0 queued)"
    )
    assert "delay=0.02, delays=0/0.01/0/0.01, dsn=2.0.0, status=sent" in said[4]
    assert " postfix/virtual[" in said[4]


def test_who_logged_in(lines: Callable[[], list[str]]) -> None:
    account = Account(address_from("ada@a.test"))
    session = SessionFacts("submission", "192.0.2.9", 1, hello="h", extended=True, account=account)
    maillog.accepted(entry("x@b.test"), session)
    assert "client=unknown[192.0.2.9]" in lines()[0]
    assert lines()[0].endswith("sasl_username=ada@a.test")


def test_pflogsumm_reads_them(lines: Callable[[], list[str]], tmp_path: Path) -> None:
    program = tool("pflogsumm")
    tell_a_story()
    log = tmp_path / "mail.log"
    log.write_text("\n".join(lines()) + "\n")
    told = subprocess.run([program, str(log)], capture_output=True, text=True, check=True).stdout
    total = told.partition("messages\n")[2].partition("Per-Hour")[0]
    counts = {words[1]: words[0] for line in total.splitlines() if len(words := line.split()) > 1}
    assert counts["received"] == "1"
    assert counts["delivered"] == "2"
    assert counts["deferred"] == "1"
    assert counts["bounced"] == "1"
    assert counts["rejected"] == "3"
    assert "Relay access denied" in told
    assert "User unknown in local recipient table" in told


def test_fail2ban_counts_them(lines: Callable[[], list[str]], tmp_path: Path) -> None:
    program = tool("fail2ban-regex", "fail2ban")
    tell_a_story()
    log = tmp_path / "mail.log"
    log.write_text("\n".join(lines()) + "\n")
    for mode, count in (("more", 3), ("auth", 1), ("aggressive", 4)):
        told = subprocess.run(
            [program, str(log), f"postfix[mode={mode}]"], capture_output=True, text=True, check=True
        ).stdout
        assert f"{count} matched" in told, mode
