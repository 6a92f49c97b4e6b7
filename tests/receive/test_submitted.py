"""A submission's header: whose it is, and what is added (RFC 6409 §6.1, §8)."""

from collections.abc import Callable

import pytest

from mailserver.receive import submitted
from mailserver.receive.submitted import SubmittedHeader
from mailserver.values.address import Address

ADA = Address("ada", "a.test")
WHOLE = b"Date: now\r\nMESSAGE-ID : <a@b>\r\nFrom: Ada\r\n\t<ada@a.test>\r\n"


def only_ada(address: Address) -> bool:
    return address in (ADA, Address("sales", "a.test"))


def read(
    octets: bytes, step: int = 10_000, may_use: Callable[[Address], bool] = only_ada
) -> tuple[bytes, SubmittedHeader]:
    header = SubmittedHeader(ADA, may_use, "mx.a.test")
    kept = b"".join(header.feed(octets[n : n + step]) for n in range(0, len(octets), step))
    return kept + header.finish(), header


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize(
    "rest", [b"", b"\r\n", b"\r\nbody\r\n\r\nFrom: no\r\n", b"Sender: sales@a.test\r\n\r\n."]
)
def test_a_complete_submission_is_not_touched(rest: bytes, step: int) -> None:
    kept, header = read(WHOLE + rest, step)
    assert kept == WHOLE + rest
    assert header.refusal is None


@pytest.mark.parametrize("step", [1, 4, 10_000])
@pytest.mark.parametrize(
    ("octets", "before", "after"),
    [
        (b"Subject: x\r\n\r\nbody\r\n", b"Subject: x\r\nDate: ", b"\r\n\r\nbody\r\n"),
        (b"Subject: x\r\n", b"Subject: x\r\nDate: ", b"@mx.a.test>\r\n"),
        (b"just text\r\nmore\r\n", b"Date: ", b"@mx.a.test>\r\n\r\njust text\r\nmore\r\n"),
        (b"\r\nbody\r\n", b"Date: ", b"@mx.a.test>\r\n\r\nbody\r\n"),
        (b"", b"Date: ", b"@mx.a.test>\r\n"),
    ],
)
def test_date_and_message_id(octets: bytes, before: bytes, after: bytes, step: int) -> None:
    kept, header = read(octets, step)
    assert kept.startswith(before)
    assert kept.endswith(after)
    assert kept.count(b"\r\nMessage-ID: <") == 1
    assert header.refusal is None


@pytest.mark.parametrize(
    "field",
    [
        b"From: bob@a.test\r\n",
        b"From: Ada <ada@a.test>, bob@a.test\r\n",
        b"From: ceo@bank.test <ada@a.test>\r\n",
        b"From: ada@a.test\r\nFROM : bob@a.test\r\n",
        b"From: bob\r\n",
        b"From:\r\n ada@a.test,\r\n bob@a.test\r\n",
    ],
)
def test_somebody_else_s_from(field: bytes) -> None:
    refusal = read(field + b"\r\nbody")[1].refusal
    assert refusal is not None
    assert (refusal.code, refusal.enhanced) == (550, "5.7.1")
    assert "is not an address of <ada@a.test>" in refusal.text


def test_an_unqualified_from_is_of_the_author_s_domain() -> None:
    assert read(b"From: ada\r\n\r\n")[1].refusal is None


@pytest.mark.parametrize("field", [b'From: "ada\r\n', b"From: <ada@a.test\r\n", b"Sender: (\r\n"])
def test_fields_that_cannot_be_read(field: bytes) -> None:
    refusal = read(field + b"\r\nbody")[1].refusal
    assert refusal is not None
    assert (refusal.code, refusal.enhanced) == (550, "5.6.0")


def test_a_second_from_behind_a_line_that_is_no_field_is_text() -> None:
    kept, header = read(WHOLE + b"no field\r\nFrom: bob@a.test\r\n\r\nbody")
    assert header.refusal is None
    assert kept == WHOLE + b"\r\nno field\r\nFrom: bob@a.test\r\n\r\nbody"


@pytest.mark.parametrize(
    "sender", [b"bob@a.test", b"ada@a.test, bob@a.test", b"ada@a.test\r\nsender: bob@a.test"]
)
def test_another_s_sender_becomes_the_author(sender: bytes) -> None:
    kept, header = read(b"Sender: " + sender + b"\r\n" + WHOLE + b"\r\nSender: text\r\n")
    assert kept == WHOLE + b"Sender: ada@a.test\r\n\r\nSender: text\r\n"
    assert header.refusal is None


def test_several_authors_need_a_sender() -> None:
    octets = b"From: ada@a.test, sales@a.test\r\nDate: now\r\nMessage-ID: <a@b>\r\n\r\nbody"
    kept, _ = read(octets)
    assert b"\r\nSender: ada@a.test\r\n\r\nbody" in kept


def test_a_header_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitted, "HEADER_OCTETS", 1000)
    octets = b"X: " + b"y" * 900 + b"\r\nX: " + b"y" * 900
    kept, header = read(octets, 100)
    assert kept == octets
    assert header.refusal is not None
    assert header.refusal.code == 552


def test_a_directory_that_cannot_be_read() -> None:
    def broken(address: Address) -> bool:
        raise OSError("disk on fire")

    header = read(b"From: ada@a.test\r\n\r\n", may_use=broken)[1]
    assert header.refusal is not None
    assert header.refusal.code == 451


def test_only_what_is_missing_is_added() -> None:
    kept = read(b"Date: then\r\n\r\n")[0]
    assert kept.startswith(b"Date: then\r\nMessage-ID: <")
    assert kept.count(b"Date:") == 1
