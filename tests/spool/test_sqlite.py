"""The embedded spool: files, memory, full disks, damaged rows; ``tests/contracts`` has the rest."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from textwrap import dedent

import pytest

from mailserver.durable import Disk, DurableFile
from mailserver.group_commit import GroupCommit
from mailserver.interfaces import SpoolFull, SpoolUnavailable
from mailserver.spool import writer as writer_module
from mailserver.spool.bodies import _THREADS as THREADS
from mailserver.spool.numbers import SpoolNumbers
from mailserver.spool.schema import SpoolUnusable
from mailserver.spool.sqlite import SqliteSpool
from mailserver.values.address import Address
from mailserver.values.envelope import Entry, Envelope, Recipient
from tests.spool.letters import WAIT, delayed, delivered, due, envelope, octets_of, spooled
from tests.turns import Turns

LARGE = b"x" * 600_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large content goes to a file as it comes."""
    monkeypatch.setattr(writer_module, "HELD_IN_ALL", 0)


@pytest.fixture
def spool(folder: Path) -> Iterator[SqliteSpool]:
    spool = started(folder)
    yield spool
    spool.stop()


def started(folder: Path, disk: Disk | None = None, worker: int = 0) -> SqliteSpool:
    spool = SqliteSpool(folder, disk or Disk(), worker)
    spool.start()
    return spool


def bodies(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "bodies-0"))


# -- files -------------------------------------------------------------------------------------


def test_nobody_else_may_read(spool: SqliteSpool, folder: Path) -> None:
    spooled(spool, LARGE)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 4  # database, log, lock, body
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (folder, folder / "bodies-0")} == {0o700}


def test_construction_touches_nothing(folder: Path) -> None:
    SqliteSpool(folder, Disk()).stop()
    assert not folder.exists()


def test_a_spool_serves_one_process(spool: SqliteSpool, folder: Path) -> None:
    with pytest.raises(SpoolUnusable, match="another server"):
        started(folder)
    started(folder, worker=1).stop()


def test_two_workers_never_give_the_same_number(folder: Path) -> None:
    spools = [started(folder, worker=n) for n in (0, 1, 1023)]
    numbers = [spool.begin().id for _ in range(100) for spool in spools]
    assert len(set(numbers)) == 300
    for spool in spools:
        spool.stop()


def test_a_newer_spool_is_not_touched(folder: Path) -> None:
    started(folder).stop()
    with sqlite3.connect(folder / "spool-0.sqlite") as db:
        db.execute("PRAGMA user_version = 7")
    before = (folder / "spool-0.sqlite").read_bytes()
    with pytest.raises(SpoolUnusable, match="schema version 7"):
        started(folder)
    assert (folder / "spool-0.sqlite").read_bytes() == before


def test_what_is_no_database_stops_the_start(folder: Path) -> None:
    folder.mkdir()
    (folder / "spool-0.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(SpoolUnusable, match=r"spool-0\.sqlite cannot be opened"):
        started(folder)


def test_the_lock_is_free_again_after_a_start_that_failed(folder: Path) -> None:
    started(folder).stop()
    (folder / "bodies-0").rmdir()
    (folder / "bodies-0").write_bytes(b"")
    with pytest.raises(SpoolUnusable):
        started(folder)
    (folder / "bodies-0").unlink()
    started(folder).stop()


def test_files_without_an_entry_are_swept_at_start(folder: Path) -> None:
    spool = started(folder)
    entry = spooled(spool, LARGE)
    spool.stop()
    (folder / "bodies-0" / "leftover").write_bytes(b"x")
    spool = started(folder)
    assert bodies(folder) == [entry.queue_id]
    spool.stop()


def test_a_large_content_leaves_with_its_entry(folder: Path) -> None:
    spool = started(folder)
    entry = spooled(spool, LARGE, envelope(2))
    assert bodies(folder) == [entry.queue_id]
    spool.record(entry, [delivered(entry.waiting[0])]).result(WAIT)
    spool.record(entry, [delayed(entry.waiting[1], 1.0)]).result(WAIT)
    (entry,) = due(spool)
    assert octets_of(entry) == LARGE
    spool.record(entry, [delivered(entry.waiting[0])]).result(WAIT)
    spool.stop()
    assert bodies(folder) == []


def test_a_content_in_the_database_that_is_gone_is_an_oserror(spool: SqliteSpool) -> None:
    entry = spooled(spool, b"x" * 100_000)
    spool.record(entry, [delivered(entry.waiting[0])]).result(WAIT)
    with pytest.raises(OSError, match="no content"):
        octets_of(entry)


# -- numbers -----------------------------------------------------------------------------------


def test_numbers_go_on_when_the_clock_goes_back() -> None:
    times = iter([1000.0, 1000.0, 5.0, 2000.0, -1.0])
    numbers = SpoolNumbers(3, 0, lambda: next(times))
    made = [numbers.next() for _ in range(5)]
    assert made == sorted(set(made))
    assert {number & 1023 for number in made} == {3}
    assert SpoolNumbers(0, made[-1], lambda: 0.0).next() > made[-1]


@pytest.mark.parametrize("worker", [-1, 1024])
def test_a_worker_has_ten_bits(folder: Path, worker: int) -> None:
    with pytest.raises(ValueError, match="0 to 1023"):
        SqliteSpool(folder, Disk(), worker)


def test_a_number_that_was_committed_never_comes_back_though_the_clock_does(folder: Path) -> None:
    clock = [1000.0]
    spool = SqliteSpool(folder, Disk(), now=lambda: clock[0])
    spool.start()
    clock[0] = 9000.0
    last = 0
    for _ in range(3):
        entry = spooled(spool)
        spool.record(entry, [delivered(entry.waiting[0])]).result(WAIT)
        last = entry.id
        clock[0] += 60
    spool.stop()
    clock[0] = 1000.0
    spool.start()
    assert spool.begin().id > last
    spool.stop()


# -- memory ------------------------------------------------------------------------------------


def test_fifty_mebibytes_pass_through_five(spool: SqliteSpool) -> None:
    chunk = b"x" * 65536
    tracemalloc.start()
    try:
        writer = spool.begin()
        for _ in range(800):
            room = writer.write(bytes(chunk[:-1]) + b"y")
            if room is not None:
                room.result(WAIT)
        entry = writer.commit(envelope()).result(WAIT)
        for _ in entry.content.chunks():
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert entry.content.size == 800 * 65536
    assert peak < 5_000_000


def test_the_log_does_not_grow_with_the_mail(spool: SqliteSpool, folder: Path) -> None:
    for _ in range(30):
        entries = [spooled(spool, b"x" * 100_000) for _ in range(20)]
        for entry in entries:
            spool.record(entry, [delivered(entry.waiting[0])]).result(WAIT)
    assert (folder / "spool-0.sqlite-wal").stat().st_size < 20_000_000  # of 60 that went through
    assert (folder / "spool-0.sqlite").stat().st_size < 20_000_000


class SlowDisk(Disk):
    """Writes nothing before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: Future[None] = Future()

    def create(self, path: os.PathLike[str] | str) -> DurableFile:
        self.gate.result(WAIT)
        return super().create(path)


@pytest.mark.usefixtures("little_memory")
def test_a_disk_that_lags_stops_the_writer(folder: Path) -> None:
    disk = SlowDisk()
    spool = started(folder, disk)
    writer = spool.begin()
    taken = 0
    room = None
    while room is None:
        room = writer.write(b"x" * 10_000)
        taken += 10_000
        assert taken < 2_000_000
    assert not room.done()
    disk.gate.set_result(None)
    room.result(WAIT)
    assert writer.commit(envelope()).result(WAIT).content.size == taken
    spool.stop()


def test_all_who_waited_for_a_commit_are_told_in_one_piece_by_whoever_runs_it(folder: Path) -> None:
    turns = Turns()
    spool = SqliteSpool(folder, Disk(), group=GroupCommit(turns))
    spool.start()
    futures = []
    for _ in range(5):
        writer = spool.begin()
        writer.write(b"x")
        futures.append(writer.commit(envelope()))
    turns.end()
    told = turns.calls.get(timeout=WAIT)
    assert not any(future.done() for future in futures)
    told()
    assert [future.exception() for future in futures] == [None] * 5
    assert turns.calls.empty()
    spool.stop()


# -- faults ------------------------------------------------------------------------------------


class FaultyFile(DurableFile):
    def __init__(self, disk: FaultyDisk, fd: int) -> None:
        super().__init__(fd)
        self._disk = disk

    def write(self, *pieces: bytes) -> None:
        self._disk.fail("write")
        super().write(*pieces)

    def sync(self) -> None:
        self._disk.fail("sync")
        super().sync()


class FaultyDisk(Disk):
    """Fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: dict[str, int] = {}

    def fail(self, what: str) -> None:
        if what in self.faults:
            raise OSError(self.faults[what], os.strerror(self.faults[what]))

    def create(self, path: os.PathLike[str] | str) -> DurableFile:
        self.fail("create")
        return FaultyFile(self, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def sync_folder(self, path: os.PathLike[str] | str) -> None:
        self.fail("sync_folder")
        super().sync_folder(path)


@pytest.mark.parametrize("where", ["create", "write", "sync", "sync_folder"])
@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, SpoolFull), (errno.EIO, SpoolUnavailable)])
def test_a_fault_of_the_disk_under_a_large_content(
    folder: Path, where: str, code: int, kind: type[SpoolUnavailable]
) -> None:
    disk = FaultyDisk()
    spool = started(folder, disk)
    disk.faults = {where: code}
    with pytest.raises(kind):
        spooled(spool, LARGE)
    assert bodies(folder) == []
    assert len(due(spool)) == 0
    disk.faults = {}
    entry = spooled(spool, LARGE)
    assert octets_of(entry) == LARGE
    spool.stop()


@pytest.mark.usefixtures("little_memory")
def test_a_fault_under_content_that_was_to_be_read_before_its_commit(folder: Path) -> None:
    disk = FaultyDisk()
    spool = started(folder, disk)
    disk.faults = {"write": errno.ENOSPC}
    writer = spool.begin()
    writer.write(LARGE)
    early = writer.entry(envelope())
    assert isinstance(early, Future)
    assert isinstance(early.exception(WAIT), SpoolFull)
    assert isinstance(writer.commit(envelope()).exception(WAIT), SpoolFull)
    spool.stop()
    assert bodies(folder) == []


@pytest.mark.usefixtures("little_memory")
def test_content_that_is_read_before_its_commit_waits_for_the_disk(folder: Path) -> None:
    disk = SlowDisk()
    spool = started(folder, disk)
    writer = spool.begin()
    writer.write(LARGE)
    early = writer.entry(envelope())
    assert isinstance(early, Future)
    assert not early.done()
    disk.gate.set_result(None)
    assert octets_of(early.result(WAIT)) == LARGE
    writer.abort()
    spool.stop()
    assert bodies(folder) == []


def test_large_content_is_read_from_memory_before_its_commit_and_needs_no_file(folder: Path) -> None:
    spool = started(folder)
    writer = spool.begin()
    for _ in range(6):
        assert writer.write(LARGE[:100_000]) is None
    early = writer.entry(envelope())
    assert isinstance(early, Entry)
    assert early.content.size == len(LARGE)
    assert octets_of(early) == LARGE
    assert bodies(folder) == []
    kept = writer.commit(envelope()).result(WAIT)
    assert bodies(folder) == [kept.queue_id]
    assert octets_of(kept) == LARGE
    spool.stop()


def test_all_sessions_together_hold_no_more_than_they_may(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "HELD_IN_ALL", 2 * len(LARGE))
    spool = started(folder)
    writers = [spool.begin() for _ in range(3)]
    for writer in writers:
        writer.write(LARGE)
    early = [writer.entry(envelope()) for writer in writers]
    assert [isinstance(one, Entry) for one in early] == [True, True, False]
    last = early[2]
    assert isinstance(last, Future)
    assert octets_of(last.result(WAIT)) == LARGE
    writers[0].abort()
    writers[1].commit(envelope()).result(WAIT)
    again = [spool.begin() for _ in range(2)]
    for writer in again:
        writer.write(LARGE)
    assert all(isinstance(writer.entry(envelope()), Entry) for writer in again)
    for writer in (writers[2], *again):
        writer.abort()
    spool.stop()


def test_content_beyond_what_one_may_hold_goes_to_a_file_and_frees_its_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "HELD_OCTETS", len(LARGE))
    monkeypatch.setattr(writer_module, "HELD_IN_ALL", len(LARGE))
    spool = started(folder)
    longer = spool.begin()
    longer.write(LARGE)
    longer.write(b"y")
    assert octets_of(longer.commit(envelope()).result(WAIT)) == LARGE + b"y"
    other = spool.begin()
    other.write(LARGE)
    assert isinstance(other.entry(envelope()), Entry)
    other.abort()
    spool.stop()


@pytest.mark.parametrize("longest", [len(LARGE), len(LARGE) - 1])
def test_memory_is_held_until_the_disk_has_taken_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    monkeypatch.setattr(writer_module, "HELD_OCTETS", longest)
    monkeypatch.setattr(writer_module, "HELD_IN_ALL", len(LARGE) + 300_000)
    disk = SlowDisk()
    spool = started(folder, disk)
    others = [spool.bodies.begin(number) for number in range(THREADS)]
    for other in others:
        other.write(LARGE)  # no thread is left
    first = spool.begin()
    first.write(LARGE[:500_000])
    room = first.write(LARGE[500_000:])
    assert (room is None) is (longest == len(LARGE))
    kept = first.commit(envelope())
    second = spool.begin()
    second.write(LARGE[:500_000])
    assert isinstance(second.entry(envelope()), Future)
    second.abort()
    disk.gate.set_result(None)
    assert octets_of(kept.result(WAIT)) == LARGE
    third = spool.begin()
    third.write(LARGE[:500_000])
    assert isinstance(third.entry(envelope()), Entry)
    third.abort()
    for other in others:
        other.discard()
    spool.stop()


def test_octet_by_octet_costs_no_multiple_of_the_octets(folder: Path) -> None:
    spool = started(folder)
    writer = spool.begin()
    tracemalloc.start()
    try:
        for number in range(250_000):
            writer.write(bytes((number % 250,)))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000
    early = writer.entry(envelope())
    assert isinstance(early, Entry)
    assert octets_of(early) == bytes(number % 250 for number in range(250_000))
    spool.stop()


def pages(spool: SqliteSpool, limit: int) -> None:
    """Let the database be full, or not."""
    spool._call(lambda db: db.execute(f"PRAGMA max_page_count = {limit}").fetchone()).result(WAIT)


def test_a_full_disk_is_told_and_outlived(spool: SqliteSpool, folder: Path) -> None:
    first = spooled(spool)
    pages(spool, 1)  # SQLite takes the present size
    futures = []
    for _ in range(20):
        writer = spool.begin()
        writer.write(b"x" * 100_000)
        futures.append(writer.commit(envelope()))
    assert {type(future.exception(WAIT)) for future in futures} == {SpoolFull}
    with pytest.raises(SpoolFull):  # the envelopes of many recipients, whose body has a file
        spooled(spool, LARGE, envelope(5000))
    pages(spool, 1_000_000)
    second = spooled(spool)
    spool.stop()  # the file is removed by then
    assert bodies(folder) == []
    again = started(folder)
    assert [e.id for e in due(again)] == [first.id, second.id]
    again.stop()


def test_a_file_that_may_not_grow(folder: Path) -> None:
    """The operating system's own refusal, in a process of its own: nothing half is kept."""
    script = dedent("""
        import resource, sys
        from pathlib import Path
        from mailserver.durable import Disk
        from mailserver.interfaces import SpoolUnavailable
        from mailserver.spool.sqlite import SqliteSpool
        from tests.spool.letters import due, envelope, spooled
        spool = SqliteSpool(Path(sys.argv[1]), Disk())
        spool.start()
        kept = [spooled(spool, b"x" * 50_000).id]
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        refused = 0
        for _ in range(30):
            try:
                kept.append(spooled(spool, b"x" * 50_000).id)
            except SpoolUnavailable:
                refused += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        kept.append(spooled(spool, b"x" * 50_000).id)
        spool.stop()
        spool.start()
        assert refused > 5, refused
        assert [entry.id for entry in due(spool)] == kept
        spool.stop()
    """)
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# -- damaged rows ------------------------------------------------------------------------------


DAMAGE = [
    "UPDATE entry SET parameters = 'no json' WHERE id = :id",
    "UPDATE entry SET parameters = '[]' WHERE id = :id",
    "UPDATE entry SET reverse_local = CAST(x'ff' AS TEXT) WHERE id = :id",
    "UPDATE recipient SET local = CAST(x'ff' AS TEXT) WHERE entry = :id",
    "DELETE FROM entry WHERE id = :id",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_row_stops_nobody_else(folder: Path, damage: str) -> None:
    spool = started(folder)
    ids = [spooled(spool).id for _ in range(3)]
    spool.stop()
    with sqlite3.connect(folder / "spool-0.sqlite") as db:
        db.execute(damage, {"id": ids[1]})
    spool = started(folder)
    assert [e.id for e in due(spool)] == [ids[0], ids[2]]
    assert len(due(spool)) == 0
    assert spool.next_due().result(WAIT) is None
    spool.stop()
    spool = started(folder)  # and it stays aside
    assert [e.id for e in due(spool)] == [ids[0], ids[2]]
    spool.stop()


# -- group commit ------------------------------------------------------------------------------


def shut_gate(spool: SqliteSpool) -> Future[None]:
    """The committer is busy until the future is done."""
    busy: Future[None] = Future()
    gate: Future[None] = Future()

    def wait(_: sqlite3.Connection) -> None:
        busy.set_result(None)
        gate.result(WAIT)

    spool._call(wait)
    busy.result(WAIT)
    return gate


def test_one_commit_for_all_who_wait_and_a_bad_one_fails_alone(
    spool: SqliteSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = spooled(spool)
    commits: list[int] = []
    apply = spool._committer._apply
    monkeypatch.setattr(spool._committer, "_apply", lambda w: (commits.append(len(w)), apply(w)))
    gate = shut_gate(spool)
    writers = [spool.begin() for _ in range(9)]
    writers[4].id = taken.id  # which the table refuses
    futures = [writer.commit(envelope()) for writer in writers]
    gate.set_result(None)
    errors = [future.exception(WAIT) for future in futures]
    assert [type(error) for error in errors] == [type(None)] * 4 + [SpoolUnavailable] + [type(None)] * 4
    assert commits == [9] + [1] * 9
    commits.clear()
    gate = shut_gate(spool)
    futures = [spool.begin().commit(envelope()) for _ in range(50)]
    records = [spool.record(taken, [delayed(taken.waiting[0], 5.0)])]
    gate.set_result(None)
    assert not any(future.exception(WAIT) for future in [*futures, *records])
    assert commits == [51]


def test_what_one_turn_asks_for_is_handed_over_when_it_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns()
    spool = SqliteSpool(folder, Disk(), group=GroupCommit(turns))
    spool.start()
    commits: list[int] = []
    apply = spool._committer._apply
    monkeypatch.setattr(spool._committer, "_apply", lambda w: (commits.append(len(w)), apply(w)))
    futures = [spool.begin().commit(envelope()) for _ in range(5)]
    assert not commits
    assert len(turns.ends) == 1  # one call for all of them
    turns.end()
    turns.until(*futures)
    taken = [future.result(WAIT) for future in futures]
    assert commits == [5]
    # Very many do not wait for the end: content must not pile up.
    futures = [spool.begin().commit(envelope()) for _ in range(40)]
    turns.calls.get(timeout=WAIT)()
    assert futures[0].result(WAIT)
    assert not futures[39].done()
    record = spool.record(taken[0], [delayed(taken[0].waiting[0], 5.0)])
    spool.stop()  # which loses nothing that was asked for
    turns.until(futures[39], record)
    assert futures[39].exception(WAIT) is None
    assert record.exception(WAIT) is None
    late = spool.begin().commit(envelope())
    turns.end()
    assert isinstance(late.exception(WAIT), SpoolUnavailable)


@pytest.mark.parametrize("local", ["nul\0", "half\udc80"])
def test_what_cannot_be_kept_never_joins_a_batch(
    spool: SqliteSpool, monkeypatch: pytest.MonkeyPatch, local: str
) -> None:
    monkeypatch.setattr(spool._committer, "put_all", lambda writes: pytest.fail("it did"))
    address = Address(local, "b.test")
    future = spool.begin().commit(Envelope(address, (Recipient(0, address, address),)))
    assert isinstance(future.exception(WAIT), SpoolUnavailable)


def test_a_number_that_is_not_reserved_makes_no_entry(tmp_path: Path) -> None:
    """A mailbox's file is named after it: after a power cut it must not come again."""
    clock = [1_700_000_000.0]
    spool = SqliteSpool(tmp_path / "spool", Disk(), now=lambda: clock[0])
    spool.start()
    try:
        assert spool.begin().entry(envelope()) is not None
        clock[0] += 3600.0
        assert spool.begin().entry(envelope()) is None
        spooled(spool)  # a commit reserves numbers ahead
        assert spool.begin().entry(envelope()) is not None
    finally:
        spool.stop()
