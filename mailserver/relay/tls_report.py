"""One TLS report as JSON and as mail (RFC 8460 §4, §5.3), and where a domain wants it (§3)."""

from __future__ import annotations

import base64
import gzip
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

from mailserver.values.address import Address, domain_key
from mailserver.values.dates import header_date

MOST_DESTINATIONS = 4
"""Addresses that one report goes to; a record that lists a hundred wants others flooded."""


@dataclass(frozen=True, slots=True)
class Submitter:
    """Who reports: ``organization`` and ``contact`` in words, ``hostname`` of the reporting server,
    ``sender`` the address in From."""

    organization: str
    contact: str
    hostname: str
    sender: Address
    worker: int = 0
    """Which of the processes that share the work: each reports what it has seen itself."""


def wanted_at(records: Sequence[bytes]) -> tuple[str, ...]:
    """The ``mailto:`` and ``https:`` URIs in the TXT records at ``_smtp._tls``; none unless there is
    exactly one good record (RFC 8460 §3)."""
    found = [r for r in records if r.startswith(b"v=TLSRPTv1") and r[10:11] in (b";", b" ", b"")]
    if len(found) != 1:
        return ()
    for field in found[0].decode("ascii", "replace").split(";"):
        key, _, value = field.partition("=")
        if key.strip() == "rua":
            uris = [uri.strip() for uri in value.split(",")]
            good = [uri for uri in uris if uri[:8].lower() == "https://" or mail_address(uri) is not None]
            return tuple(good[:MOST_DESTINATIONS])
    return ()


def mail_address(uri: str) -> Address | None:
    """The address in ``mailto:tls@b.test``; ``None`` when it is none that we could write to."""
    parts = urlsplit(uri)
    local, at, domain = unquote(parts.path).rpartition("@")
    if parts.scheme.lower() != "mailto" or not at or not local:
        return None
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}", local):
        return None
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", domain_key(domain)):
        return None
    return Address(local, domain_key(domain))


def report_id(domain: str, day: str, submitter: Submitter) -> str:
    """The same for every attempt to send one report, so that a second copy can be known as one."""
    worker = f".{submitter.worker}" if submitter.worker else ""
    return f"{day}.{domain}{worker}@{submitter.hostname}"


def report_json(domain: str, day: str, policies: Sequence[Mapping[str, Any]], submitter: Submitter) -> bytes:
    """The report of one UTC ``day`` (``2026-11-22``); ``policies`` as RFC 8460 §4.4 shapes them."""
    begin = datetime.combine(date.fromisoformat(day), time(), UTC)
    end = begin + timedelta(days=1, seconds=-1)
    report = {
        "organization-name": submitter.organization,
        "date-range": {"start-datetime": _stamp(begin), "end-datetime": _stamp(end)},
        "contact-info": submitter.contact,
        "report-id": report_id(domain, day, submitter),
        "policies": policies,
    }
    return json.dumps(report, ensure_ascii=False, separators=(",", ":")).encode()


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def compressed(report: bytes) -> bytes:
    """gzip without a time in it: the same report is the same octets."""
    return gzip.compress(report, mtime=0)


def report_message(
    domain: str, day: str, body: bytes, to: Address, submitter: Submitter, now: float, token: str
) -> bytes:
    """The mail that carries ``body``, a compressed report (RFC 8460 §5.3). ``token`` is a random word."""
    begin = datetime.combine(date.fromisoformat(day), time(), UTC)
    seconds = int(begin.timestamp())
    name = f"{submitter.hostname}!{domain}!{seconds}!{seconds + 86399}.json.gz"
    identity = report_id(domain, day, submitter)
    encoded = "\r\n".join(textwrap.wrap(base64.b64encode(body).decode("ascii"), 76))
    return (
        f"From: <{submitter.sender}>\r\n"
        f"To: <{to}>\r\n"
        f"Subject: Report Domain: {domain}\r\n"
        f" Submitter: {submitter.hostname}\r\n"
        f" Report-ID: <{identity}>\r\n"
        f"Date: {header_date(now)}\r\n"
        f"Message-ID: <{token}@{submitter.hostname}>\r\n"
        f"TLS-Report-Domain: {domain}\r\n"
        f"TLS-Report-Submitter: {submitter.hostname}\r\n"
        "TLS-Required: No\r\n"
        "Auto-Submitted: auto-generated\r\n"
        "MIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type="tlsrpt";\r\n'
        f'\tboundary="=_{token}"\r\n'
        "\r\n"
        "This is an aggregate TLS report (RFC 8460).\r\n"
        f"\r\n--=_{token}\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n"
        "\r\n"
        f"This is an aggregate TLS report from {submitter.hostname}\r\n"
        f"about mail for {domain} on {day} (UTC).\r\n"
        f"\r\n--=_{token}\r\n"
        "Content-Type: application/tlsrpt+gzip\r\n"
        "Content-Transfer-Encoding: base64\r\n"
        f'Content-Disposition: attachment; filename="{name}"\r\n'
        "\r\n"
        f"{encoded}\r\n"
        f"\r\n--=_{token}--\r\n"
    ).encode("utf-8", "replace")
