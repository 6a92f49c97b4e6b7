"""TLS reports: counted, kept over a restart, sent once when the day is over (RFC 8460)."""

import base64
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import dkim
import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailserver.durable import Disk
from mailserver.interfaces import LookupDelayed, SpoolUnavailable
from mailserver.relay import tls_reports
from mailserver.relay.https import FetchFailed
from mailserver.relay.protection import MTA_STS, Level, Mismatch, Policy, Security
from mailserver.relay.report_key import ReportKey
from mailserver.relay.resolver import NameNotFound
from mailserver.relay.tls_report import Submitter, mail_address, wanted_at
from mailserver.relay.tls_reports import TLSReports
from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.envelope import Envelope
from mailserver.wire.dkim import Signer
from tests.scratch import scratch_path

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
DAY = 86400.0
STS = Security(
    Level.VERIFIED,
    MTA_STS,
    ("mx.b.test",),
    policy=Policy("sts", "b.test", ("version: STSv1", "mode: enforce"), ("*.b.test",)),
)
EXPIRED = Mismatch("certificate-expired", "it has expired")


@pytest.mark.parametrize(
    ("records", "wanted"),
    [
        ([b"v=TLSRPTv1; rua=mailto:tls@b.test"], ("mailto:tls@b.test",)),
        ([b"v=TLSRPTv1;rua=mailto:a@b.test,https://b.test/v1"], ("mailto:a@b.test", "https://b.test/v1")),
        ([b"v=TLSRPTv1; rua=http://b.test/, ftp://x, mailto:x"], ()),
        ([b"v=TLSRPTv1; rua=mailto:a@b.test", b"v=TLSRPTv1; rua=mailto:c@b.test"], ()),
        ([b"v=TLSRPTv2; rua=mailto:a@b.test"], ()),
        ([b"v=TLSRPTv1;"], ()),
        ([b"v=spf1 -all"], ()),
        ([], ()),
        ([b"v=TLSRPTv1; rua=" + b",".join(b"mailto:a%d@b.test" % n for n in range(50))], None),
    ],
)
def test_where_reports_are_wanted(records: list[bytes], wanted: tuple[str, ...] | None) -> None:
    found = wanted_at(records)
    assert len(found) <= 4 if wanted is None else found == wanted


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("mailto:tls@b.test", Address("tls", "b.test")),
        ("MAILTO:tls%2Breports@B.test", Address("tls+reports", "b.test")),
        ("mailto:tls@b.test?subject=x", Address("tls", "b.test")),
        ("mailto:@b.test", None),
        ("mailto:a%0d%0aBcc:%20c@d.test", None),
        ("mailto:a@b%20c.test", None),
        ("https://b.test", None),
    ],
)
def test_addresses(uri: str, address: Address | None) -> None:
    assert mail_address(uri) == address


class Now:
    """Workers that work at once."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        try:
            return succeed(function(*arguments))
        except Exception as error:
            return fail(error)


class World:
    def __init__(self) -> None:
        self.record: Any = b"v=TLSRPTv1; rua=mailto:tls@b.test"
        self.mails: list[tuple[Envelope, bytes]] = []
        self.posts: list[tuple[str, str, bytes]] = []
        self.trouble: Exception | None = None

    async def lookup(self, name: str, record: str) -> Any:
        assert record == "TXT"
        if isinstance(self.record, Exception):
            raise self.record
        strings = [self.record] if self.record and name == "_smtp._tls.b.test" else []
        return type("A", (), {"rrset": [type("T", (), {"strings": [s]})() for s in strings] or None})()

    def spool(self, envelope: Envelope, content: bytes) -> Deferred[None]:
        if self.trouble:
            return fail(self.trouble)
        self.mails.append((envelope, content))
        return succeed(None)

    def post(self, url: str, kind: str, body: bytes) -> Deferred[None]:
        if self.trouble:
            return fail(self.trouble)
        self.posts.append((url, kind, body))
        return succeed(None)


class ReportsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOON)
        self.world = World()
        self.folder: Path = scratch_path(self)  # type: ignore[arg-type]
        self.reports = self.make()

    def make(self, signer: Signer | None = None) -> TLSReports:
        world: Any = self.world
        now: Any = Now()
        sender = Submitter("a.test", "mailto:postmaster@a.test", "mx.a.test", Address("postmaster", "a.test"))
        made = TLSReports(
            self.clock,
            self.folder,
            Disk(),
            now,
            world,
            world,
            self.world.spool,
            sender,
            self.clock.seconds,
            lambda: 600.0,
            signer,
        )
        made.load()
        made.start()
        self.addCleanup(made.save)
        return made

    def count(self, wrong: Mismatch | None = None, security: Security = STS, domain: str = "b.test") -> None:
        self.reports.count(domain, security, "mx.b.test", "192.0.2.1", wrong)

    def report(self) -> dict[str, Any]:
        ((_, content),) = self.world.mails
        message = message_from_bytes(content, policy=policy.default)
        (part,) = [p for p in message.walk() if p.get_content_type() == "application/tlsrpt+gzip"]
        return json.loads(gzip.decompress(part.get_payload(decode=True)))  # type: ignore[arg-type, no-any-return]

    def test_a_day_becomes_a_report_by_mail(self) -> None:
        for wrong in (None, None, EXPIRED, EXPIRED):
            self.count(wrong)
        self.count(security=Security())
        self.clock.advance(DAY / 2 + 60)
        assert self.world.mails == []
        self.clock.advance(601)
        report = self.report()
        assert report["organization-name"] == "a.test"
        assert report["date-range"] == {
            "start-datetime": "2026-11-22T00:00:00Z",
            "end-datetime": "2026-11-22T23:59:59Z",
        }
        sts, none = report["policies"]
        assert sts["policy"] == {
            "policy-type": "sts",
            "policy-domain": "b.test",
            "policy-string": ["version: STSv1", "mode: enforce"],
            "mx-host": ["*.b.test"],
        }
        assert sts["summary"] == {"total-successful-session-count": 2, "total-failure-session-count": 2}
        (detail,) = sts["failure-details"]
        assert detail["result-type"] == "certificate-expired"
        assert detail["failed-session-count"] == 2
        assert (detail["receiving-mx-hostname"], detail["receiving-ip"]) == ("mx.b.test", "192.0.2.1")
        assert none["policy"]["policy-type"] == "no-policy-found"
        assert none["summary"]["total-successful-session-count"] == 1
        # Once, and then it is forgotten.
        self.clock.advance(2 * DAY)
        assert len(self.world.mails) == 1
        assert list(self.folder.iterdir()) == []

    def test_the_mail_is_what_rfc_8460_says(self) -> None:
        self.count()
        self.clock.advance(DAY)
        ((envelope, content),) = self.world.mails
        assert envelope.reverse_path == NULL_SENDER
        assert envelope.tls_optional
        assert [str(r.address) for r in envelope.recipients] == ["tls@b.test"]
        message = message_from_bytes(content, policy=policy.default)
        assert message.get_content_type() == "multipart/report"
        assert message.get_param("report-type") == "tlsrpt"
        assert message["TLS-Report-Domain"] == "b.test"
        assert message["TLS-Report-Submitter"] == "mx.a.test"
        assert message["TLS-Required"] == "No"
        name = message.get_payload(1).get_filename()
        assert name == "mx.a.test!b.test!1795305600!1795391999.json.gz"
        assert max(map(len, content.split(b"\r\n"))) < 998
        assert b"\n" not in content.replace(b"\r\n", b"")
        assert base64.b64decode(message.get_payload(1).get_payload())

    def test_what_goes_by_mail_is_signed(self) -> None:
        key = ReportKey(self.folder.with_name(f"{self.folder.name}.key"), Disk())
        self.reports.save()
        self.reports = self.make(Signer("a.test", "tlsrpt", key.sign))
        self.count()
        self.clock.advance(DAY)
        self.report()  # read as before
        ((_, content),) = self.world.mails
        record = key.record().replace('" "', "").strip('"').encode()
        asked: list[bytes] = []
        verifier = dkim.DKIM(content, tlsrpt=True)
        assert verifier.verify(dnsfunc=lambda name, timeout: asked.append(name) or record)
        assert asked == [b"tlsrpt._domainkey.a.test."]
        assert b"tls-report-domain" in verifier.include_headers

    def test_without_its_key_a_report_waits(self) -> None:
        path = self.folder.with_name(f"{self.folder.name}.key")
        path.write_text("nothing of use")
        self.reports.save()
        self.reports = self.make(Signer("a.test", "tlsrpt", ReportKey(path, Disk()).sign))
        self.count()
        self.clock.advance(DAY)
        assert self.world.mails == []
        path.unlink()
        self.clock.advance(1.2 * tls_reports.RETRY_SECONDS)
        ((_, content),) = self.world.mails
        assert content.startswith(b"DKIM-Signature: ")

    def test_https(self) -> None:
        self.world.record = b"v=TLSRPTv1; rua=https://b.test/v1/tlsrpt"
        self.count()
        self.clock.advance(DAY)
        ((url, kind, body),) = self.world.posts
        assert (url, kind) == ("https://b.test/v1/tlsrpt", "application/tlsrpt+gzip")
        assert json.loads(gzip.decompress(body))["policies"]

    def test_nobody_wants_it(self) -> None:
        for record in (b"", NameNotFound("x")):
            self.world.record = record
            self.count()
            self.clock.advance(2 * DAY)
            assert (self.world.mails, self.world.posts) == ([], [])
            assert list(self.folder.iterdir()) == []

    def test_what_cannot_be_sent_now_is_tried_again_and_then_dropped(self) -> None:
        self.count()
        self.world.record = LookupDelayed("servfail")
        self.clock.advance(DAY)
        self.world.record = b"v=TLSRPTv1; rua=mailto:tls@b.test"
        self.clock.pump([3600.0] * 3)
        assert len(self.world.mails) == 1
        self.count()
        for trouble in (SpoolUnavailable("full"), FetchFailed("503")):
            self.world.trouble = trouble
            self.clock.pump([3600.0] * 30)
        self.clock.pump([3600.0] * 24 * 4)
        self.world.trouble = None
        self.clock.pump([3600.0] * 24)
        assert len(self.world.mails) == 1
        assert list(self.folder.iterdir()) == []

    def test_counts_survive_a_restart_and_a_crash(self) -> None:
        self.count()
        self.reports.save()
        self.reports = self.make()
        self.count()
        self.clock.advance(tls_reports.WRITE_SECONDS + 1)
        # A crash: nothing is saved.
        self.reports._stopped = True
        (self.folder / "2026-11-22.torn").write_bytes(b"{")
        self.reports = self.make()
        self.clock.advance(DAY)
        assert self.report()["policies"][0]["summary"]["total-successful-session-count"] == 2

    def test_a_report_of_a_day_that_ended_while_we_were_down(self) -> None:
        self.count()
        self.reports.save()
        self.clock.advance(DAY)
        self.reports = self.make()
        self.clock.advance(601)
        assert len(self.world.mails) == 1

    def test_it_is_bounded(self) -> None:
        self.patch(tls_reports, "MOST_DOMAINS", 3)
        self.patch(tls_reports, "MOST_DETAILS", 2)
        for n in range(10):
            self.count(domain=f"d{n}.test")
            self.count(Mismatch("validation-failure", f"reason {n}"), domain="d0.test")
        counts = self.reports._days["2026-11-22"]
        assert counts.unsent() == ["d0.test", "d1.test", "d2.test"]
        assert len(counts.policies("d0.test")[0]["failure-details"]) == 2
