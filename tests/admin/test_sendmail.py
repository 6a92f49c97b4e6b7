"""sendmail's options and what is mended in a program's message."""

import io

import pytest

from mailserver.admin.operator import Refusal
from mailserver.admin.sendmail import Head, Options, parse, read_message
from mailserver.values.address import Address

ADA = Address("ada", "a.test")


def test_options() -> None:
    found = parse(["-t", "-i", "-fada@a.test", "-F", "Ada L", "-oem", "-v", "bob@b.test", "--", "-x"])
    assert (found.from_header, found.dot_ends) == (True, False)
    assert (found.sender, found.name) == ("ada@a.test", "Ada L")
    assert found.recipients == ["bob@b.test", "-x"]
    assert parse(["-f", "", "-oi"]).sender == ""
    assert not parse(["-ti"]).dot_ends
    assert (parse(["-bs"]).mode, parse(["-q"]).flush, parse(["-q30m"]).flush) == ("s", True, True)
    for wrong in (["-bd"], ["-f"]):
        with pytest.raises(Refusal):
            parse(wrong)


def test_a_dot_ends_only_without_i() -> None:
    assert read_message(io.BytesIO(b"a\n.\nb\n"), True) == b"a\n"
    assert read_message(io.BytesIO(b"a\n.\nb\n"), False) == b"a\n.\nb\n"


def test_the_header() -> None:
    head = Head(b"To: Bob <bob@b.test>,\n carol@c.test\nBcc: dan@d.test\n\nhi\n")
    assert head.recipients == ["bob@b.test", "carol@c.test", "dan@d.test"]
    told = head.completed(ADA, Options(name="Ada"), "mx.a.test")
    fields, _, body = told.partition(b"\n\n")
    assert b"To: Bob <bob@b.test>,\n carol@c.test\n" in fields
    assert b"dan@d.test" not in fields
    assert b'From: "Ada" <ada@a.test>' in fields
    assert b"\nDate: " in fields
    assert b"@mx.a.test>" in fields
    assert body == b"hi\n"


def test_text_without_a_header() -> None:
    told = Head(b"just text\nmore\n").completed(ADA, Options(name="A"), "mx")
    assert told.partition(b"\n\n")[2] == b"just text\nmore\n"
    assert Head(b"").completed(ADA, Options(name="A"), "mx").startswith(b"From: ")
