"""What every ``ISpool`` owes, wherever it keeps its messages.

A provider joins by adding to ``PROVIDERS`` a function that builds and starts it in a folder, as
often as it is asked for the same folder, and one that stops it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from mailserver.durable import Disk
from mailserver.interfaces import ISpool, ISpoolWriter, Notice, SpoolUnavailable
from mailserver.spool.sqlite import SqliteSpool
from mailserver.values.address import NULL_SENDER, Address, domain_key
from mailserver.values.envelope import Entry, Envelope, Recipient
from tests.spool.letters import WAIT, delayed, delivered, due, envelope, failed, octets_of, spooled


def sqlite(folder: Path) -> SqliteSpool:
    spool = SqliteSpool(folder, Disk())
    spool.start()
    return spool


PROVIDERS = {"sqlite": (sqlite, SqliteSpool.stop)}


class House:
    """A spool that can be stopped and started again."""

    def __init__(self, start: Callable[[Path], ISpool], stop: Callable[[ISpool], None], folder: Path) -> None:
        self._start, self._stop, self._folder = start, stop, folder
        self.spool = start(folder)

    def restart(self) -> ISpool:
        self.close()
        self.spool = self._start(self._folder)
        return self.spool

    def close(self) -> None:
        self._stop(self.spool)


@pytest.fixture(params=PROVIDERS)
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    house = House(*PROVIDERS[request.param], tmp_path / "spool")
    yield house
    house.close()


@pytest.fixture
def spool(house: House) -> ISpool:
    return house.spool


SIZES = [0, 1, 65536, 65537, 256 * 1024, 256 * 1024 + 1, 1_500_000]


def test_the_interface_is_whole(spool: ISpool) -> None:
    verifyObject(ISpool, spool)
    verifyObject(ISpoolWriter, spool.begin())


def begun(spool: ISpool, octets: bytes) -> ISpoolWriter:
    writer = spool.begin()
    writer.write(octets)
    return writer


def unkept(writer: ISpoolWriter) -> Entry:
    early = writer.entry(envelope())
    entry = early.result(WAIT) if isinstance(early, Future) else early
    assert entry is not None
    return entry


@pytest.mark.parametrize("size", SIZES)
def test_an_entry_before_its_commit_is_the_one_that_the_commit_gives(spool: ISpool, size: int) -> None:
    writer = begun(spool, b"e" * size)
    early = unkept(writer)
    assert early.content.size == size
    assert octets_of(early) == b"e" * size
    kept = writer.commit(envelope()).result(WAIT)
    assert (kept.id, kept.envelope, kept.waiting) == (early.id, early.envelope, early.waiting)
    assert octets_of(kept) == b"e" * size


@pytest.mark.parametrize("size", SIZES)
def test_an_entry_that_is_not_committed_leaves_nothing(house: House, size: int) -> None:
    writer = begun(house.spool, b"e" * size)
    unkept(writer)
    writer.abort()
    assert writer.entry(envelope()) is None
    assert not due(house.restart())


@pytest.mark.parametrize("size", SIZES)
def test_content_comes_back_as_it_was_also_after_a_restart(house: House, size: int) -> None:
    octets = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    entry = spooled(house.spool, octets)
    assert entry.content.size == size
    assert octets_of(entry) == octets
    assert octets_of(entry) == octets  # any number of times
    (again,) = due(house.restart())
    assert (again.id, again.content.size) == (entry.id, size)
    assert octets_of(again) == octets


def test_envelope_survives_a_restart(house: House) -> None:
    addresses = (
        Address('ünlü "x\\', "örnek.test"),
        Address("сад", "пошта.укр"),
        Address("a" * 64, "[192.0.2.1]"),
    )
    sent = Envelope(
        reverse_path=Address("آدا", "a.test"),
        recipients=(
            Recipient(0, addresses[0], addresses[1], "utf-8;x+2By", frozenset({"DELAY", "FAILURE"})),
            Recipient(1, addresses[1], addresses[1], "", frozenset({"NEVER"})),
            Recipient(2, addresses[2], addresses[0]),
        ),
        body="8BITMIME",
        smtputf8=True,
        ret="HDRS",
        envid="Q+3D",
        require_tls=True,
        tls_optional=True,
        deliver_by=1_790_000_000.25,
        by_mode="RT",
        priority=-4,
        auth="zoe@örnek.test",
    )
    entry = spooled(house.spool, what=sent)
    assert entry.envelope == sent
    (again,) = due(house.restart())
    assert again.envelope == sent
    assert [w.recipient for w in again.waiting] == list(sent.recipients)
    assert again.arrived == entry.arrived


def test_an_entry_is_recovered_only_after_a_restart(house: House) -> None:
    entry = spooled(house.spool)
    assert not entry.recovered
    house.spool.give_back(entry).result(WAIT)
    assert [e.recovered for e in due(house.spool)] == [False]
    assert [e.recovered for e in due(house.restart())] == [True]


def test_numbers_increase_and_never_come_back(house: House) -> None:
    numbers = [house.spool.begin().id for _ in range(1000)]
    kept = spooled(house.spool)
    house.spool.record(kept, [delivered(kept.waiting[0])]).result(WAIT)
    later = [house.restart().begin().id for _ in range(3)]  # though nothing is committed in between
    everything = [*numbers, kept.id, *later]
    assert everything == sorted(set(everything))
    assert 0 < everything[0] < everything[-1] < 2**63


def test_what_is_leased_is_not_due(spool: ISpool) -> None:
    entry = spooled(spool)
    assert len(due(spool)) == 0
    assert spool.next_due().result(WAIT) is None
    spool.record(entry, [delayed(entry.waiting[0], 500.0)]).result(WAIT)
    assert len(due(spool, now=499.0)) == 0
    assert spool.next_due().result(WAIT) == 500.0
    assert [e.id for e in due(spool, now=500.0)] == [entry.id]
    assert len(due(spool, now=501.0)) == 0


def test_nothing_is_kept_of_an_aborted_message(house: House) -> None:
    for octets in (b"x", b"x" * 600_000):
        writer = house.spool.begin()
        writer.write(octets)
        writer.abort()
        writer.abort()
        with pytest.raises(SpoolUnavailable):
            writer.commit(envelope()).result(WAIT)
    assert len(due(house.restart())) == 0


def test_abort_after_commit_is_harmless(house: House) -> None:
    for octets in (b"x", b"x" * 600_000):
        writer = house.spool.begin()
        writer.write(octets)
        future = writer.commit(envelope())
        writer.abort()
        assert octets_of(future.result(WAIT)) == octets
    assert [e.content.size for e in due(house.restart())] == [1, 600_000]


def test_recipients_have_fates_of_their_own(house: House) -> None:
    entry = spooled(house.spool, what=envelope(3))
    one, two, three = entry.waiting
    house.spool.record(entry, [delivered(one)]).result(WAIT)
    house.spool.record(entry, [failed(two), delayed(three, 7.0, "saat geç, ü", warned=True)]).result(WAIT)
    (again,) = due(house.restart(), now=7.0)
    (left,) = again.waiting
    assert left.recipient == three.recipient
    assert (left.attempts, left.reason, left.warned) == (1, "saat geç, ü", True)
    house.spool.record(again, [delayed(left, 9.0, "still")]).result(WAIT)
    (again,) = due(house.spool, now=9.0)
    assert (again.waiting[0].attempts, again.waiting[0].reason, again.waiting[0].warned) == (2, "still", True)


@pytest.mark.parametrize("size", [10, 300_000])
def test_an_entry_goes_with_its_last_recipient(house: House, size: int) -> None:
    entry = spooled(house.spool, b"x" * size, envelope(2))
    house.spool.record(entry, [delivered(entry.waiting[0])]).result(WAIT)
    assert octets_of(entry) == b"x" * size
    house.spool.record(entry, [failed(entry.waiting[1])]).result(WAIT)
    assert len(due(house.restart())) == 0


def test_notices_are_spooled_with_the_outcomes(house: House) -> None:
    entry = spooled(house.spool)
    to = entry.envelope.reverse_path
    notice = Notice(Envelope(NULL_SENDER, (Recipient(0, to, to),)), b"Subject: sorry\r\n\r\n")
    (report,) = house.spool.record(entry, [failed(entry.waiting[0])], [notice]).result(WAIT)
    assert report.id > entry.id
    assert octets_of(report) == notice.content
    assert len(due(house.spool)) == 0  # leased to us
    (again,) = due(house.restart())
    assert (again.id, again.envelope, octets_of(again)) == (report.id, notice.envelope, notice.content)


def test_due_gives_the_oldest_first_and_no_more_than_asked(spool: ISpool) -> None:
    entries = [spooled(spool) for _ in range(5)]
    for when, entry in zip((50.0, 10.0, 30.0, 20.0, 40.0), entries, strict=True):
        spool.record(entry, [delayed(entry.waiting[0], when)]).result(WAIT)
    order = [entries[n].id for n in (1, 3, 2, 4, 0)]
    assert [e.id for e in due(spool, limit=2)] == order[:2]
    assert [e.id for e in due(spool, limit=2)] == order[2:4]
    assert [e.id for e in due(spool, now=49.0, limit=9)] == []
    assert [e.id for e in due(spool, limit=9)] == order[4:]


def test_an_entry_is_gone_when_nobody_waits(spool: ISpool) -> None:
    entry = spooled(spool, what=envelope(2))
    spool.record(entry, [delivered(entry.waiting[0])]).result(WAIT)
    assert spool.is_gone(entry.id).result(WAIT) is False
    spool.record(entry, [delivered(entry.waiting[1])]).result(WAIT)
    assert spool.is_gone(entry.id).result(WAIT) is True


def test_give_back_makes_due_at_once_but_only_what_is_leased(spool: ISpool) -> None:
    entry = spooled(spool, what=envelope(3))
    spool.record(entry, [delivered(entry.waiting[0]), delayed(entry.waiting[1], 1e11)]).result(WAIT)
    spool.give_back(entry).result(WAIT)
    (again,) = due(spool, now=1.0)
    assert [w.recipient.number for w in again.waiting] == [2]
    assert again.waiting[0].attempts == 0
    assert spool.next_due().result(WAIT) == 1e11


def test_a_message_to_very_many_comes_in_pieces(house: House) -> None:
    count = 2500
    spooled(house.spool, what=envelope(count))
    small = spooled(house.spool)
    spool = house.restart()
    seen: list[int] = []
    sizes: list[int] = []
    small_in_page = 0
    for page in range(1, 6):
        for entry in due(spool):
            if entry.id == small.id:
                small_in_page = page
                continue
            sizes.append(len(entry.waiting))
            seen += [w.recipient.number for w in entry.waiting]
            assert tuple(w.recipient for w in entry.waiting) == entry.envelope.recipients
    assert seen == list(range(count))
    assert max(sizes) <= 1000
    assert small_in_page == 1  # nobody waits behind it


def test_many_sessions_at_once(house: House) -> None:
    futures = []
    for n in range(300):
        writer = house.spool.begin()
        writer.write(b"%d" % n)
        futures.append((writer.id, writer.commit(envelope())))
    entries = [future.result(WAIT) for _, future in futures]
    assert [entry.id for entry in entries] == [number for number, _ in futures]
    records = [house.spool.record(e, [delivered(e.waiting[0])]) for e in entries[::2]]
    for record in records:
        record.result(WAIT)
    left = due(house.restart(), limit=1000)
    assert [octets_of(e) for e in left] == [b"%d" % n for n in range(1, 300, 2)]


@pytest.mark.parametrize("local", ["nul\0", "half\udc80"])
def test_an_address_that_cannot_be_kept_hurts_nobody_else(house: House, local: str) -> None:
    good = [house.spool.begin() for _ in range(2)]
    first = good[0].commit(envelope())
    address = Address(local, "b.test")
    bad = house.spool.begin().commit(Envelope(NULL_SENDER, (Recipient(0, address, address),)))
    second = good[1].commit(envelope())
    with pytest.raises(SpoolUnavailable):
        bad.result(WAIT)
    assert [first.result(WAIT).id, second.result(WAIT).id] == [writer.id for writer in good]


@pytest.mark.parametrize("text", ["nul\0 and \x1b[31m", "half \udc80", "\\u0000", "x" * 100_000])
def test_a_reason_is_always_kept(house: House, text: str) -> None:
    entry = spooled(house.spool)
    house.spool.record(entry, [delayed(entry.waiting[0], 1.0, text)]).result(WAIT)
    (again,) = due(house.restart())
    assert again.waiting[0].reason[:4] == text[:4].replace("\0", "?")
    assert len(again.waiting[0].reason) <= 1000


def test_a_stopped_spool_takes_nothing(house: House) -> None:
    writer = house.spool.begin()
    large = house.spool.begin()
    large.write(b"x" * 600_000)
    entry = spooled(house.spool)
    house.close()
    with pytest.raises(SpoolUnavailable):
        writer.commit(envelope()).result(WAIT)
    with pytest.raises(SpoolUnavailable):
        large.commit(envelope()).result(WAIT)
    with pytest.raises(SpoolUnavailable):
        house.spool.record(entry, [delivered(entry.waiting[0])]).result(WAIT)
    assert [e.id for e in due(house.restart())] == [entry.id]


def test_stop_finishes_what_was_handed_over(house: House) -> None:
    writer = house.spool.begin()
    for _ in range(20):
        writer.write(b"x" * 100_000)
    large = writer.commit(envelope())
    small = [house.spool.begin().commit(envelope()) for _ in range(50)]
    house.close()
    assert large.done()
    assert all(future.done() for future in small)
    assert len(due(house.restart())) == 51


@pytest.mark.parametrize("size", [10, 300_000])
def test_an_entry_with_a_release_time_is_nobodys_until_then(house: House, size: int) -> None:
    sent = replace(envelope(2), release_at=5000.5)
    entry = spooled(house.spool, b"x" * size, sent)
    assert (entry.envelope, len(entry.waiting)) == (sent, 2)
    for restarted in (False, True):  # no start makes it due sooner
        spool = house.restart() if restarted else house.spool
        assert spool.next_due().result(WAIT) == 5000.5
        assert not due(spool, now=5000.0)
    (again,) = due(house.spool, now=5001.0)
    assert (again.id, again.envelope) == (entry.id, sent)
    assert not due(house.spool)  # leased now, as any other


@pytest.mark.parametrize("release_at", [0.0, 5000.0])
def test_a_held_entry_is_never_due(house: House, release_at: float) -> None:
    spooled(house.spool, what=replace(envelope(), hold="over its limit", release_at=release_at))
    for restarted in (False, True):
        spool = house.restart() if restarted else house.spool
        assert spool.next_due().result(WAIT) is None
        assert not due(spool)


def test_notices_may_be_kept_back_too(spool: ISpool) -> None:
    entry = spooled(spool)
    notices = [Notice(replace(envelope(), release_at=900.0), b"later"), Notice(envelope(), b"now")]
    later, now = spool.record(entry, [delivered(entry.waiting[0])], notices).result(WAIT)
    assert [octets_of(e) for e in (later, now)] == [b"later", b"now"]
    assert [e.id for e in due(spool)] == [later.id]


def test_a_hold_with_strange_words_is_refused_or_kept(house: House) -> None:
    with pytest.raises(SpoolUnavailable):
        spooled(house.spool, what=replace(envelope(), hold="a\0b"))
    spooled(house.spool, what=replace(envelope(), hold='"çok" \\ mesaj'))
    assert not due(house.spool)


def test_what_is_more_urgent_comes_back_first(house: House) -> None:
    entries = [spooled(house.spool, what=replace(envelope(), priority=p)) for p in (0, -3, 9, 0, 4)]
    urgent_first = [entries[n].id for n in (2, 4, 0, 3, 1)]
    for entry in entries:
        house.spool.give_back(entry).result(WAIT)
    assert [e.id for e in due(house.spool)] == urgent_first
    assert [e.id for e in due(house.restart())] == urgent_first


def test_a_domains_waiting_mail_can_be_made_due(spool: ISpool) -> None:
    tried, other, international, large = (
        spooled(spool, what=envelope(2, domain)) for domain in ("B.test", "c.test", "пошта.укр", "b.test")
    )
    for entry in (tried, other, international, large):
        spool.record(entry, [delayed(w, 5e9) for w in entry.waiting]).result(WAIT)
    spooled(spool, what=replace(envelope(), release_at=6e9))
    spooled(spool, what=replace(envelope(), hold="why"))
    leased = spooled(spool)
    assert spool.expedite("b.test").result(WAIT) == 2
    assert {e.id for e in due(spool, now=10.0)} == {tried.id, large.id}
    assert spool.expedite(domain_key("пошта.укр")).result(WAIT) == 1
    assert {e.id for e in due(spool, now=10.0)} == {international.id}
    assert spool.expedite("nobody.test").result(WAIT) == 0
    assert leased.waiting
