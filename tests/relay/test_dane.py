"""TLSA records against certificates: which can be used, and whom they vouch for (RFC 7671, RFC 7672)."""

import hashlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from mailserver.relay.dane import NoAnswer, matches, mismatch, tlsa_records, usable
from mailserver.relay.protection import TLSA
from mailserver.relay.resolver import Resolver

from .authority import Authority, Identity
from .dns_server import GARBAGE, SERVFAIL, FakeDNS

ROOT = Authority()
MIDDLE = ROOT.intermediate()
HOST = ROOT.issue("mx.b.test", root=True)
BEHIND = MIDDLE.issue("mx.b.test", root=True)
EXPIRED = ROOT.issue("mx.b.test", expired=True, root=True)
OTHER_NAME = ROOT.issue("mx.evil.test", root=True)
NAMES = ("mx.b.test", "b.test")


def octets(certificate: x509.Certificate, selector: int) -> bytes:
    if selector == 0:
        return certificate.public_bytes(Encoding.DER)
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def record(certificate: x509.Certificate, usage: int = 3, selector: int = 1, matching: int = 1) -> TLSA:
    data = octets(certificate, selector)
    if matching:
        data = hashlib.new({1: "sha256", 2: "sha512"}[matching], data).digest()
    return TLSA(usage, selector, matching, data)


def chain(identity: Identity) -> list[x509.Certificate]:
    return [identity.certificate, *identity.chain]


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_every_selector_and_matching_type(selector: int, matching: int) -> None:
    found = record(HOST.certificate, 3, selector, matching)
    assert usable([found]) == (found,)
    assert matches(found, HOST.certificate)
    assert not matches(found, OTHER_NAME.certificate)
    assert mismatch([found], NAMES, chain(HOST)) is None
    assert mismatch([found], NAMES, chain(OTHER_NAME)) is not None


@pytest.mark.parametrize(
    "bad",
    [
        TLSA(0, 1, 1, bytes(32)),
        TLSA(1, 1, 1, bytes(32)),
        TLSA(255, 1, 1, bytes(32)),
        TLSA(3, 2, 1, bytes(32)),
        TLSA(3, 255, 1, bytes(32)),
        TLSA(3, 1, 3, bytes(32)),
        TLSA(3, 1, 255, bytes(32)),
        # The lengths that crashed another client.
        TLSA(3, 1, 1, b""),
        TLSA(3, 1, 1, bytes(3)),
        TLSA(3, 1, 0, b""),
        TLSA(3, 1, 1, bytes(33)),
        TLSA(3, 1, 2, bytes(32)),
    ],
    ids=str,
)
def test_what_cannot_be_used(bad: TLSA) -> None:
    good = record(HOST.certificate)
    assert usable([bad]) == ()
    assert usable([bad, good]) == (good,)


def test_of_every_digest_only_the_strongest_counts() -> None:
    weak, strong = record(HOST.certificate, matching=1), record(HOST.certificate, matching=2)
    whole = record(HOST.certificate, matching=0)
    other = record(HOST.certificate, selector=0, matching=1)
    assert set(usable([weak, strong, whole, other])) == {strong, whole, other}


def test_an_end_entity_record_does_not_ask_for_name_or_date() -> None:
    for identity in (EXPIRED, OTHER_NAME):
        assert mismatch([record(identity.certificate)], NAMES, chain(identity)) is None


def test_an_end_entity_record_does_not_vouch_for_an_issuer() -> None:
    assert mismatch([record(ROOT.certificate, usage=3)], NAMES, chain(HOST)) is not None


@pytest.mark.parametrize("anchor", [ROOT, MIDDLE], ids=["root", "intermediate"])
def test_a_trust_anchor_vouches_for_what_it_issued(anchor: Authority) -> None:
    assert mismatch([record(anchor.certificate, usage=2)], NAMES, chain(BEHIND)) is None


@pytest.mark.parametrize(
    ("identity", "kind"),
    [(EXPIRED, "certificate-expired"), (OTHER_NAME, "certificate-host-mismatch")],
    ids=["expired", "other name"],
)
def test_a_trust_anchor_asks_for_name_and_date(identity: Identity, kind: str) -> None:
    wrong = mismatch([record(ROOT.certificate, usage=2)], NAMES, chain(identity))
    assert wrong is not None
    assert wrong.kind == kind


def test_a_trust_anchor_that_is_only_shown_proves_nothing() -> None:
    # Anybody can send the anchor's certificate along; it must have issued the host's.
    stranger = Authority("Stranger").issue("mx.b.test")
    wrong = mismatch([record(ROOT.certificate, usage=2)], NAMES, [stranger.certificate, ROOT.certificate])
    assert wrong is not None
    assert wrong.kind == "certificate-not-trusted"


def test_the_next_hop_domain_is_a_name_too_and_a_wildcard_is_one_label() -> None:
    anchor = [record(ROOT.certificate, usage=2)]
    for name, fits in (("b.test", True), ("*.b.test", True), ("*.test", False), ("c.test", False)):
        wrong = mismatch(anchor, NAMES, chain(ROOT.issue(name, root=True)))
        assert (wrong is None) == fits, name


def test_one_good_record_is_enough() -> None:
    wrong = TLSA(3, 1, 1, bytes(32))
    assert mismatch([wrong, record(HOST.certificate)], NAMES, chain(HOST)) is None
    assert mismatch([wrong], NAMES, chain(HOST)) is not None


class LookupTests(TestCase):
    async def records(self, answer: Any, authentic: bool = True, validating: bool = True) -> Any:
        server = FakeDNS({("_25._tcp.mx.b.test", "TLSA"): answer}, authentic=authentic)
        address = server.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        resolver = Resolver(reactor, [address], try_seconds=0.2, lookup_seconds=0.5, validating=validating)
        return await tlsa_records(resolver, "mx.b.test", 25)

    async def test_authentic_records(self) -> None:
        assert await self.records(["3 1 1 " + "ab" * 32]) == (TLSA(3, 1, 1, b"\xab" * 32),)

    async def test_records_that_nobody_vouches_for_are_none(self) -> None:
        assert await self.records(["3 1 1 " + "ab" * 32], authentic=False) == ()

    async def test_a_resolver_that_is_not_ours_is_not_believed(self) -> None:
        assert await self.records(["3 1 1 " + "ab" * 32], validating=False) == ()

    async def test_no_records(self) -> None:
        assert await self.records([]) == ()

    async def test_no_answer_is_not_the_same_as_none(self) -> None:
        for answer in (SERVFAIL, GARBAGE):
            with pytest.raises(NoAnswer):
                await self.records(answer)
