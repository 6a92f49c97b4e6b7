"""What the world sees of this server, against what it should see: each finding with its remedy."""

from __future__ import annotations

import ctypes
import datetime
import os
import shutil
import socket
import stat
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from mailserver.assembly.entrance import Texts
from mailserver.certificates import CertificateError, read_pair
from mailserver.config import Settings
from mailserver.durable import Disk
from mailserver.interfaces import LookupDelayed
from mailserver.policy import reputation
from mailserver.relay.report_key import FILE_NAME, SELECTOR, ReportKey
from mailserver.relay.resolver import Resolver

LISTS = ("zen.spamhaus.org", "bl.spamcop.net", "b.barracudacentral.org")
"""Block lists that are asked about our addresses when the configuration names none."""

LEAST_ROOM = 0.05
SOON_DAYS = 14
PROBE_SECONDS = 5.0
_TIME_ERROR = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """``state`` is ``"ok"``, ``"wrong"`` or ``"unknown"`` (nobody answered); ``remedy`` is a record to
    publish or a command to type, where something is wrong."""

    subject: str
    state: str
    told: str
    remedy: str = ""


def ok(subject: str, told: str) -> Finding:
    """All is well."""
    return Finding(subject, "ok", told)


def wrong(subject: str, told: str, remedy: str) -> Finding:
    """Something has to be mended."""
    return Finding(subject, "wrong", told, remedy)


def unknown(subject: str, told: str) -> Finding:
    """It could not be found out."""
    return Finding(subject, "unknown", told)


# -- this machine --------------------------------------------------------------------------------


def local(settings: Settings, now: datetime.datetime) -> Iterator[Finding]:
    """Ports, certificate, disk, permissions, clock: no name server is asked. Blocks for seconds at most."""
    yield from _ports(settings)
    yield _certificate(settings, now)
    yield from _disk(settings)
    yield from _permissions(settings)
    yield clock()


def _ports(settings: Settings) -> Iterator[Finding]:
    for name in ("smtp", "submission", "submissions", "pop3", "pop3s"):
        description = getattr(settings.listen, name)
        if not description.startswith("tcp:"):
            continue
        parts = dict(one.split("=", 1) for one in description.split(":")[1:] if "=" in one)
        port = int(parts.get("port", description.split(":")[1]))
        host = parts.get("interface", "127.0.0.1")
        subject = f"port {port} ({name})"
        try:
            with socket.create_connection((host, port), PROBE_SECONDS) as probe:
                greeting = b"" if name.endswith("s") else probe.recv(200)
            yield ok(subject, f"answers on {host} {greeting.decode(errors='replace').strip()}".rstrip())
        except OSError as error:
            told = f"nobody answers on {host}: {error.strerror or error}"
            yield wrong(subject, told, f'systemctl start mailserver; or listen.{name} = "" to turn it off')


def _certificate(settings: Settings, now: datetime.datetime) -> Finding:
    subject = "certificate"
    if settings.tls is None:
        remedy = "get one, then [tls] certificate = …, key = … in the configuration"
        return wrong(subject, "self-signed: mail programs will warn", remedy)
    try:
        pair = read_pair(settings.tls.certificate, settings.tls.key)
    except CertificateError as error:
        return wrong(subject, str(error), "mailserver config check")
    left, names = pair.expires - now, sorted(pair.names)
    if left < datetime.timedelta(days=SOON_DAYS):
        state = "ran out" if left < datetime.timedelta() else f"runs out in {left.days} days"
        return wrong(subject, f"{settings.tls.certificate} {state}", "certbot renew")
    if settings.hostname not in names and f"*.{settings.hostname.partition('.')[2]}" not in names:
        told = f"it is for {', '.join(names) or 'nobody'} and not for {settings.hostname}"
        return wrong(subject, told, f"certbot certonly --standalone -d {settings.hostname}")
    return ok(subject, f"for {', '.join(names)}, valid for {left.days} days")


def _disk(settings: Settings) -> Iterator[Finding]:
    for name, folder in (("state", settings.state), ("store", settings.store.path)):
        if not folder.exists():
            continue
        usage = shutil.disk_usage(folder)
        nodes = os.statvfs(folder)
        free = usage.free / usage.total
        free_nodes = nodes.f_favail / nodes.f_files if nodes.f_files else 1.0
        told = f"{free:.0%} of the room free in {folder}"
        if min(free, free_nodes) < LEAST_ROOM:
            yield wrong(
                f"disk ({name})",
                f"{told}, {free_nodes:.0%} of the inodes",
                f"du -xh {folder} | sort -h | tail",
            )
        else:
            yield ok(f"disk ({name})", told)


def _permissions(settings: Settings) -> Iterator[Finding]:
    for path in (settings.state, settings.state / "accounts.sqlite", settings.store.path, _key(settings)):
        if path is None or not path.exists():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        bad = mode & (0o077 if path.is_file() else 0o022)
        # The state folder may be passed through by local programs on their way to the drop folder.
        if bad:
            least = mode & ~(0o077 if path.is_file() else 0o022)
            yield wrong(
                f"permissions of {path}",
                f"mode {mode:o}: others may read or write",
                f"chmod {least:o} {path}",
            )
        else:
            yield ok(f"permissions of {path}", f"mode {mode:o}")


def _key(settings: Settings) -> Path | None:
    return settings.tls.key if settings.tls else settings.state / "tls" / "key.pem"


def clock() -> Finding:
    """Whether something keeps this machine's clock right, as the kernel knows it (adjtimex(2))."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except AttributeError:
        return unknown("clock", "this system does not tell")
    if state == _TIME_ERROR:
        return wrong("clock", "nothing keeps it right", "timedatectl set-ntp true")
    return ok("clock", "kept right") if state >= 0 else unknown("clock", "the kernel does not tell")


# -- DNS -----------------------------------------------------------------------------------------


def report_key(settings: Settings) -> ReportKey | None:
    """The key of the reports that this server sends, made when somebody looks at it; ``None`` where it sends
    none, or has never started."""
    if not settings.relay.tls_reports or not settings.state.exists():
        return None
    return ReportKey(settings.state / FILE_NAME, Disk())


def zone(settings: Settings, addresses: list[str], key_record: str = "") -> dict[str, list[str]]:
    """The lines to publish, by zone: host, MX, SPF, DMARC, and ``key_record`` of the reports' key;
    ``addresses`` are the host's."""
    host = settings.hostname
    lines: dict[str, list[str]] = {
        host: [f"{host}. 3600 IN {'AAAA' if ':' in one else 'A'} {one}" for one in addresses]
    }
    for domain in settings.domains:
        lines.setdefault(domain, [])
        lines[domain] += [
            f"{domain}. 3600 IN MX 10 {host}.",
            f'{domain}. 3600 IN TXT "v=spf1 mx -all"',
            f'_dmarc.{domain}. 3600 IN TXT "v=DMARC1; p=quarantine; rua=mailto:postmaster@{domain}"',
        ]
    if key_record:
        # Reports are from postmaster@ the first domain.
        first = settings.domains[0]
        lines[first].append(f"{SELECTOR}._domainkey.{first}. 3600 IN TXT {key_record}")
    if host not in settings.domains:
        lines[host].append(f'{host}. 3600 IN TXT "v=spf1 a -all"')
    for one in addresses:
        lines.setdefault("reverse (your provider sets it)", []).append(
            f"{ip_address(one).reverse_pointer}. 3600 IN PTR {host}."
        )
    return lines


class World:
    """Asks DNS what it says of us."""

    def __init__(self, settings: Settings, reactor: Any, key_record: str = "") -> None:
        """``key_record`` is what DNS must have at the reports' key; ``""``: nothing."""
        self._settings = settings
        self._key_record = key_record
        self._texts = Texts(Resolver(reactor, settings.relay.nameservers)).texts

    async def findings(self) -> list[Finding]:
        """Names, MX, SPF, DMARC, block lists, and the key of reports."""
        host = self._settings.hostname
        found: list[Finding] = []
        addresses = await self.addresses()
        if not addresses:
            found.append(wrong(host, "has no address in DNS", f"{host}. 3600 IN A <this machine's address>"))
        for address in addresses:
            found.append(await self._sure(f"reverse of {address}", self._reverse(address)))
            found += await self._listed(address)
        for domain in self._settings.domains:
            for subject, asked in (
                (f"MX of {domain}", self._mx(domain)),
                (f"SPF of {domain}", self._text(domain, "v=spf1", '"v=spf1 mx -all"')),
                (f"DMARC of {domain}", self._text(f"_dmarc.{domain}", "v=DMARC1", _dmarc(domain))),
            ):
                found.append(await self._sure(subject, asked))
        if self._key_record:
            first = self._settings.domains[0]
            found.append(await self._sure(f"key of TLS reports of {first}", self._published_key(first)))
        return found

    async def _published_key(self, domain: str) -> tuple[str, str]:
        name = f"{SELECTOR}._domainkey.{domain}"
        told, remedy = await self._text(name, "v=DKIM1", self._key_record)
        if remedy or told == self._key_record.replace('" "', "").strip('"'):
            return told, remedy
        return "is another one than the server signs with", f"{name}. 3600 IN TXT {self._key_record}"

    async def addresses(self) -> list[str]:
        """The host's addresses; none where DNS has none, or does not answer."""
        found: list[str] = []
        for record in ("A", "AAAA"):
            try:
                found += await self._texts(self._settings.hostname, record)
            except LookupDelayed:
                continue
        return found

    async def _sure(self, subject: str, asked: Awaitable[tuple[str, str]]) -> Finding:
        try:
            told, remedy = await asked
        except LookupDelayed as error:
            return unknown(subject, f"no answer: {error}")
        return wrong(subject, told, remedy) if remedy else ok(subject, told)

    async def _reverse(self, address: str) -> tuple[str, str]:
        pointer, host = ip_address(address).reverse_pointer, self._settings.hostname
        names = [name.rstrip(".").lower() for name in await self._texts(pointer, "PTR")]
        if host in names:
            return host, ""
        return f"leads to {', '.join(names) or 'nothing'}", f"{pointer}. 3600 IN PTR {host}."

    async def _mx(self, domain: str) -> tuple[str, str]:
        hosts = await self._texts(domain, "MX")
        names = [one.partition(" ")[2].rstrip(".").lower() for one in hosts]
        if self._settings.hostname in names:
            return ", ".join(hosts), ""
        told = f"leads to {', '.join(names) or 'nothing'} and not to {self._settings.hostname}"
        return told, f"{domain}. 3600 IN MX 10 {self._settings.hostname}."

    async def _text(self, name: str, beginning: str, record: str) -> tuple[str, str]:
        texts = [text.replace('" "', "").strip('"') for text in await self._texts(name, "TXT")]
        found = [text for text in texts if text.lower().startswith(beginning.lower())]
        if len(found) == 1:
            return found[0], ""
        told = f"{len(found)} records, and there has to be one" if found else "is missing"
        return told, f"{name}. 3600 IN TXT {record}"

    async def _listed(self, address: str) -> list[Finding]:
        lists = reputation.block_lists(self._settings.policy.block_lists or dict.fromkeys(LISTS, 1))
        found = []
        for each in lists:
            subject = f"{address} in {each.zone}"
            try:
                listed = each.counts(await self._texts(reputation.query_name(address, each.zone), "A"))
            except LookupDelayed as error:
                found.append(unknown(subject, f"no answer: {error}"))
                continue
            if listed:
                found.append(
                    wrong(
                        subject, "is listed", f"mend the cause, then ask https://{each.zone} to take it out"
                    )
                )
            else:
                found.append(ok(subject, "is not listed"))
        return found


def _dmarc(domain: str) -> str:
    return f'"v=DMARC1; p=quarantine; rua=mailto:postmaster@{domain}"'
