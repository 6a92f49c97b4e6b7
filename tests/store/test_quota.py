"""Quotas on both formats: what fits, what does not, who is told, and Maildir++'s file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from mailserver.durable import Disk
from mailserver.interfaces import MailboxFull
from mailserver.store import maildirsize
from mailserver.store.mailstore import MailStore
from mailserver.store.quota import QuotaLimits
from mailserver.values.account import Account
from mailserver.values.address import Address
from mailserver.words import say
from tests.store.deliveries import ADA, SOON, content_of, deliver, delivery_of, opened

BOB = Account(Address("bob", "example.test"))


@contextmanager
def store_with(root: Path, format: str, quota: QuotaLimits) -> Iterator[MailStore]:
    store = MailStore(root, format, Disk(), "mx.example.test", patience=SOON, quota=quota)
    store.start()
    try:
        yield store
    finally:
        store.stop()


@pytest.fixture(params=["maildir", "mbox"])
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("refuse", [False, True])
def test_what_does_not_fit_is_not_delivered(tmp_path: Path, format: str, refuse: bool) -> None:
    with store_with(tmp_path, format, QuotaLimits(octets=5000, refuse=refuse)) as store:
        mailbox = store.mailbox(ADA)
        deliver(mailbox, delivery_of(1, content_of(1, b"x" * 3000)))
        with pytest.raises(MailboxFull, match="mailbox is full") as caught:
            mailbox.deliver(delivery_of(2, content_of(2, b"x" * 3000))).result(SOON)
        assert caught.value.refused is refuse
        deliver(mailbox, delivery_of(3))  # a short one still fits
        deliver(mailbox, delivery_of(1, content_of(1, b"x" * 3000), repeated=True))
        with opened(mailbox) as drop:
            assert len(drop.listings) == 2
            drop.mark(0)
            assert drop.commit() == 0
        deliver(mailbox, delivery_of(2, content_of(2, b"x" * 3000), repeated=True))


def test_messages_are_counted_and_rcpt_knows(tmp_path: Path, format: str) -> None:
    with store_with(tmp_path, format, QuotaLimits(messages=30)) as store:
        deliver(store.mailbox(ADA), *(delivery_of(n) for n in range(20)))
        assert not store.over_quota(ADA)
        deliver(store.mailbox(ADA), *(delivery_of(n) for n in range(20, 29)))
        eventually(lambda: store.over_quota(ADA))  # 29 and two notices
        with pytest.raises(MailboxFull):
            store.mailbox(ADA).deliver(delivery_of(99)).result(SOON)
    with store_with(tmp_path, format, QuotaLimits(messages=30)) as store:
        eventually(lambda: store.over_quota(ADA))
        assert not store.over_quota(BOB)


def test_a_notice_comes_once_for_each_step(tmp_path: Path, format: str) -> None:
    def subjects() -> list[bytes]:
        with opened(store.mailbox(ADA)) as drop:
            read = [b"".join(drop.read(n)) for n in range(len(drop.listings))]
        return [
            octets.split(b"Subject: ")[1].split(b"\r\n")[0] for octets in read if b"postmaster@mx" in octets
        ]

    with store_with(tmp_path, format, QuotaLimits(messages=100)) as store:
        deliver(store.mailbox(ADA), *(delivery_of(n) for n in range(79)))
        assert subjects() == []
        deliver(store.mailbox(ADA), delivery_of(80))
        eventually(lambda: subjects() == [b"Your mailbox is 80 % full"])
        deliver(store.mailbox(ADA), *(delivery_of(n) for n in range(81, 90)))
    with store_with(tmp_path, format, QuotaLimits(messages=100)) as store:
        deliver(store.mailbox(ADA), delivery_of(90))
        assert subjects() == [b"Your mailbox is 80 % full"]
        deliver(store.mailbox(ADA), *(delivery_of(n) for n in range(91, 96)))
        eventually(lambda: subjects()[1:] == [b"Your mailbox is 95 % full"])


def test_a_domain_and_a_user_of_its_own(tmp_path: Path, format: str) -> None:
    limits = QuotaLimits(octets=2000, named={"ada@example.test": 10_000, "@example.test": 9_000})
    with store_with(tmp_path, format, limits) as store:
        deliver(store.mailbox(ADA), delivery_of(1, content_of(1, b"x" * 8000)))
        with pytest.raises(MailboxFull, match="domain"):
            store.mailbox(BOB).deliver(delivery_of(2, content_of(2, b"x" * 1200))).result(SOON)
        deliver(
            store.mailbox(Account(Address("eve", "other.test"))), delivery_of(3, content_of(3, b"x" * 700))
        )


def test_the_file_of_maildir_is_kept_read_and_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "example.test" / "ada"
    file = folder / "maildirsize"
    with store_with(tmp_path, "maildir", QuotaLimits(octets=10_000, messages=50)) as store:
        deliver(store.mailbox(ADA), delivery_of(1), delivery_of(2))
        (folder / ".Sent" / "cur").mkdir(parents=True)
        (folder / ".Sent" / "cur" / "1.a,S=100:2,S").touch()
        (folder / ".Trash" / "cur").mkdir(parents=True)
        (folder / ".Trash" / "cur" / "1.a,S=9999:2,S").touch()
        file.unlink()
        deliver(store.mailbox(ADA), delivery_of(3))
        sizes = [p.stat().st_size for p in (folder / "new").iterdir()]
        assert file.read_text().splitlines()[0] == "10000S,50C"
        assert maildirsize.read(str(folder), "10000S,50C") == (sum(sizes) + 100, 4)
        with file.open("a") as other:  # another program delivers
            other.write("9500 1\n")
        with pytest.raises(MailboxFull):
            store.mailbox(ADA).deliver(delivery_of(4)).result(SOON)
        os.utime(file, (1, 1))  # old: count anew before refusing
        deliver(store.mailbox(ADA), delivery_of(4))
        with opened(store.mailbox(ADA)) as drop:
            drop.mark(0)
            assert drop.commit() == 0
        assert maildirsize.read(str(folder), "10000S,50C") == maildirsize.count(str(folder))


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"1S\n",
        b"10S\nx\n",
        b"10S\n1 2 3\n",
        b"10S\n1 1",
        b"10S\n-5 1\n",
        b"10S\n" + b"1 1\n" * 2000,
        b"\xff",
    ],
)
def test_a_file_that_cannot_be_trusted_is_counted_anew(tmp_path: Path, octets: bytes) -> None:
    (tmp_path / "maildirsize").write_bytes(octets)
    assert maildirsize.read(str(tmp_path), "10S") is None
    (tmp_path / "maildirsize").write_bytes(b"10S\n5 1\n-2 0\n")
    assert maildirsize.read(str(tmp_path), "10S") == (3, 1)


def test_an_account_s_own_quota_comes_before_the_configuration_s(tmp_path: Path, format: str) -> None:
    body = content_of(1, b"x" * 3000)
    with store_with(tmp_path, format, QuotaLimits(octets=1000)) as store:
        large, none = replace(ADA, quota=100_000), replace(ADA, quota=0)
        for account in (large, none):
            deliver(store.mailbox(account), delivery_of(1 if account is large else 2, body))
        with pytest.raises(MailboxFull):
            store.mailbox(ADA).deliver(delivery_of(3, body)).result(SOON)
        small = replace(ADA, quota=10)
        assert not store.over_quota(none)
        store.over_quota(small)
        eventually(lambda: store.over_quota(small))
        with opened(store.mailbox(ADA)) as drop:
            assert len(drop.listings) == 2


def test_an_account_s_quota_needs_none_in_the_configuration(tmp_path: Path, format: str) -> None:
    with store_with(tmp_path, format, QuotaLimits()) as store:
        with pytest.raises(MailboxFull):
            store.mailbox(replace(ADA, quota=10)).deliver(delivery_of(1)).result(SOON)
        deliver(store.mailbox(BOB), delivery_of(1))
        assert not store.over_quota(BOB)


@pytest.mark.parametrize("language", ["tr", "fa", "uk"])
def test_a_notice_in_the_owners_language(tmp_path: Path, language: str) -> None:
    ada = Account(Address("ada", "example.test"), language=language)
    with store_with(tmp_path, "maildir", QuotaLimits(messages=10)) as store:
        deliver(store.mailbox(ada), *(delivery_of(n) for n in range(8)))

        def notices() -> list[bytes]:
            with opened(store.mailbox(ada)) as drop:
                read = [b"".join(drop.read(n)) for n in range(len(drop.listings))]
            return [octets for octets in read if f"Content-Language: {language}\r\n".encode() in octets]

        eventually(lambda: len(notices()) == 1)
        header, _, body = notices()[0].partition(b"\r\n\r\n")
        assert header.isascii()
        subject = say(language, "quota.subject", percent=80)
        assert str(message_from_bytes(notices()[0], policy=policy.default)["Subject"]) == subject
        assert "80" in body.decode()
        assert not body.isascii()
