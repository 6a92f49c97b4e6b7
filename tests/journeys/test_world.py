"""``mailserver check`` and ``dns``: what DNS and this machine lack is found, with what mends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.journeys.names import NameServer
from tests.journeys.server import Server
from tests.journeys.tools import ours, run


def _check(server: Server, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = run(
        [ours("mailserver"), "--config", str(server.configuration), "check", "--json", *options],
        cwd=server.folder,
    )
    return done.returncode, {one["subject"]: one for one in json.loads(done.stdout)}


@pytest.mark.long
def test_findings_come_with_their_remedy(
    make_server: Callable[..., Server], zones: Callable[[dict[str, str]], NameServer]
) -> None:
    name_server = zones(
        {
            "a.test": "mx 60 A 192.0.2.25\n@ 60 MX 10 mx\n"
            '@ 60 TXT "v=spf1 mx -all"\n_dmarc 60 TXT "v=DMARC1; p=none"',
            "b.test": '@ 60 MX 10 other\n@ 60 TXT "v=spf1 -all"\n@ 60 TXT "v=spf1 mx -all"',
            "2.0.192.in-addr.arpa": "25 60 PTR mx.a.test.",
            "bl.test": "25.2.0.192 60 A 127.0.0.2",
            "clean.test": "@ 60 A 192.0.2.1",
        }
    )
    settings = {
        "relay": {"nameservers": [name_server.address]},
        "policy": {"reverse_dns": False},
        "policy.block_lists": {"bl.test": 5, "clean.test": 5},
    }
    server = make_server("a", "mx.a.test", ["a.test", "b.test"], settings)
    server.add_user("ada@a.test")
    server.start()
    (server.folder / "state" / "accounts.sqlite").chmod(0o644)
    code, found = _check(server)
    assert code == 1
    states = {subject: one["state"] for subject, one in found.items()}
    assert states["reverse of 192.0.2.25"] == states["MX of a.test"] == states["SPF of a.test"] == "ok"
    assert states["DMARC of a.test"] == states["192.0.2.25 in clean.test"] == "ok"
    assert states["192.0.2.25 in bl.test"] == "wrong"
    assert states[f"port {server.ports['smtp']} (smtp)"] == "ok"
    remedies = {subject: one["remedy"] for subject, one in found.items() if one["state"] == "wrong"}
    assert remedies["MX of b.test"] == "b.test. 3600 IN MX 10 mx.a.test."
    assert remedies["SPF of b.test"] == 'b.test. 3600 IN TXT "v=spf1 mx -all"'
    assert "p=quarantine" in remedies["DMARC of b.test"]
    assert states["key of TLS reports of a.test"] == "wrong"
    key = remedies["key of TLS reports of a.test"]
    assert key.startswith('tlsrpt._domainkey.a.test. 3600 IN TXT "v=DKIM1; k=rsa; p=')
    assert ((server.folder / "state" / "reports.key").stat().st_mode & 0o777) == 0o600
    accounts = server.folder / "state" / "accounts.sqlite"
    assert remedies[f"permissions of {accounts}"] == f"chmod 600 {accounts}"
    assert "[tls]" in remedies["certificate"]
    server.stop()
    _, found = _check(server, "--local")
    assert found[f"port {server.ports['pop3s']} (pop3s)"]["state"] == "wrong"
    assert not any(subject.startswith("MX") for subject in found)
    lines = server.cli("dns").splitlines()
    for line in ("mx.a.test. 3600 IN A 192.0.2.25", "b.test. 3600 IN MX 10 mx.a.test.", key):
        assert line in lines
    assert "25.2.0.192.in-addr.arpa. 3600 IN PTR mx.a.test." in lines
    assert "mx.a.test. 3600 IN AAAA 2001:db8::1" in server.cli("dns", "--address", "2001:db8::1")
