"""Each extension is offered exactly where it works: on any listener, with TLS and AUTH and without."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from mailserver.wire.sasl_mechanisms import offered as mechanisms_offered
from mailserver.wire.smtp_events import Offer
from tests.wire.smtp_peer import Peer

MECHANISMS = mechanisms_offered(tokens=True, cram_md5=True)
MAIL = "MAIL FROM:<a@b.test>"
PROBES = {
    "SIZE": f"{MAIL} SIZE=1",
    "8BITMIME": f"{MAIL} BODY=8BITMIME",
    "BINARYMIME": f"{MAIL} BODY=BINARYMIME",
    "SMTPUTF8": "MAIL FROM:<юлія@b.test> SMTPUTF8",
    "DSN": f"{MAIL} RET=HDRS ENVID=x",
    "DELIVERBY": f"{MAIL} BY=60;N",
    "FUTURERELEASE": f"{MAIL} HOLDFOR=5",
    "MT-PRIORITY": f"{MAIL} MT-PRIORITY=3",
    "REQUIRETLS": f"{MAIL} REQUIRETLS",
    "ETRN": "ETRN b.test",
    "STARTTLS": "STARTTLS",
    "AUTH": "AUTH PLAIN =",
    "HELP": "HELP",
    "EXPN": "EXPN list",
    "SEND": "SEND FROM:<a@b.test>",
    "SOML": "SOML FROM:<a@b.test>",
    "SAML": "SAML FROM:<a@b.test>",
}
"""What works where the keyword is offered, and is refused elsewhere."""
NEEDS_MAIL = {keyword for keyword, line in PROBES.items() if " FROM:" in line}
BY_OTHER_TESTS = {"PIPELINING", "ENHANCEDSTATUSCODES", "CHUNKING", "LIMITS", "VRFY"}


def sessions() -> Iterator[tuple[Offer, bool, bool]]:
    """Every kind of listener; whether TLS is active; whether somebody has logged in."""
    choices = itertools.product(
        ("smtp", "submission", "lmtp"), *[(False, True)] * 7, ((), ("PLAIN", "LOGIN"), MECHANISMS)
    )
    for role, starttls, cleartext, extra, require_tls, etrn, tls, logged_in, mechanisms in choices:
        offer = Offer(
            "mx.example.test",
            role,
            10_000,
            2,
            starttls,
            mechanisms,
            cleartext,
            future_release=60 if extra else 0,
            require_tls=require_tls,
            etrn=etrn,
            terminals="everybody" if extra else "users",
            expand="everybody" if etrn else "users",
            verify="users" if extra else "nobody",
        )
        if not logged_in or (role == "submission" and mechanisms and (tls or cleartext)):
            yield offer, tls, logged_in


def begun(offer: Offer, tls: bool, logged_in: bool) -> tuple[Peer, dict[str, str]]:
    """A session after its EHLO, and what that has offered: keyword -> what stands behind it."""
    peer = Peer(offer)
    if tls:
        peer.machine.tls_started()
    hello = "LHLO x" if offer.role == "lmtp" else "EHLO x"
    if logged_in:
        peer.code(hello)
        assert peer.code("AUTH PLAIN =") == "235 2.7.0"
    lines = [line[4:].partition(" ") for line in peer.lines(hello)[1:]]
    return peer, {keyword: argument for keyword, _, argument in lines}


@pytest.mark.parametrize("role", ["smtp", "submission", "lmtp"])
def test_what_is_offered_works_and_what_is_not_does_not(role: str) -> None:
    tried = 0
    for offer, tls, logged_in in sessions():
        if offer.role != role:
            continue
        peer, offered = begun(offer, tls, logged_in)
        assert set(offered) <= set(PROBES) | BY_OTHER_TESTS, "a keyword without a probe"
        may_send = peer.code(MAIL)[0] == "2"
        for keyword, line in PROBES.items():
            if keyword in NEEDS_MAIL and not may_send:
                continue
            peer, _ = begun(offer, tls, logged_in)
            works = peer.code(line)[0] == "2"
            assert works is (keyword in offered), (keyword, offer, tls, logged_in)
            tried += 1
    assert tried > 500


def test_the_mechanisms_that_are_listed_are_those_that_begin() -> None:
    for offer, tls, logged_in in sessions():
        _, offered = begun(offer, tls, logged_in)
        listed = offered.get("AUTH", "").split()
        for mechanism in MECHANISMS:
            peer, _ = begun(offer, tls, logged_in)
            assert (peer.code(f"AUTH {mechanism} =")[:3] == "235") is (mechanism in listed), (offer, tls)


def test_limits_say_what_holds() -> None:
    for offer, tls, logged_in in sessions():
        peer, offered = begun(offer, tls, logged_in)
        assert "RCPTMAX=2" in offered["LIMITS"].split()
        if peer.code(MAIL)[0] == "2":
            codes = [peer.code(f"RCPT TO:<u{n}@b.test>")[:3] for n in range(3)]
            assert codes == ["250", "250", "452"]


def test_chunks_are_taken_wherever_they_are_offered() -> None:
    for offer, tls, logged_in in sessions():
        peer, offered = begun(offer, tls, logged_in)
        assert "CHUNKING" in offered
        if peer.code(MAIL)[0] == "2":
            peer.code("RCPT TO:<c@d.test>")
            assert peer.say(b"BDAT 3 LAST\r\nx\r\n").startswith(b"250 2.0.0")
