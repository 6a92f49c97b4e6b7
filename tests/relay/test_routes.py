"""Routes: what may be written, and errors that tell where and what to write."""

import pytest

from mailserver.relay.routes import Route, RouteTable, route_from


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
    assert table.route("partner.test") == Route("10.0.0.5", 25)
    assert table.route("other.test") == Route("smart.test", 587)
    assert RouteTable({}).route("partner.test") is None


def test_an_error_names_the_domain() -> None:
    with pytest.raises(ValueError, match=r"'partner\.test'"):
        RouteTable({"partner.test": "10.0.0.5"})
