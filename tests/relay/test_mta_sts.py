"""MTA-STS: the grammar, which hosts are named, and a policy's life on a clock (RFC 8461)."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailserver.interfaces import LookupDelayed
from mailserver.relay.https import FetchFailed
from mailserver.relay.mta_sts import ASK_SECONDS, MTASTS, NOTHING_SECONDS, REFRESH_SECONDS
from mailserver.relay.resolver import NameNotFound
from mailserver.relay.sts_policy import (
    LONGEST_AGE,
    PolicyMalformed,
    STSPolicy,
    from_json,
    parse_policy,
    record_id,
)

ENFORCE = b"version: STSv1\r\nmode: enforce\r\nmx: mx.b.test\r\nmx: *.mail.b.test\r\nmax_age: 604800\r\n"


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([b"v=STSv1; id=20261122;"], "20261122"),
        ([b"v=STSv1;id=a"], "a"),
        ([b"v=spf1 -all", b"v=STSv1; id=7"], "7"),
        ([b"v=STSv1; id=7; more=x"], "7"),
        ([b"v=STSv1; more=x; id=7"], "7"),
        ([], ""),
        ([b"v=STSv1; id=1", b"v=STSv1; id=2"], ""),
        ([b"v=STSv10; id=1"], ""),
        ([b"v=STSv1;"], ""),
        ([b"v=STSv1; id=no-dash"], ""),
        ([b"v=STSv1; id=" + b"a" * 33], ""),
        ([b"\xff\xfe"], ""),
    ],
)
def test_the_record(records: list[bytes], found: str) -> None:
    assert record_id(records) == found


def test_a_policy() -> None:
    policy = parse_policy(ENFORCE, "7", 1000.0)
    assert policy == STSPolicy("7", "enforce", ("mx.b.test", "*.mail.b.test"), 604800.0, 1000.0)
    assert policy.expires == 605800.0
    assert policy.lines[0] == "version: STSv1"


@pytest.mark.parametrize(
    ("host", "fits"),
    [
        ("mx.b.test", True),
        ("MX.B.TEST.", True),
        ("a.mail.b.test", True),
        ("a.b.mail.b.test", False),
        ("mail.b.test", False),
        ("mx.evil.test", False),
        ("xmx.b.test", False),
        ("test", False),
        ("", False),
    ],
)
def test_a_wildcard_is_exactly_one_left_label(host: str, fits: bool) -> None:
    assert parse_policy(ENFORCE, "7", 0.0).names(host) == fits


def test_unicode_hosts_are_compared_as_a_labels() -> None:
    policy = parse_policy("version: STSv1\nmode: enforce\nmx: *.пошта.укр\nmax_age: 1\n".encode(), "7", 0.0)
    assert policy.names("a.xn--80a1acn3a.xn--j1amh")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"mode: enforce\nmx: a\nmax_age: 1\n",
        b"version: STSv2\nmode: enforce\nmx: a\nmax_age: 1\n",
        b"version: STSv1\nmode: maybe\nmx: a\nmax_age: 1\n",
        b"version: STSv1\nmode: enforce\nmax_age: 1\n",
        b"version: STSv1\nmode: enforce\nmx: a\n",
        b"version: STSv1\nmode: enforce\nmx: a\nmax_age: -1\n",
        b"version: STSv1\nmode: enforce\nmx: a\nmax_age: 99999999999\n",
        b"version: STSv1\nmode: enforce\nmx: a b\nmax_age: 1\n",
        b"version: STSv1\nmode: enforce\nmx: a.*.b\nmax_age: 1\n",
        b"version: STSv1\nmode: enforce\nmx: *\nmax_age: 1\n",
        b"<html>\nmode: enforce\n",
        b"\xff\xfe",
        b"version: STSv1\nmode: enforce\nmax_age: 1\n" + b"mx: a.b\n" * 101,
    ],
)
def test_no_policy(text: bytes) -> None:
    with pytest.raises(PolicyMalformed):
        parse_policy(text, "7", 0.0)


@given(st.binary() | st.text().map(str.encode) | st.binary().map(ENFORCE.__add__))
def test_any_octets_are_a_policy_or_malformed(text: bytes) -> None:
    with contextlib.suppress(PolicyMalformed):
        assert parse_policy(text, "7", 0.0).mode in ("enforce", "testing", "none")


def test_unknown_keys_and_repeated_ones() -> None:
    text = b"version: STSv1\nmode: testing\nmode: enforce\nfuture: x\n\nmx: a.b\nmax_age: 4294967296\n"
    policy = parse_policy(text, "7", 0.0)
    assert policy.mode == "testing"
    assert policy.max_age == LONGEST_AGE


def test_kept_and_read_again() -> None:
    policy = parse_policy(ENFORCE, "7", 5.0)
    assert from_json(policy.to_json("b.test")) == ("b.test", policy)
    for torn in (b"", b"{", b"[]", b"{}", policy.to_json("b.test")[:50], b'{"domain": "b", "mx": 3}'):
        with pytest.raises(ValueError):  # noqa: PT011
            from_json(torn)


# -- a policy's life -------------------------------------------------------------------------------


class Answer:
    def __init__(self, *strings: bytes) -> None:
        self.rrset = [type("TXT", (), {"strings": [s]})() for s in strings] or None


class World:
    """DNS and HTTPS: what they would say now, and what they were asked."""

    def __init__(self) -> None:
        self.record: Any = b"v=STSv1; id=1"
        self.body: Any = ENFORCE
        self.asked = self.fetched = 0
        self.kept: dict[str, STSPolicy] = {}
        self.slow: Deferred[bytes] | None = None

    async def lookup(self, name: str, record: str) -> Any:
        assert (name, record) == ("_mta-sts.b.test", "TXT")
        self.asked += 1
        if isinstance(self.record, Exception):
            raise self.record
        return Answer(self.record) if self.record else Answer()

    async def _body(self) -> bytes:
        if self.slow is not None:
            return await self.slow
        if isinstance(self.body, Exception):
            raise self.body
        return self.body  # type: ignore[no-any-return]

    def fetch_policy(self, domain: str) -> Deferred[bytes]:
        assert domain == "b.test"
        self.fetched += 1
        return Deferred.fromCoroutine(self._body())

    def keep(self, domain: str, policy: STSPolicy) -> None:
        self.kept[domain] = policy

    def forget(self, domain: str) -> None:
        self.kept.pop(domain, None)


class LifeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.world = World()
        self.sts = self.make()

    def make(self) -> MTASTS:
        world: Any = self.world
        made = MTASTS(self.clock, world, world, world, self.clock.seconds)
        made.start(list(self.world.kept.items()))
        self.addCleanup(made.stop)
        return made

    def ask(self) -> STSPolicy | None:
        found = self.sts.policy("b.test")
        return self.successResultOf(found) if isinstance(found, Deferred) else found

    def mode(self) -> str:
        policy = self.ask()
        return policy.mode if policy else ""

    def test_asked_and_fetched_once(self) -> None:
        assert self.mode() == "enforce"
        assert self.mode() == "enforce"
        assert not isinstance(self.sts.policy("b.test"), Deferred)
        assert (self.world.asked, self.world.fetched) == (1, 1)
        assert "b.test" in self.world.kept

    def test_everybody_waits_for_the_same_fetch(self) -> None:
        self.world.slow = Deferred()
        waiting = [self.sts.policy("b.test") for _ in range(5)]
        self.world.slow.callback(ENFORCE)
        for one in waiting:
            assert isinstance(one, Deferred)
            assert self.successResultOf(one) is not None
        assert self.world.fetched == 1

    def test_no_record_is_remembered_for_a_while(self) -> None:
        for record in (b"", NameNotFound("no"), LookupDelayed("servfail")):
            self.world.record, self.sts, self.world.asked = record, self.make(), 0
            assert self.mode() == ""
            assert self.mode() == ""
            assert (self.world.asked, self.world.fetched) == (1, 0)
            self.clock.advance(NOTHING_SECONDS + 1)
            assert self.mode() == ""
            assert self.world.asked == 2

    def test_a_failed_fetch_is_told_and_tried_again_later(self) -> None:
        self.world.body = FetchFailed("gone", "sts-webpki-invalid")
        assert self.mode() == ""
        assert self.sts.trouble("b.test") == ("sts-webpki-invalid", "gone")
        assert self.mode() == ""
        assert self.world.fetched == 1
        self.clock.advance(NOTHING_SECONDS + 1)
        self.world.body = ENFORCE
        assert self.mode() == "enforce"
        assert self.sts.trouble("b.test") is None

    def test_a_policy_survives_whatever_dns_and_https_say(self) -> None:
        assert self.mode() == "enforce"
        for record, body in (
            (LookupDelayed("x"), ENFORCE),
            (b"", ENFORCE),
            (b"v=STSv1; id=2", FetchFailed("x")),
        ):
            self.world.record, self.world.body = record, body
            self.clock.advance(ASK_SECONDS + 1)
            assert self.mode() == "enforce"
            assert self.mode() == "enforce"
        assert "b.test" in self.world.kept

    def test_it_survives_a_restart(self) -> None:
        assert self.mode() == "enforce"
        self.world.record = LookupDelayed("x")
        self.sts = self.make()
        assert self.mode() == "enforce"

    def test_it_ends_when_it_expires(self) -> None:
        assert self.mode() == "enforce"
        self.world.record = b""
        self.clock.advance(604801)
        assert self.mode() == ""
        assert self.world.kept == {}

    def test_a_new_id_brings_the_new_policy_behind_the_senders_back(self) -> None:
        assert self.mode() == "enforce"
        self.world.record, self.world.body = b"v=STSv1; id=2", ENFORCE.replace(b"enforce", b"testing")
        self.clock.advance(ASK_SECONDS + 1)
        self.world.slow = Deferred()
        assert self.mode() == "enforce"
        self.world.slow.callback(self.world.body)
        assert self.mode() == "testing"

    def test_mode_none_takes_it_back(self) -> None:
        assert self.mode() == "enforce"
        self.world.record, self.world.body = b"v=STSv1; id=2", b"version: STSv1\nmode: none\nmax_age: 86400\n"
        self.clock.advance(ASK_SECONDS + 1)
        self.mode()
        assert self.mode() == ""

    def test_it_is_refreshed_though_no_mail_goes(self) -> None:
        assert self.mode() == "enforce"
        self.clock.pump([3600.0] * (int(REFRESH_SECONDS / 3600) + 2))
        assert self.world.fetched == 2
        assert self.world.kept["b.test"].fetched > 1_000_000

    def test_doubt_fetches_it_again_but_not_all_the_time(self) -> None:
        assert self.mode() == "enforce"
        self.sts.doubt("b.test")
        self.mode()
        assert self.world.fetched == 1
        self.clock.advance(NOTHING_SECONDS + 1)
        self.sts.doubt("b.test")
        self.mode()
        assert self.world.fetched == 2
        for _ in range(10):
            self.sts.doubt("b.test")
            self.mode()
        assert self.world.fetched == 2
