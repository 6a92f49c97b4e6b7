"""Connections over the real factories: too many, by client and in all; limits that tighten; PROXY headers."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.task import Clock

from mailserver.connections import ConnectionLimits, Connections, SessionFactory, Times, pressed
from mailserver.proxies import HEADER_SECONDS, ProxiedFactory
from mailserver.receive.session import ReceiverSettings
from mailserver.receive.smtp import SMTPReceiverFactory
from mailserver.wire.smtp_events import Offer
from tests.dialogues.transports import Wire

GREETING = b"220 mx.example.test ESMTP ready; HELP lists the commands\r\n"


class Door:
    """SMTP's factory, with what it has logged."""

    def __init__(self, limits: ConnectionLimits, times: Times = Times(), **settings: Any) -> None:  # noqa: B008
        self.clock = Clock()
        self.away: list[tuple[str, str, str]] = []
        self.tightened: list[bool] = []
        self.connections = Connections(
            limits, lambda *words: self.away.append(words), lambda on, *_: self.tightened.append(on)
        )
        intake: Any = None
        self.factory: SessionFactory[Any] = SMTPReceiverFactory(
            ReceiverSettings(
                offer=Offer("mx.example.test", "smtp", 1000, 100),
                intake=intake,
                clock=self.clock,
                connections=self.connections,
                times=times,
                pressed_times=pressed(times),
                **settings,
            )
        )

    def come(self, host: str, factory: Any = None) -> Wire:
        kind = IPv6Address if ":" in host else IPv4Address
        protocol = (factory or self.factory).buildProtocol(kind("TCP", host, 4321))
        wire = Wire(protocol)
        protocol.makeConnection(wire)
        return wire


def test_one_network_has_a_limit_and_others_are_served() -> None:
    door = Door(ConnectionLimits(100, 3))
    mine = [door.come("192.0.2.1") for _ in range(3)]
    assert all(wire.value() == GREETING for wire in mine)
    refused = door.come("192.0.2.1")
    assert refused.value() == b"421 4.7.0 Too many connections from your network; please try again later\r\n"
    assert refused.is_closed
    assert door.come("192.0.2.2").value() == GREETING
    mine[0].lose(Exception())
    assert door.come("::ffff:192.0.2.1").value() == GREETING
    assert door.connections.total == 4


def test_ipv6_counts_by_64() -> None:
    door = Door(ConnectionLimits(100, 2))
    for host in ("2001:db8::1", "2001:db8::2"):
        assert door.come(host).value() == GREETING
    assert door.come("2001:db8:0:0:ffff::3").value().startswith(b"421 4.7.0")
    assert door.come("2001:db8:0:1::1").value() == GREETING


def test_exempt_networks_have_no_limit_but_the_whole() -> None:
    door = Door(ConnectionLimits(5, 1, [ip_network("10.0.0.0/8")]))
    for _ in range(5):
        assert door.come("10.1.2.3").value() == GREETING
    assert door.come("10.1.2.3").value().startswith(b"421 4.7.0 Too many connections;")


def test_a_network_that_keeps_coming_is_logged_once_a_minute() -> None:
    door = Door(ConnectionLimits(100, 1))
    door.come("192.0.2.1")
    for _ in range(50):
        door.come("192.0.2.1")
    assert door.away == [("smtp", "192.0.2.1", "Too many connections from your network")]
    door.clock.advance(60)
    door.come("192.0.2.1")
    assert len(door.away) == 2


def test_limits_tighten_at_half_and_loosen_again() -> None:
    door = Door(ConnectionLimits(40, 40, [ip_network("10.0.0.0/8")]), Times())
    known = door.come("10.0.0.1")
    quiet = [door.come(f"192.0.2.{n}") for n in range(18)]
    door.clock.advance(14)
    assert door.tightened == []
    late = door.come("192.0.2.99")
    assert door.tightened == [True]
    # Who has been silent for longer than is allowed now goes at once; who has just come has the short time.
    door.clock.advance(1)
    # ... until enough have gone: then nobody else has to.
    ended = [wire for wire in quiet if wire.is_closed]
    assert [wire.value().splitlines()[-1][:9] for wire in ended] == [b"421 4.4.2"] * 5
    assert not late.is_closed
    assert door.tightened == [True, False]
    assert not known.is_closed


def test_under_pressure_one_network_may_hold_a_quarter() -> None:
    door = Door(ConnectionLimits(40, 40))
    for n in range(20):
        door.come(f"192.0.2.{n}")
    served = [door.come("198.51.100.1").value() == GREETING for _ in range(12)]
    assert served == [True] * 10 + [False] * 2


def test_who_never_reads_is_let_go() -> None:
    door = Door(ConnectionLimits(), Times(command=60))
    wire = door.come("192.0.2.1")
    wire.is_read = False
    wire.protocol.dataReceived(b"HELP\r\n" * 90)
    wire.protocol.pauseProducing()
    for _ in range(4):
        door.clock.advance(30)
    assert wire.was_aborted
    assert door.connections.total == 0


def test_stopping_ends_all() -> None:
    door = Door(ConnectionLimits())
    wires = [door.come("192.0.2.1") for _ in range(3)]
    ended = door.factory.stop()
    assert ended.called
    assert all(
        wire.value().endswith(b"421 4.3.2 The server is stopping; please try again later\r\n")
        for wire in wires
    )
    assert not door.clock.getDelayedCalls()


# -- PROXY ---------------------------------------------------------------------------------------


@pytest.fixture
def balanced() -> tuple[Door, ProxiedFactory]:
    door = Door(ConnectionLimits(100, 1))
    return door, ProxiedFactory(door.factory, [ip_network("10.0.0.0/8")], door.clock)


def test_the_client_is_whom_the_proxy_names(balanced: tuple[Door, ProxiedFactory]) -> None:
    door, factory = balanced
    wire = door.come("10.0.0.1", factory)
    wire.protocol.dataReceived(b"PROXY TCP4 192.0.2.7 10.0.0.1 ")
    assert wire.value() == b""
    wire.protocol.dataReceived(b"999 25\r\nNOOP\r\n")
    assert wire.value().startswith(GREETING + b"250 2.0.0 OK")
    (session,) = door.factory.sessions
    assert session.host == "192.0.2.7"
    again = door.come("10.0.0.1", factory)
    again.protocol.dataReceived(b"PROXY TCP4 192.0.2.7 10.0.0.1 998 25\r\n")
    assert again.value().startswith(b"421 4.7.0")


def test_a_stranger_cannot_name_anybody(balanced: tuple[Door, ProxiedFactory]) -> None:
    door, factory = balanced
    wire = door.come("192.0.2.9", factory)
    wire.protocol.dataReceived(b"PROXY TCP4 10.0.0.1 10.0.0.1 999 25\r\n")
    assert b"500 5.5.1" in wire.value()
    assert {session.host for session in door.factory.sessions} == {"192.0.2.9"}


def test_a_proxy_must_send_a_header_and_in_time(balanced: tuple[Door, ProxiedFactory]) -> None:
    door, factory = balanced
    wire = door.come("10.0.0.1", factory)
    wire.protocol.dataReceived(b"EHLO x\r\n")
    assert (wire.is_closed, wire.value()) == (True, b"")
    silent = door.come("10.0.0.1", factory)
    door.clock.advance(HEADER_SECONDS)
    assert silent.is_closed
    assert not door.clock.getDelayedCalls()
