"""The configuration: what a file comes to, and every sentence that tells of a mistake."""

# ruff: noqa: E501 - a sentence is shown whole, as the administrator reads it
from __future__ import annotations

import socket
from ipaddress import ip_network
from pathlib import Path

import attrs
import pytest

from mailserver import config
from mailserver.admin.config import as_toml
from mailserver.config import ConfigError, ConfigUnreadable, Settings, find, load, quick_start
from mailserver.config.addresses import Files
from mailserver.config.words import as_table


def written(folder: Path, text: str) -> Path:
    path = folder / "mailserver.toml"
    path.write_text(text)
    return path


def mistakes(folder: Path, text: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        load(written(folder, text))
    return [(m.key, m.text) for m in caught.value.mistakes]


def mistake(folder: Path, text: str) -> str:
    (only,) = mistakes(folder, text)
    return ": ".join(only)


NAMED = 'hostname = "mx.example.test"\n'

WHOLE = """
hostname = "mx.example.test"
domains  = ["example.test", "пошта.укр"]
state    = "/var/lib/mailserver"
workers  = 0

[listen]
smtp        = "tcp:25:interface=192.0.2.1"
submission  = ""
submissions = 'tcp:465:interface=\\:\\:1'
pop3        = "systemd:domain=INET6:index=0"
pop3s       = "haproxy:tcp:995"
lmtp        = "unix:/run/mailserver/lmtp:mode=600"

[tls]
certificate = "fullchain.pem"
key         = "/etc/tls/privkey.pem"

[login]
allow_cleartext = true

[store]
path   = "mail"
format = "mbox"

[relay]
port = 2500
nameservers = ["127.0.0.1:5353", "192.0.2.53", "[::1]:53", "2001:db8::53"]
retry = ["90s", "1h20m"]
warn_after = "2h"
give_up_after = "1d12h"
trusted_networks = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]
allow_loopback = true

[relay.routes]
"partner.test" = "smtp://10.0.0.5:25"
"бюро.укр" = "smtp://[2001:db8::1]:2525"
"*" = "smtp://smarthost.test"

[limits]
message_size = "1.5 GiB"
recipients = 100
"""


def test_every_key(tmp_path: Path) -> None:
    settings = load(written(tmp_path, WHOLE))
    assert settings == Settings(
        hostname="mx.example.test",
        domains=("example.test", "пошта.укр"),
        state=Path("/var/lib/mailserver"),
        workers=0,
        listen=config.Listen(
            smtp="tcp:25:interface=192.0.2.1",
            submission="",
            submissions="tcp:465:interface=\\:\\:1",
            pop3="systemd:domain=INET6:index=0",
            pop3s="haproxy:tcp:995",
            lmtp="unix:/run/mailserver/lmtp:mode=600",
        ),
        tls=config.Tls(certificate=tmp_path / "fullchain.pem", key=Path("/etc/tls/privkey.pem")),
        login=config.Login(allow_cleartext=True),
        store=config.Store(path=tmp_path / "mail", format="mbox"),
        files=Files(passwd=tmp_path / "passwd", aliases=tmp_path / "aliases"),
        relay=config.Relay(
            port=2500,
            nameservers=("127.0.0.1:5353", "192.0.2.53", "[::1]:53", "2001:db8::53"),
            retry=(90.0, 4800.0),
            warn_after=7200.0,
            give_up_after=129600.0,
            trusted_networks=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"), ip_network("192.0.2.7")),
            allow_loopback=True,
            routes={
                "partner.test": "smtp://10.0.0.5:25",
                "бюро.укр": "smtp://[2001:db8::1]:2525",
                "*": "smtp://smarthost.test",
            },
        ),
        limits=config.Limits(message_size=3 * 2**29, recipients=100),
    )


def test_every_key_has_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "mx.example.test")
    settings = load(written(tmp_path, ""))
    assert settings.hostname == "mx.example.test"
    assert settings.domains == ("mx.example.test",)
    assert settings.state == tmp_path / "state"
    assert settings.store == config.Store(path=tmp_path / "maildirs", format="maildir")
    assert settings.workers == 1
    assert attrs.astuple(settings.listen) == ("tcp:25", "tcp:587", "tcp:465", "tcp:110", "tcp:995", "")
    assert settings.tls is None
    assert not settings.login.allow_cleartext
    assert settings.relay.retry == (300, 600, 1200, 2400, 4800, 9600, 14400)
    assert (settings.relay.port, settings.relay.warn_after, settings.relay.give_up_after) == (
        25,
        14400,
        432000,
    )
    assert settings.relay.nameservers == settings.relay.trusted_networks == ()
    assert settings.relay.routes == {}
    assert not settings.relay.allow_loopback
    assert settings.limits == config.Limits(message_size=50 * 2**20, recipients=1000)


def test_the_quick_start_is_on_loopback_alone(tmp_path: Path) -> None:
    settings = quick_start(tmp_path)
    assert (settings.hostname, settings.domains) == ("localhost", ("localhost",))
    assert (settings.state, settings.store.path) == (tmp_path / "state", tmp_path / "maildirs")
    endpoints = [e for e in attrs.astuple(settings.listen) if e]
    assert [e.split(":")[1] for e in endpoints] == ["2525", "2587", "2465", "2110", "2995"]
    assert all(e.endswith(":interface=127.0.0.1") for e in endpoints)
    assert settings.login.allow_cleartext
    assert not settings.relay.allow_loopback
    assert settings.relay.trusted_networks == ()


def test_two_listeners_on_any_free_port(tmp_path: Path) -> None:
    anywhere = "tcp:0:interface=127.0.0.1"
    settings = load(written(tmp_path, f"{NAMED}[listen]\nsmtp = '{anywhere}'\npop3 = '{anywhere}'\n"))
    assert (settings.listen.smtp, settings.listen.pop3) == (anywhere, anywhere)


def test_settings_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        quick_start(tmp_path).workers = 2  # type: ignore[misc]


def test_a_hostname_is_kept_in_a_labels(tmp_path: Path) -> None:
    assert load(written(tmp_path, 'hostname = "MX.пошта.укр"')).hostname == "mx.xn--80a1acn3a.xn--j1amh"


def test_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    system_wide = tmp_path / "etc.toml"
    monkeypatch.setattr(config.reading, "PLACES", (Path("mailserver.toml"), system_wide))
    assert find() is None
    system_wide.touch()
    assert find() == system_wide
    written(tmp_path, "")
    assert find() == Path("mailserver.toml")


# -- mistakes ------------------------------------------------------------------------------------

ENDPOINT = 'expected a Twisted endpoint description, or "" for none'
DURATION = 'expected a length of time with its units; write for example "5m" or "1h20m" or "5d"'
NAME = "expected a host's full name"

# fmt: off
SENTENCES = [
    ("hostname = 5", f'hostname: found 5; {NAME}; write for example "mx.example.test"'),
    ('hostname = ""', f'hostname: found ""; {NAME}; write for example "mx.example.test"'),
    ('hostname = "a_b.test"', f'hostname: found "a_b.test"; {NAME}; write for example "mx.example.test"'),
    ('hostname = "mx.example.test."', f'hostname: found "mx.example.test."; {NAME}; write for example "mx.example.test"'),
    ('hostname = "192.0.2.1"', f'hostname: found "192.0.2.1"; {NAME}; an IP address is not a name; write a domain name'),
    ('hostname = "a\\nb"', f'hostname: found "a\\nb"; {NAME}; write for example "mx.example.test"'),
    ('hostnme = "x"', "hostnme: unknown key; did you mean hostname?"),
    ("domains = []", 'domains: found []; expected a list, each item a domain name; name at least one, for example ["example.test"]'),
    ('domains = "example.test"', 'domains: found "example.test"; expected a list, each item a domain name; write for example ["example.test"] (with brackets)'),
    ('domains = ["a.test", "-b.test"]', 'domains[1]: found "-b.test"; expected a domain name; write for example "example.test"'),
    ('domains = ["../x"]', 'domains[0]: found "../x"; expected a domain name; write for example "example.test"'),
    ('domains = ["a.test", "A.TEST"]', 'domains: "A.TEST" stands there twice; take one away'),
    ('domains = ["пошта.укр", "xn--80a1acn3a.xn--j1amh"]', 'domains: "xn--80a1acn3a.xn--j1amh" stands there twice; take one away'),
    ("workers = true", "workers: found true; expected a number of processes, 0 for one per core; write for example 1"),
    ("workers = -1", "workers: found -1; expected a number of processes, 0 for one per core; write for example 1"),
    ("workers = 1.0", "workers: found 1.0; expected a number of processes, 0 for one per core; write for example 1"),
    ('state = ""', 'state: found ""; expected the path of a file or folder; write for example "state"'),
    ("state = 2026-11-22", 'state: found "2026-11-22"; expected the path of a file or folder; write for example "state"'),
    ("listen = 5", "listen: found 5; expected a table with keys like smtp"),
    ("[listen]\nimap = 'tcp:143'", "listen.imap: unknown key; known are smtp, submission, submissions, pop3, pop3s, lmtp"),
    ("[listen]\nsmtp = 25", f'listen.smtp: found 25; {ENDPOINT}; write for example "tcp:25"'),
    ("[listen]\nsmtp = '25'", f'listen.smtp: found "25"; {ENDPOINT}; write for example "tcp:25"'),
    ("[listen]\nsmtp = 'tpc:25'", f'listen.smtp: found "tpc:25"; {ENDPOINT}; "tpc" is not known; did you mean "tcp"?'),
    ("[listen]\nsmtp = 'tcp'", f'listen.smtp: found "tcp"; {ENDPOINT}; the port is a number from 1 to 65535'),
    ("[listen]\nsmtp = 'tcp:99999'", f'listen.smtp: found "tcp:99999"; {ENDPOINT}; the port is a number from 1 to 65535'),
    ("[listen]\nsmtp = 'tcp:25:interfce=::'", f'listen.smtp: found "tcp:25:interfce=::"; {ENDPOINT}; write colons inside an address as \\:, in TOML: "tcp:25:interface=\\\\:\\\\:1"'),
    ("[listen]\nsmtp = 'tcp:25:interfce=x'", f'listen.smtp: found "tcp:25:interfce=x"; {ENDPOINT}; "interfce" is not known here; there are backlog, interface, port'),
    ("[listen]\nlmtp = 'unix:lmtp'", f'listen.lmtp: found "unix:lmtp"; {ENDPOINT}; a socket needs a full path: "unix:/run/mailserver/lmtp"'),
    ("[listen]\npop3 = 'tcp:25'", 'listen: "tcp:25" stands there twice; take one away'),
    ("[tls]\nkey = 'k.pem'", "tls.certificate: missing; certificate and key are named together, or the whole table [tls] is left out"),
    ("[tls]\ncertificate = 'c.pem'", "tls.key: missing; certificate and key are named together, or the whole table [tls] is left out"),
    ("[login]\nallow_cleartext = 'no'", 'login.allow_cleartext: found "no"; expected true or false; write for example false'),
    ("[login]\nallow_cleartext = 0", "login.allow_cleartext: found 0; expected true or false; write for example false"),
    ("[store]\nformat = 'Maildir'", 'store.format: found "Maildir"; expected "maildir" or "mbox"; write for example "maildir"'),
    ("[relay]\nport = 0", "relay.port: found 0; expected a port from 1 to 65535; write for example 25"),
    ("[relay]\nnameservers = ['localhost']", 'relay.nameservers[0]: found "localhost"; expected an IP address, with a port or without; write for example "127.0.0.1:5353"'),
    ("[relay]\nnameservers = ['127.0.0.1:x']", 'relay.nameservers[0]: found "127.0.0.1:x"; expected an IP address, with a port or without; the port is a number from 1 to 65535'),
    ("[relay]\nnameservers = ['fe80::1:2:3:4:5:6:7:53']", 'relay.nameservers[0]: found "fe80::1:2:3:4:5:6:7:53"; expected an IP address, with a port or without; write for example "127.0.0.1:5353"'),
    ("[relay]\nretry = []", 'relay.retry: found []; expected a list, each item a length of time with its units; name at least one, for example ["5m" or "1h20m" or "5d"]'),
    ("[relay]\nretry = ['5m', 300]", f"relay.retry[1]: found 300; {DURATION}"),
    ("[relay]\nretry = ['-5m']", f'relay.retry[0]: found "-5m"; {DURATION}'),
    ("[relay]\nretry = ['0s']", 'relay.retry[0]: found "0s"; expected a length of time with its units; it must be longer than nothing'),
    ("[relay]\nwarn_after = '20m1h'", f'relay.warn_after: found "20m1h"; {DURATION}'),
    ("[relay]\nwarn_after = '6d'", "relay.warn_after: longer than relay.give_up_after; nobody would ever be warned; shorten it"),
    ("[relay]\ntrusted_networks = ['10.0.0.1/8']", 'relay.trusted_networks[0]: found "10.0.0.1/8"; expected an IP network; the address has bits beyond the prefix; write "10.0.0.0/8"'),
    ("[relay]\ntrusted_networks = ['all']", 'relay.trusted_networks[0]: found "all"; expected an IP network; write for example "192.0.2.0/24"'),
    ("[relay]\ntrusted_networks = ['::/0']", 'relay.trusted_networks[0]: found "::/0"; expected an IP network; that is everybody, and a server that relays for everybody is soon block-listed'),
    ("[relay]\nroutes = 'x'", 'relay.routes: found "x"; expected a table of routes; write for example "partner.test" = "smtp://10.0.0.5:25"'),
    ("[relay.routes]\n'a b' = 'smtp://x.test'", 'relay.routes."a b": not a domain; the key of a route is a domain, a sender or "*"'),
    ("[relay.routes]\n'*' = {host = 'x.test', tsl = 'none'}", 'relay.routes."*".tsl: unknown key; did you mean tls?'),
    (
        "[relay.routes]\n'*' = {host = 'x.test', tls = 'ssl'}",
        'relay.routes."*".tls: found "ssl"; expected one of "none", "opportunistic", "encrypted", "required", '
        '"implicit"; write for example "required"',
    ),
    (
        "[relay.routes]\n'*' = {host = '10.0.0.5', tls = 'required'}",
        'relay.routes."*": found {"host": "10.0.0.5", "tls": "required"}; an address has no certificate; '
        "add certificate_name",
    ),
    ("[relay.routes]\n'*' = 'x.test:25'", 'relay.routes."*": found "x.test:25"; expected the next hop\'s URL; write for example "smtp://10.0.0.5:25"'),
    ("[relay.routes]\n'*' = 'smtp://x.test:99999'", 'relay.routes."*": found "smtp://x.test:99999"; expected the next hop\'s URL; the port is a number from 1 to 65535'),
    ("[relay.routes]\n'*' = 'smtp://x.test:0'", 'relay.routes."*": found "smtp://x.test:0"; expected the next hop\'s URL; the port is a number from 1 to 65535'),
    ("[relay.routes]\n'*' = 'smtp://u:p@x.test'", 'relay.routes."*": found "smtp://u:p@x.test"; expected the next hop\'s URL; credentials do not belong here'),
    ("[relay.routes]\n'*' = 'smtp://a_b'", 'relay.routes."*": found "smtp://a_b"; expected the next hop\'s URL; write for example "smtp://10.0.0.5:25"'),
    ("[relay.routes]\n'*' = 'smtp://[::1'", 'relay.routes."*": found "smtp://[::1"; expected the next hop\'s URL; write for example "smtp://10.0.0.5:25"'),
    ("[limits]\nmessage_size = '50 MBit'", 'limits.message_size: found "50 MBit"; expected an amount of octets with its unit; write for example "50 MiB"'),
    ("[limits]\nmessage_size = -1", 'limits.message_size: found -1; expected an amount of octets with its unit; RFC 5321 asks for at least "64 KiB"'),
    ("[limits]\nmessage_size = '9999 GiB'", 'limits.message_size: found "9999 GiB"; expected an amount of octets with its unit; 1024 GiB is the most'),
    ("[limits]\nrecipients = 99", "limits.recipients: found 99; expected a number of at least 100 (RFC 5321 §4.5.3.1.8); write for example 1000"),
]
# fmt: on


@pytest.mark.parametrize(("text", "sentence"), SENTENCES, ids=[text.split("\n")[-1] for text, _ in SENTENCES])
def test_a_mistake_is_told_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    assert mistake(tmp_path, text if text.startswith("hostname =") else NAMED + text) == sentence


def test_all_mistakes_are_told_at_once_each_with_the_file(tmp_path: Path) -> None:
    text = "hostname = 1\nworker = 2\n[relay]\nretry = ['x', 'y']\n[relay.routes]\n'*' = 'x'\n'a b' = 'y'\n"
    found = mistakes(tmp_path, text)
    assert [key for key, _ in found] == [
        "hostname",
        "relay.retry[0]",
        "relay.retry[1]",
        'relay.routes."*"',
        'relay.routes."a b"',
        'relay.routes."a b"',
        "worker",
    ]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "mailserver.toml")
    lines = str(caught.value).split("\n")
    assert len(lines) == len(found)
    assert all(line.startswith(f"{tmp_path / 'mailserver.toml'}: ") for line in lines)


def test_a_machine_whose_own_name_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "my_machine")
    key, text = mistakes(tmp_path, 'domains = ["example.test"]')[0]
    assert key == "hostname"
    assert text.startswith('this machine\'s own name cannot be used: found "my_machine"')


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    ((key, text),) = mistakes(tmp_path, 'hostname = "a"\nhostname "b"\n')
    assert key == ""
    assert text.startswith("not TOML: ")
    assert "line 2" in text


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "mailserver.toml"
    path.write_bytes(b'hostname = "\xff"')
    with pytest.raises(ConfigError, match=r"mailserver\.toml: octet 12 is not UTF-8"):
        load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigUnreadable, match=r"none\.toml: cannot be read: No such file.*--config"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigUnreadable, match="Is a directory"):
        load(tmp_path)


def test_a_route_may_be_a_table(tmp_path: Path) -> None:
    path = tmp_path / "mailserver.toml"
    path.write_text(
        NAMED
        + """
[relay.routes]
"partner.test" = "smtp://10.0.0.5:25"
"@example.test" = {source = "192.0.2.7", ehlo = "out.example.test"}
"*" = {host = "smart.test", port = 587, tls = "required", user = "ada", password_file = "secret", after = 2}
"""
    )
    routes = load(path).relay.routes
    assert routes["partner.test"] == "smtp://10.0.0.5:25"
    smart, own = routes["*"], routes["@example.test"]
    assert not isinstance(smart, str)
    assert not isinstance(own, str)
    assert (smart.host, smart.port, smart.tls, smart.after) == ("smart.test", 587, "required", 2)
    assert smart.password_file == tmp_path / "secret"
    assert (own.host, own.source, own.ehlo) == ("", ("192.0.2.7",), "out.example.test")


def test_what_is_shown_can_be_loaded(tmp_path: Path) -> None:
    text = """
hostname = "mx.a.test"
[limits]
exempt = ["10.0.0.0/8"]
greet_wait = "2s"
normalize = ["10.1.0.0/16", "submission"]
closed = ["lmtp"]
connections = 0
[policy]
rules = ["a:b"]
rules_folder = "r"
greylist = "5m"
sender_dns = true
vrfy = "everybody"
[submission.priorities]
"ada@example.test" = -3
"@example.test" = 2
[policy.block_lists]
"zen.test=127.0.0.2/31" = -4
[proxy]
networks = ["10.2.0.0/16"]
[tls]
certificate = "c.pem"
key = "k.pem"
also = [{ certificate = "d.pem", key = "e.pem" }, { certificate = "f.pem", key = "g.pem" }]
"""
    (tmp_path / "one.toml").write_text(text)
    settings = load(tmp_path / "one.toml")
    (tmp_path / "two.toml").write_text(as_toml(as_table(settings)))
    assert load(tmp_path / "two.toml") == settings
    assert settings.tls is not None
    assert settings.tls.also[1] == (tmp_path / "f.pem", tmp_path / "g.pem")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('[tls]\ncertificate = "c"\nkey = "k"\nalso = [{ certificate = "d" }]', "tls.also[0]"),
        ('[policy]\nblock_lists = { "zen.test" = 0 }', 'policy.block_lists."zen.test"'),
        ('[policy]\nrule_failure = "stop"', "policy.rule_failure"),
        ('[limits]\ngreet_wait = "soon"', "limits.greet_wait"),
        ("[limits]\nconnections = -1", "limits.connections"),
    ],
)
def test_mistakes_at_the_door(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "one.toml").write_text(f'hostname = "mx.a.test"\n{line}\n')
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "one.toml")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("nameservers", "is_good"),
    [
        ('["127.0.0.1"]', True),
        ('["127.0.0.1:5353", "[::1]:53", "::1"]', True),
        ('["127.0.0.1", "192.0.2.53"]', False),
        ('["2001:db8::53"]', False),
        ("[]", False),
    ],
)
def test_only_a_resolver_on_this_machine_is_believed(tmp_path: Path, nameservers: str, is_good: bool) -> None:
    text = f"[relay]\ndnssec = true\nnameservers = {nameservers}\n"
    if is_good:
        assert load(written(tmp_path, text)).relay.dnssec
        return
    with pytest.raises(ConfigError, match=r"relay\.dnssec: needs a validating resolver on this machine"):
        load(written(tmp_path, text))


def test_safe_transport(tmp_path: Path) -> None:
    relay = load(
        written(tmp_path, 'state = "s"\n[relay]\nlost_tls = "delay"\nauthorities = "ca.pem"\n')
    ).relay
    assert (relay.mta_sts, relay.dnssec, relay.lost_tls, relay.tls_reports) == (True, False, "delay", True)
    assert relay.authorities == tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match=r'relay\.lost_tls: found "wait"'):
        load(written(tmp_path, '[relay]\nlost_tls = "wait"\n'))
