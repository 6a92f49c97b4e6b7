"""Routes: what may be written, and errors that tell where and what to write."""

from pathlib import Path

import pytest

from mailserver.config.routes import RouteSettings
from mailserver.relay.protection import CLEAR, OPPORTUNISTIC, WEBPKI, Level, Security
from mailserver.relay.routes import CredentialsUnreadable, Route, RouteTable, route_from
from mailserver.values.address import address_from


@pytest.mark.parametrize(
    ("url", "route"),
    [
        ("smtp://mx.b.test", Route("mx.b.test", 25)),
        ("smtp://10.0.0.5:2525", Route("10.0.0.5", 2525)),
        ("smtp://[2001:db8::1]:26/", Route("2001:db8::1", 26)),
        ("smtp://[::1]", Route("::1", 25)),
    ],
)
def test_a_next_hop(url: str, route: Route) -> None:
    assert route_from(url) == route


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mx.b.test",
        "mx.b.test:25",
        "http://x",
        "smtp://",
        "smtp://:25",
        "smtp://x:0",
        "smtp://x:99999",
        "smtp://x:y",
        "smtp://u@x",
        "smtp://x/path",
        "smtp://x?q",
        "smtp://[::1",
        "smtp://a b",
        "smtps://x",
    ],
)
def test_no_next_hop(url: str) -> None:
    with pytest.raises(ValueError, match="expected smtp://host"):
        route_from(url)


def test_the_table_prefers_a_domain_of_its_own() -> None:
    table = RouteTable({"Partner.TEST": "smtp://10.0.0.5", "*": "smtp://smart.test:587"})
    assert table.route("partner.test") == Route("10.0.0.5", 25, name="Partner.TEST")
    assert table.route("other.test") == Route("smart.test", 587, name="*")
    assert RouteTable({}).route("partner.test") is None


def test_an_error_names_the_domain() -> None:
    with pytest.raises(ValueError, match=r"'partner\.test'"):
        RouteTable({"partner.test": "10.0.0.5"})


def test_who_is_found_first() -> None:
    table = RouteTable(
        {
            "partner.test": "smtp://domain.test",
            "Ada@a.test": "smtp://ada.test",
            "@a.test": "smtp://sender.test",
            "*": "smtp://smart.test",
        }
    )

    def host(domain: str, sender: str) -> str:
        route = table.route(domain, address_from(sender))
        assert route is not None
        return route.host

    assert host("partner.test", "ada@a.test") == "domain.test"
    assert host("b.test", "ada@A.test") == "ada.test"
    assert host("b.test", "bob@a.test") == "sender.test"
    assert host("b.test", "bob@c.test") == "smart.test"


def test_a_smarthost_after_some_attempts() -> None:
    table = RouteTable({"*": RouteSettings(host="smart.test", after=2)})
    assert [table.route("b.test", attempts=n) is None for n in range(4)] == [True, True, False, False]
    table = RouteTable({"b.test": RouteSettings(host="late.test", after=1), "*": "smtp://always.test"})
    assert [getattr(table.route("b.test", attempts=n), "host", "") for n in range(2)] == [
        "always.test",
        "late.test",
    ]


def test_what_a_table_says() -> None:
    settings = RouteSettings(
        host="smart.test",
        tls="implicit",
        source=("192.0.2.7", "2001:db8::7"),
        ehlo="out.a.test",
        concurrency=3,
        messages_per_minute=60,
    )
    route = RouteTable({"*": settings}).route("b.test")
    assert route is not None
    assert (route.port, route.hello, route.concurrency, route.per_minute) == (465, "out.a.test", 3, 60.0)
    assert route.source_for("198.51.100.1") == "192.0.2.7"
    assert route.source_for("2001:db8::1") == "2001:db8::7"
    assert Route("x", 25).source_for("198.51.100.1") == ""


def test_what_a_route_demands_of_tls() -> None:
    assert Route("x.test", 25).security() == OPPORTUNISTIC
    assert Route("x.test", 25, tls="none").security() == CLEAR
    assert Route("x.test", 25, tls="encrypted").security() == Security(Level.ENCRYPTED)
    verified = Route("192.0.2.1", 25, tls="required", certificate_name="x.test").security()
    assert (verified.level, verified.by, verified.names) == (Level.VERIFIED, WEBPKI, ("x.test",))
    assert Route("x.test", 465, tls="implicit").security().implicit
    assert Route("x.test", 25).security(require_tls=True).level is Level.VERIFIED
    refused = Route("x.test", 25, tls="none").security(require_tls=True)
    assert (refused.status, bool(refused.refused)) == ("5.7.30", True)


def test_a_password_is_read_anew_each_time(tmp_path: Path) -> None:
    path = tmp_path / "password"
    route = Route("x.test", 587, user="ada", password_file=path)
    with pytest.raises(CredentialsUnreadable, match="No such file"):
        route.login()
    path.write_text("first\n")
    assert route.login() == ("ada", "first")
    path.write_text("second\n")
    assert route.login() == ("ada", "second")
    path.write_text("\n")
    with pytest.raises(CredentialsUnreadable, match="empty"):
        route.login()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CredentialsUnreadable, match="UTF-8"):
        route.login()
    assert Route("x.test", 25).login() is None
