"""DSNs as a reader and the stdlib's parser see them."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Sequence
from dataclasses import replace
from email.message import EmailMessage, Message

import pytest

from mailserver.dispatch.bounce import Reporter
from mailserver.interfaces import Notice
from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.content import Content, MemoryContent
from mailserver.values.envelope import Entry, Envelope, Recipient, Waiting
from mailserver.values.outcome import Delayed, Delivered, Expanded, Failed, Outcome, Relayed
from mailserver.wire.seven_bit import in_seven_bits

ARRIVED, NOW, END = 1_790_000_000.0, 1_790_000_600.0, 1_790_432_000.0
ADA = Address("ada", "a.test")
HEADER = b"Received: from x\r\nFrom: ada@a.test\r\nSubject: hello\r\nMessage-ID: <1@a.test>\r\n"
CONTENT = HEADER + b"\r\nBody line\r\n.\r\nFrom here\r\n"


def recipient(
    number: int = 0, local: str = "bob", domain: str = "b.test", orcpt: str = "", notify: str = ""
) -> Recipient:
    address = Address(local, domain)
    return Recipient(number, address, address, orcpt, frozenset(notify.split()))


def entry(
    *recipients: Recipient,
    sender: Address = ADA,
    content: Content | bytes = CONTENT,
    ret: str = "",
    envid: str = "",
    smtputf8: bool = False,
) -> Entry:
    kept = MemoryContent(content) if isinstance(content, bytes) else content
    who = recipients or (recipient(),)
    return Entry(
        id=1_838_469_401_037_100_032,
        arrived=ARRIVED,
        envelope=Envelope(sender, who, smtputf8=smtputf8, ret=ret, envid=envid),
        waiting=tuple(Waiting(one) for one in who),
        content=kept,
    )


def failed(
    who: Recipient, status: str = "5.1.1", said: str = "550 5.1.1 No such user", mta: str = "mx.b.test"
) -> Failed:
    return Failed(recipient=who, status=status, diagnostic=said, remote_mta=mta)


def delayed(who: Recipient) -> Delayed:
    return Delayed(recipient=who, status="4.4.1", diagnostic="Connection refused", retry_at=NOW + 60)


def reporter() -> Reporter:
    return Reporter("mx.a.test", lambda arrived: arrived + 432_000)


def report(message: Entry, outcomes: Sequence[Outcome] | None = None) -> Notice:
    wanted = outcomes if outcomes is not None else [failed(w.recipient) for w in message.waiting]
    notice = reporter().report(message, wanted, NOW)
    assert notice is not None
    return notice


def parsed(notice: Notice) -> EmailMessage:
    message = email.message_from_bytes(notice.content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert message.defects == []
    for part in message.get_payload():
        assert part.defects == []
    return message


def parts(notice: Notice) -> list[Message]:
    payload = parsed(notice).get_payload()
    assert isinstance(payload, list)
    return payload


def blocks(notice: Notice) -> list[dict[str, str]]:
    """The fields of message/delivery-status: the message's, then each recipient's."""
    payload = parts(notice)[1].get_payload()
    if isinstance(payload, list):
        return [dict(block.items()) for block in payload if block.items()]
    return [dict(line.split(": ", 1) for line in b.splitlines()) for b in payload.split("\n\n") if b.strip()]


# -- the whole ---------------------------------------------------------------------------------


def test_envelope_and_header() -> None:
    notice = report(entry())
    assert notice.envelope.reverse_path == NULL_SENDER
    (to,) = notice.envelope.recipients
    assert (to.number, to.address) == (0, ADA)
    assert (notice.envelope.body, notice.envelope.smtputf8) == ("7BIT", False)
    message = parsed(notice)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@mx.a.test>"
    assert message["To"] == "ada@a.test"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Date"].datetime.timestamp() == NOW
    assert message["Message-ID"].startswith("<")
    assert message["Message-ID"].endswith("@mx.a.test>")
    assert message["Subject"] == "Your message could not be delivered"


def test_every_line_is_a_line_of_mail() -> None:
    notice = report(entry(recipient(orcpt="rfc822;" + "x" * 480), envid="e" * 100), None)
    assert notice.content.count(b"\n") == notice.content.count(b"\r\n") == notice.content.count(b"\r")
    assert max(map(len, notice.content.split(b"\r\n"))) <= 998


def test_two_reports_have_two_names_and_boundaries() -> None:
    one, two = parsed(report(entry())), parsed(report(entry()))
    assert one["Message-ID"] != two["Message-ID"]
    assert one.get_boundary() != two.get_boundary()


def test_the_boundary_is_not_in_the_message() -> None:
    words = iter(["first", "second"])
    notice = Reporter("mx.a.test", token=lambda: next(words)).report(
        entry(content=b"A: b\r\n\r\n--=_first--\r\n"), [failed(recipient())], NOW
    )
    assert notice is not None
    assert parsed(notice).get_boundary() == "=_second"
    assert len(parts(notice)) == 3


# -- the text ----------------------------------------------------------------------------------


def test_the_first_part_says_what_happened_and_what_to_do() -> None:
    text = parts(report(entry()))[0]
    assert text.get_content_type() == "text/plain"
    words = " ".join(str(text.get_payload()).split())
    assert "could not be delivered" in words
    assert "look for a typing mistake" in words
    assert "<bob@b.test>: mx.b.test answered: 550 5.1.1 No such user" in words


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        ("5.1.2", "does not exist"),
        ("5.1.10", "takes no mail"),
        ("5.2.2", "is full"),
        ("5.7.26", "by a rule of its own"),
        ("4.4.7", "for days"),
        ("5.0.0", "for the postmaster"),
        ("5.11.1", "for the postmaster"),
        ("5.70.1", "for the postmaster"),
    ],
)
def test_advice_fits_the_status(status: str, advice: str) -> None:
    who = recipient()
    text = str(parts(report(entry(who), [failed(who, status)]))[0].get_payload())
    assert advice in " ".join(text.split())


def test_the_sender_sees_the_address_that_was_written() -> None:
    who = Recipient(0, Address("secret", "b.test"), Address("sales", "a.test"))
    text = str(parts(report(entry(who), [failed(who)]))[0].get_payload())
    assert "<sales@a.test>" in text
    assert "secret" not in text


def test_a_text_of_many_recipients_ends() -> None:
    many = [recipient(n, f"user{n}") for n in range(1000)]
    notice = report(entry(*many))
    text = str(parts(notice)[0].get_payload())
    assert "and 900 more" in text
    assert len(blocks(notice)) == 1001


# -- delivery-status ---------------------------------------------------------------------------


def test_fields_of_a_failure() -> None:
    who = recipient(orcpt="rfc822;Bob+2BNews@b.test")
    message, one = blocks(report(entry(who, envid="QQ+3D7"), [failed(who)]))
    assert message == {
        "Reporting-MTA": "dns; mx.a.test",
        "Original-Envelope-Id": "QQ=7",
        "Arrival-Date": message["Arrival-Date"],
    }
    assert one == {
        "Original-Recipient": "rfc822; Bob+News@b.test",
        "Final-Recipient": "rfc822; bob@b.test",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.b.test",
        "Diagnostic-Code": "smtp; 550 5.1.1 No such user",
        "Last-Attempt-Date": one["Last-Attempt-Date"],
    }
    dates = [
        email.utils.parsedate_to_datetime(d).timestamp()
        for d in (message["Arrival-Date"], one["Last-Attempt-Date"])
    ]
    assert dates == [ARRIVED, NOW]


def test_our_own_words_are_not_called_smtp() -> None:
    who = recipient()
    _, one = blocks(report(entry(who), [failed(who, mta="", said="No such domain")]))
    assert one["Diagnostic-Code"] == "x-mailserver; No such domain"
    assert "Remote-MTA" not in one


def test_an_alias_shows_as_original_recipient() -> None:
    who = Recipient(0, Address("ada", "b.test"), Address("sales", "a.test"))
    _, one = blocks(report(entry(who), [failed(who)]))
    assert one["Original-Recipient"] == "rfc822; sales@a.test"


def test_one_report_for_all_that_failed_and_nobody_else() -> None:
    many = [recipient(n, f"user{n}") for n in range(4)]
    outcomes: list[Outcome] = [
        failed(many[0]),
        Delivered(recipient=many[1], status="2.0.0", diagnostic="ok"),
        delayed(many[2]),
        failed(many[3], "5.2.2"),
    ]
    _, *each = blocks(report(entry(*many), outcomes))
    assert [one["Final-Recipient"] for one in each] == ["rfc822; user0@b.test", "rfc822; user3@b.test"]


def test_a_status_nobody_could_read_is_replaced() -> None:
    who = recipient()
    _, one = blocks(report(entry(who), [failed(who, "5.1.1\r\nX: y")]))
    assert one["Status"] == "5.0.0"


@pytest.mark.parametrize(
    "evil", ["a\r\nFinal-Recipient: rfc822; x@y", "\x1b[2J\0\x07", "\u2028\x85x\u202e", "\udc80"]
)
def test_remote_text_is_one_printable_line(evil: str) -> None:
    who = recipient()
    notice = report(entry(who), [failed(who, said=f"550 {evil}", mta=f"mx{evil}")])
    _, one = blocks(notice)
    assert one["Final-Recipient"] == "rfc822; bob@b.test"
    text = notice.content.decode("utf-8")
    assert all(c.isprintable() or c in "\r\n\t" for c in text)
    assert not any(line.startswith("Final-Recipient: rfc822; x@y") for line in text.splitlines())


def test_remote_text_is_bounded() -> None:
    who = recipient()
    notice = report(entry(who), [failed(who, said="x" * 1_000_000)])
    assert len(notice.content) < 5000


# -- addresses of every alphabet ---------------------------------------------------------------


def test_addresses_outside_ascii() -> None:
    sender, who = Address("آدا", "örnek.test"), recipient(local="сад", domain="пошта.укр")
    notice = report(entry(who, sender=sender, smtputf8=True), [failed(who)])
    assert (notice.envelope.smtputf8, notice.envelope.body) == (True, "8BITMIME")
    second = parts(notice)[1]
    assert second.get_content_type() == "message/global-delivery-status"
    assert "Final-Recipient: utf-8; сад@пошта.укр\r\n".encode() in notice.content
    assert "To: <آدا@örnek.test>\r\n".encode() in notice.content


def test_orcpt_of_utf_8() -> None:
    who = recipient(orcpt=r"utf-8;\x{441}\x{430}\x{434}@b.test")
    assert "Original-Recipient: utf-8; сад@b.test\r\n".encode() in report(entry(who), [failed(who)]).content


def test_an_ascii_sender_needs_no_smtputf8() -> None:
    who = recipient(local="сад")
    notice = report(entry(who, smtputf8=True), [failed(who)])
    assert (notice.envelope.smtputf8, notice.envelope.body) == (False, "8BITMIME")


# -- what goes back ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ret", "size", "whole"),
    [
        ("", 1000, True),
        ("", 60_000, False),
        ("FULL", 60_000, True),
        ("FULL", 300_000, False),
        ("HDRS", 1000, False),
    ],
)
def test_ret_and_size_decide(ret: str, size: int, whole: bool) -> None:
    content = CONTENT + b"x" * 70 + b"\r\n"
    content += (b"y" * 70 + b"\r\n") * ((size - len(content)) // 72)
    notice = report(entry(content=content, ret=ret))
    assert (content in notice.content) == whole
    third = parts(notice)[2]
    assert third.get_content_type() == ("message/rfc822" if whole else "text/rfc822-headers")
    assert HEADER in notice.content
    assert (b"Body line" in notice.content) == whole


@pytest.mark.parametrize(
    ("content", "kind", "encoding"),
    [
        ("Subject: hi\r\n\r\nтіло\r\n", "message/rfc822", "8bit"),
        ("Subject: тема\r\n\r\nbody\r\n", "message/global", "8bit"),
        ("Subject: hi\r\n\r\nbody\r\n", "message/rfc822", "7bit"),
    ],
)
def test_type_and_encoding_of_the_returned_message(content: str, kind: str, encoding: str) -> None:
    notice = report(entry(content=content.encode()))
    third = parts(notice)[2]
    assert (third.get_content_type(), third["Content-Transfer-Encoding"]) == (kind, encoding)
    assert notice.envelope.body == ("7BIT" if encoding == "7bit" else "8BITMIME")


def test_headers_outside_ascii_alone() -> None:
    notice = report(entry(content="Subject: тема\r\n\r\nbody\r\n".encode(), ret="HDRS"))
    assert parts(notice)[2].get_content_type() == "message/global-headers"


@pytest.mark.parametrize(
    "content", [b"", b"no header end", b"\r\nbody", b"H: " + b"x" * 200_000 + b"\r\n\r\n"]
)
def test_odd_messages(content: bytes) -> None:
    for ret in ("FULL", "HDRS"):
        assert len(parts(report(entry(content=content, ret=ret)))) == 3


def test_a_message_without_header_gives_no_body_for_one() -> None:
    assert b"secret" not in report(entry(content=b"\r\nsecret\r\n\r\n", ret="HDRS")).content


def test_a_long_header_is_cut_between_lines() -> None:
    content = b"".join(b"X-%d: %s\r\n" % (n, b"v" * 90) for n in range(2000)) + b"\r\nbody\r\n"
    notice = report(entry(content=content, ret="HDRS"))
    assert 60_000 < len(notice.content) < 68_000
    last = notice.content.rsplit(b"\r\n\r\n--", 1)[0].rsplit(b"\r\n", 1)[1]
    assert last.startswith(b"X-")
    assert last.endswith(b"v" * 90)


class Vanished:
    size = 10

    def chunks(self) -> Sequence[bytes]:
        raise OSError("gone")


def test_content_that_cannot_be_read_is_left_out() -> None:
    assert len(parts(report(entry(content=Vanished())))) == 2  # type: ignore[arg-type]


# -- who is told -------------------------------------------------------------------------------


def test_a_null_sender_is_never_told() -> None:
    message = entry(sender=NULL_SENDER)
    (one,) = message.envelope.recipients
    assert reporter().report(message, [failed(one)], NOW) is None
    assert reporter().warning(message, [delayed(one)], NOW) is None


@pytest.mark.parametrize(
    ("notify", "of_failure", "of_delay"),
    [
        ("", True, True),
        ("NEVER", False, False),
        ("FAILURE", True, False),
        ("DELAY", False, True),
        ("SUCCESS", False, False),
        ("SUCCESS FAILURE DELAY", True, True),
    ],
)
def test_notify_decides(notify: str, of_failure: bool, of_delay: bool) -> None:
    who = recipient(notify=notify)
    assert (reporter().report(entry(who), [failed(who)], NOW) is not None) == of_failure
    assert (reporter().warning(entry(who), [delayed(who)], NOW) is not None) == of_delay


def test_nothing_failed_nothing_to_tell() -> None:
    who = recipient()
    assert reporter().report(entry(who), [delayed(who)], NOW) is None
    assert reporter().warning(entry(who), [failed(who)], NOW) is None


def test_a_warning() -> None:
    who = recipient()
    notice = reporter().warning(entry(who, ret="FULL"), [delayed(who)], NOW)
    assert notice is not None
    _, one = blocks(notice)
    assert (one["Action"], one["Status"]) == ("delayed", "4.4.1")
    assert email.utils.parsedate_to_datetime(one["Will-Retry-Until"]).timestamp() == END
    assert parts(notice)[2].get_content_type() == "text/rfc822-headers"
    assert "you need not do" in str(parts(notice)[0].get_payload())
    assert "delayed" in parsed(notice)["Subject"]


# -- success -----------------------------------------------------------------------------------


def in_mailbox(who: Recipient) -> Outcome:
    return Delivered(recipient=who, status="2.0.0", diagnostic="delivered to maildir", relay="maildir")


def relayed(who: Recipient, notifies: bool = False) -> Outcome:
    return Relayed(
        recipient=who, status="2.6.0", diagnostic="250 ok", remote_mta="mx.b.test", notifies=notifies
    )


def expanded(who: Recipient) -> Outcome:
    return Expanded(recipient=who, status="2.1.5", diagnostic="Expanded", relay="alias")


def successes(message: Entry, *outcomes: Outcome) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Subject, and action, status and final recipient of each block, of each report."""
    notices = reporter().successes(message, outcomes, NOW)
    return [
        (
            parsed(notice)["Subject"],
            [(b["Action"], b["Status"], b["Final-Recipient"]) for b in blocks(notice)[1:]],
        )
        for notice in notices
    ]


def test_each_kind_of_success_has_a_report_of_its_own() -> None:
    wants = [recipient(n, f"u{n}", notify="SUCCESS") for n in range(4)]
    wants.append(recipient(4, "all", notify="SUCCESS EXPANDED"))
    outcomes = [in_mailbox(wants[0]), relayed(wants[1]), in_mailbox(wants[2]), relayed(wants[3], True)]
    assert successes(entry(*wants), *outcomes, expanded(wants[4])) == [
        (
            "Your message was delivered",
            [("delivered", "2.0.0", "rfc822; u0@b.test"), ("delivered", "2.0.0", "rfc822; u2@b.test")],
        ),
        (
            "Your message was handed to a server that sends no reports",
            [("relayed", "2.6.0", "rfc822; u1@b.test")],
        ),
        ("Your message was sent on to the members of a list", [("expanded", "2.1.5", "rfc822; all@b.test")]),
    ]


@pytest.mark.parametrize("notify", ["", "NEVER", "FAILURE", "FAILURE DELAY"])
def test_success_is_told_only_to_those_who_ask(notify: str) -> None:
    who = recipient(notify=notify)
    assert successes(entry(who), in_mailbox(who), relayed(who), expanded(who)) == []


def test_the_null_sender_hears_nothing_of_success() -> None:
    who = recipient(notify="SUCCESS")
    assert successes(entry(who, sender=NULL_SENDER), in_mailbox(who)) == []


def test_a_failure_or_a_delay_is_no_success() -> None:
    who = recipient(notify="SUCCESS")
    assert successes(entry(who), failed(who), delayed(who)) == []


def test_a_report_of_success_has_the_header_only_and_what_the_client_named() -> None:
    who = recipient(notify="SUCCESS", orcpt="rfc822;Bob+2Bx@b.test")
    (notice,) = reporter().successes(entry(who, ret="FULL", envid="Q+2B1"), [in_mailbox(who)], NOW)
    assert parts(notice)[2].get_content_type() == "text/rfc822-headers"
    message, one = blocks(notice)
    assert message["Original-Envelope-Id"] == "Q+1"
    assert one["Original-Recipient"] == "rfc822; Bob+x@b.test"
    assert "Diagnostic-Code" not in one
    assert notice.envelope.reverse_path == NULL_SENDER


@pytest.mark.parametrize(("notify", "told"), [("", 1), ("FAILURE", 1), ("NEVER", 0)])
def test_a_trace_tells_of_every_relay(notify: str, told: int) -> None:
    who = recipient(notify=notify)
    message = entry(who)
    message = replace(message, envelope=replace(message.envelope, by_mode="NT", deliver_by=NOW + 60))
    assert len(successes(message, relayed(who, notifies=True))) == told
    assert successes(message, in_mailbox(who)) == []


def test_content_that_needs_tls_is_never_sent_back() -> None:
    message = entry(ret="FULL")
    message = replace(message, envelope=replace(message.envelope, require_tls=True))
    assert parts(report(message))[2].get_content_type() == "text/rfc822-headers"


# -- languages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "subject", "sentence"),
    [
        ("en", "Your message could not be delivered", "there is no mailbox of that name"),
        ("tr", "İletiniz teslim edilemedi", "bu adda bir posta kutusu yok"),
        ("fa", "پیام شما تحویل داده نشد", "صندوقی با این نام وجود ندارد"),
        ("uk", "Ваше повідомлення не вдалося доставити", "скриньки з таким іменем немає"),
    ],
)
def test_a_report_in_the_senders_language(language: str, subject: str, sentence: str) -> None:
    spoken = Reporter("mx.a.test", language_of=lambda sender: language)
    who = recipient()
    notice = spoken.report(entry(who), [failed(who)], NOW)
    assert notice is not None
    message = parsed(notice)
    assert message["Subject"] == subject
    first, second = message.get_payload()[:2]  # type: ignore[index]
    assert first["Content-Language"] == language
    text = first.get_content()
    words = " ".join(text.split())
    assert words.index(sentence) < words.index("bob@b.test") < words.index("550 5.1.1 No such user")
    assert first.get_content_charset() == ("us-ascii" if language == "en" else "utf-8")
    assert notice.envelope.body == ("7BIT" if language == "en" else "8BITMIME")
    # Programs read the same in all of them.
    assert second.get_content_type() == "message/delivery-status"
    assert blocks(notice)[1]["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user"


@pytest.mark.parametrize("language", ["tr", "fa", "uk"])
def test_warnings_and_successes_in_the_senders_language(language: str) -> None:
    spoken = Reporter("mx.a.test", lambda began: END, language_of=lambda sender: language)
    who = recipient(notify="SUCCESS DELAY")
    told = [
        spoken.warning(entry(who), [delayed(who)], NOW),
        *spoken.successes(entry(who), [relayed(who), in_mailbox(who), expanded(who)], NOW),
    ]
    assert len(told) >= 3
    for notice in told:
        assert notice is not None
        assert not parsed(notice)["Subject"].isascii()
        assert not parts(notice)[0].get_content().isascii()  # type: ignore[attr-defined]


def test_kinds_that_differ_are_told_with_each_recipient() -> None:
    many = [recipient(0), recipient(1, "full")]
    notice = report(entry(*many), [failed(many[0]), failed(many[1], "5.2.2", "552 5.2.2 Full")])
    words = " ".join(str(parts(notice)[0].get_payload()).split())
    assert "the reasons differ" in words
    assert "<bob@b.test>: There is no mailbox of that name" in words
    assert "<full@b.test>: The recipient's mailbox is full" in words


@pytest.mark.parametrize(
    ("status", "mta", "kind"),
    [
        ("5.7.0", "", "postmaster"),
        ("5.7.0", "mx.b.test", "rule of its own"),
        ("5.7.30", "", "not protected"),
        ("5.6.3", "", "the form"),
        ("5.3.4", "mx.b.test", "larger"),
        ("5.4.4", "", "typing mistake"),
    ],
)
def test_kinds_of_failure(status: str, mta: str, kind: str) -> None:
    who = recipient()
    text = str(parts(report(entry(who), [failed(who, status, mta=mta)]))[0].get_payload())
    assert kind in " ".join(text.split())


def test_a_language_that_cannot_be_known_costs_no_report() -> None:
    def broken(sender: Address) -> str:
        raise OSError("the directory is gone")

    who = recipient()
    notice = Reporter("mx.a.test", language_of=broken).report(entry(who), [failed(who)], NOW)
    assert notice is not None
    assert parsed(notice)["Subject"] == "Your message could not be delivered"


@pytest.mark.parametrize("language", ["tr", "fa", "uk"])
def test_a_report_outside_ascii_can_go_to_a_server_without_8bitmime(language: str) -> None:
    """Its sender may be anywhere, and a report that cannot be delivered is lost."""
    who = recipient()
    spoken = Reporter("mx.a.test", language_of=lambda sender: language)
    notice = spoken.report(entry(who), [failed(who)], NOW)
    assert notice is not None
    octets = in_seven_bits(notice.content)
    assert octets.isascii()
    plain = email.message_from_bytes(octets, policy=email.policy.default)
    before = parts(notice)[0].get_content()  # type: ignore[attr-defined]
    assert plain.get_payload()[0].get_content().split() == before.split()  # type: ignore[index]
    assert plain.get_payload()[1].get_content_type() == "message/delivery-status"  # type: ignore[index]
