"""Paths and xtext: what is accepted, what is refused, and that hostile input costs little."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.values.address import NULL_SENDER, Address
from mailserver.wire import grammar
from mailserver.wire.grammar import Malformed


def parse(text: str | bytes) -> Address:
    octets = text if isinstance(text, bytes) else text.encode()
    found = grammar.path(b"TO:" + octets, b"TO:")
    assert found is not None
    return found.address


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("<ada@example.test>", "ada", "example.test"),
        (" <ada@example.test>", "ada", "example.test"),
        ("   <Ada.Lovelace@Example.TEST>", "Ada.Lovelace", "Example.TEST"),
        ("ada@example.test", "ada", "example.test"),
        (" ada@example.test", "ada", "example.test"),
        ("<a!#$%&'*+/=?^_`{|}~-z@a-b.c--d.e>", "a!#$%&'*+/=?^_`{|}~-z", "a-b.c--d.e"),
        ("<a@b_c.test>", "a", "b_c.test"),
        ("<a@" + "b" * 63 + ".c>", "a", "b" * 63 + ".c"),
        ("<" + "l" * 64 + "@example.test>", "l" * 64, "example.test"),
        ('<"a b"@c.test>', "a b", "c.test"),
        (r'<"a\"\\\@b"@c.test>', r'a"\@b', "c.test"),
        ('<"a@evil.test"@c.test>', "a@evil.test", "c.test"),
        ('<"a"@c.test>', "a", "c.test"),
        ("<a@[192.0.2.1]>", "a", "[192.0.2.1]"),
        ("<a@[IPv6:2001:db8::1]>", "a", "[IPv6:2001:db8::1]"),
        ("<a@[ipv6:::ffff:192.0.2.1]>", "a", "[ipv6:::ffff:192.0.2.1]"),
        ("<a@1.2.3.4>", "a", "1.2.3.4"),
        ("<@relay.test:a@c.test>", "a", "c.test"),
        ("<@one.test,@two.test,@[192.0.2.1]:a@c.test>", "a", "c.test"),
        ("<Postmaster>", "Postmaster", ""),
        ("POSTMASTER", "POSTMASTER", ""),
        ("<іван@пошта.укр>", "іван", "пошта.укр"),
        ("<gül@türk.test>", "gül", "türk.test"),
        ("<gu\u0308l@c.test>", "gül", "c.test"),
        ('<"سلام دنیا"@نمونه.test>', "سلام دنیا", "نمونه.test"),
    ],
)
def test_accepted(text: str, local: str, domain: str) -> None:
    assert parse(text) == Address(local, domain)


def test_null_sender() -> None:
    assert parse("<>") == NULL_SENDER
    assert grammar.path(b"from:<> SIZE=1", b"FROM:") == (NULL_SENDER, b"SIZE=1")


@pytest.mark.parametrize(
    "text",
    [
        "<ada>",
        "<ada@>",
        "<@example.test>",
        "<ada@example.test",
        "ada@example.test>",
        "<<ada@example.test>>",
        "<ada@example.test>SIZE=1",
        "Ada <ada@example.test>",
        "<ada@example.test,bob@example.test>",
        "<a@b@c.test>",
        "<a..b@c.test>",
        "<.a@c.test>",
        "<a.@c.test>",
        "<a@.c.test>",
        "<a@c.test.>",
        "<a@c..test>",
        "<a@-c.test>",
        "<a@c-.test>",
        "<a@c.-test>",
        "<a@" + "b" * 64 + ".c>",
        "<" + "l" * 65 + "@c.test>",
        '<"' + "l" * 65 + '"@c.test>',
        "<a@" + ".".join(["b" * 63] * 4) + ".c>",
        "<@" + "r" * 63 + ".test,@" + "s" * 63 + ".test,@" + "t" * 63 + ".test:" + "l" * 60 + "@c.test>",
        "a" * 64 + "@" + ".".join(["b" * 47] * 4),
        '<""@c.test>',
        '<"a@c.test>',
        '<"a"b@c.test>',
        '<"a".b@c.test>',
        '<"a"',
        '<"a\\"@c.test>',
        "<a b@c.test>",
        "<a@c test>",
        "<(comment)a@c.test>",
        "<a@[192.0.2.256]>",
        "<a@[192.0.2.01]>",
        "<a@[192.0.2.1>",
        "<a@192.0.2.1]>",
        "<a@[IPv6:fe80::1%eth0]>",
        "<a@[IPv6:1:2]>",
        "<a@[tag:content]>",
        "<a@[]>",
        "<@relay.test a@c.test>",
        "<@:a@c.test>",
        "<@relay.test;@two.test:a@c.test>",
        "<postmaster@>",
        "<\u00ada@c\u2028d.test>",
        "<a\u0085b@c.test>",
        "<a\u2029b@c.test>",
        "<a\u202eb@c.test>",
        "<a@c\uff20d.test>",
        "<a@\u2603\ufe0f\u200d.test>",
        b"<a\xff@c.test>",
        b"<a\xc0\xaf@c.test>",
        b"<\xed\xa0\x80@c.test>",
    ],
)
def test_refused(text: str | bytes) -> None:
    with pytest.raises(Malformed):
        parse(text)


@pytest.mark.parametrize("argument", [b"", b"TO", b"TO:", b"TO: ", b"FROM:<a@b>", b"<a@b>", b"TO <a@b>"])
def test_keyword_missing_or_nothing_behind_it(argument: bytes) -> None:
    assert grammar.path(argument, b"TO:") is None


def test_what_follows_is_given_back() -> None:
    assert grammar.path(b"FROM:<a@b.c>  SIZE=1  BODY=7BIT", b"FROM:") == (
        Address("a", "b.c"),
        b"SIZE=1  BODY=7BIT",
    )
    assert grammar.path(b"from: a@b.c SIZE=1", b"FROM:") == (Address("a", "b.c"), b"SIZE=1")
    assert grammar.path(b'FROM:<"a>b"@b.c> SIZE=1', b"FROM:") == (Address("a>b", "b.c"), b"SIZE=1")


@given(st.from_regex(r"<[a-z.\-]{1,70}@[a-z0-9_.\-]{1,80}>( [A-Z=]{1,5})?", fullmatch=True))
def test_the_short_way_agrees_with_the_long_one(text: str) -> None:
    octets = text.encode()

    def outcome(parse: object) -> object:
        try:
            return parse()  # type: ignore[operator]
        except Malformed:
            return None

    assert outcome(lambda: grammar.path(b"TO:" + octets, b"TO:")) == outcome(
        lambda: grammar._any_path(octets)
    )


@given(st.binary(max_size=300))
def test_any_octets_are_a_path_or_malformed(octets: bytes) -> None:
    octets = bytes(octet for octet in octets if octet >= 0x20 and octet != 0x7F)
    for text in (octets, b"<" + octets + b">", b'<"' + octets + b'"@c.test>', b"<a@" + octets + b">"):
        try:
            found = grammar.path(b"TO:" + text, b"TO:")
        except Malformed:
            continue
        if found is not None:
            shown = str(found.address)
            assert "\r" not in shown
            assert "\n" not in shown
            assert len(found.address.local.encode()) <= 3 * 64


@given(st.text(alphabet='abc"\\@ <>.іü', min_size=1, max_size=30))
def test_a_parsed_address_is_written_so_that_it_parses_again(local: str) -> None:
    quoted = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
    address = parse(f"<{quoted}@c.test>")
    assert address.local == local
    assert parse(f"<{address}>") == address


HOSTILE = [
    "<" + '"' * 12000,
    '<"' + "\\" * 12000,
    '<"' + '\\"' * 6000 + '"@c.test>',
    "<" + "a." * 6000 + "@c.test>",
    "<a@" + "a." * 6000 + ">",
    "<a@" + "a-" * 6000 + ">",
    "<a@" + "-" * 12000 + ">",
    "<" + "@a," * 4000 + ":a@b>",
    "<@a" + ",@a" * 4000 + ":a@b>",
    "<a@[" + "1." * 6000 + "]>",
    "<a@[IPv6:" + ":" * 12000 + "]>",
    "<" + "(" * 12000,
    "<" + "ü" * 6000 + "@c.test>",
    "<a@" + "ü" * 6000 + ">",
    "<a@" + "\u0308" * 100 + ".test>",
    " " * 12000,
    "a" * 12000,
    "<a@b>" + " " * 12000 + "x",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_addresses_end(text: str) -> None:
    """Made 32 times as long, so that a parser that is not linear keeps the whole run waiting."""
    middle = len(text) // 2
    octets = (text[:middle] + text[2:middle] * 63 + text[middle:]).encode()
    try:
        grammar.path(b"TO:" + octets, b"TO:")
    except Malformed:
        pass


@pytest.mark.parametrize("octets", [b"abc", b"a+2Bb", b"+20", b"+7E", b"!*,-<>~"])
def test_xtext(octets: bytes) -> None:
    assert grammar.is_xtext(octets)


@pytest.mark.parametrize(
    "octets", [b"", b"a b", b"a=b", b"a+b", b"+2b", b"+0D+0A", b"+7F", b"+80", b"+", b"a\xc3\xbc"]
)
def test_not_xtext(octets: bytes) -> None:
    assert not grammar.is_xtext(octets)


def test_utf8_in_xtext() -> None:
    assert grammar.is_xtext("gül@türk.test".encode(), utf8=True)
    assert not grammar.is_xtext(b"g\xff", utf8=True)
    assert not grammar.is_xtext("a\u2028b".encode(), utf8=True)
    assert not grammar.is_xtext("a ü".encode(), utf8=True)


def test_from_xtext() -> None:
    assert grammar.from_xtext(b"a+2Bb+3Dc@d.test") == "a+b=c@d.test"


def test_mailbox_is_the_whole_text() -> None:
    assert grammar.mailbox(b"a@b.test") == Address("a", "b.test")
    with pytest.raises(Malformed):
        grammar.mailbox(b"a@b.test>")
