"""kill -9 of a process that spools: what was acknowledged is there, what was forgotten is gone.

The page cache survives a kill, so this is about order and completeness; that a commit is on the
disk is SQLite's ``synchronous=FULL``, which ``test_the_commit_is_synced`` looks at.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mailserver.durable import Disk
from mailserver.spool.sqlite import SqliteSpool
from mailserver.values.envelope import Entry
from tests.spool.letters import WAIT, delivered, due, octets_of, spooled

CHILD = """
import os, sys, threading
from pathlib import Path
from mailserver.durable import Disk
from mailserver.interfaces import Notice
from mailserver.spool.sqlite import SqliteSpool
from mailserver.values.envelope import queue_id
from tests.crashes.test_spool import body
from tests.spool.letters import WAIT, delayed, delivered, envelope, failed, spooled

spool = SqliteSpool(Path(sys.argv[1]), Disk())
spool.start()

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def session(number):
    sizes = (0, 4096, 100_000, 300_000, 2_000_000)
    for turn in range(10**9):
        size = sizes[(turn + number) % (5 if number == 0 else 3)]
        writer = spool.begin()
        octets = body(writer.id, size)
        for start in range(0, size, 65536):
            room = writer.write(octets[start : start + 65536])
            if room is not None:
                room.result(WAIT)
        entry = writer.commit(envelope(2)).result(WAIT)
        say("kept", entry.id, size, 0, 1)
        one, two = entry.waiting
        if turn % 3 == 0:
            spool.record(entry, [delivered(one)]).result(WAIT)
            say("left", entry.id, size, 1)
        elif turn % 3 == 1:
            say("going", entry.id)
            notice = Notice(envelope(1), b"notice of %d" % entry.id)
            spool.record(entry, [delivered(one), failed(two)], [notice]).result(WAIT)
            say("gone", entry.id)

for number in range(6):
    threading.Thread(target=session, args=(number,)).start()
"""


def body(number: int, size: int) -> bytes:
    """What the message of that number says: no other message says it."""
    return (b"%d\r\n" % number * (size // 20 + 1))[:size]


def lines_before_the_kill(folder: Path, count: int) -> list[list[str]]:
    """What the child said until it was killed, after ``count`` lines; an unfinished line does not count."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, folder], stdout=subprocess.PIPE)
    assert child.stdout is not None
    said = b""
    try:
        while said.count(b"\n") < count:
            piece = os.read(child.stdout.fileno(), 65536)
            assert piece, "the child ended by itself"
            said += piece
    finally:
        child.send_signal(signal.SIGKILL)
        said += child.stdout.read()
        child.stdout.close()
        child.wait(WAIT)
    return [line.split() for line in said.decode().split("\n")[:-1]]


@pytest.mark.parametrize("seed", range(6))
def test_killed_while_it_spools(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "spool"
    kept: dict[int, tuple[int, list[int]]] = {}
    going: set[int] = set()
    gone: set[int] = set()
    for word, number, *rest in lines_before_the_kill(folder, random.Random(seed).randrange(30, 600)):
        if word in ("kept", "left"):
            kept[int(number)] = int(rest[0]), [int(one) for one in rest[1:]]
        else:
            (going if word == "going" else gone).add(int(number))

    spool = SqliteSpool(folder, Disk())
    spool.start()
    found: dict[int, Entry] = {}
    while entries := due(spool):
        found |= {entry.id: entry for entry in entries}
    notices = {octets_of(e): e.id for e in found.values() if len(e.envelope.recipients) == 1 and is_notice(e)}

    assert not gone & found.keys()
    for number in gone:
        assert b"notice of %d" % number in notices
    for number in going - gone:  # in one commit: both, or neither
        assert (number in found) != (b"notice of %d" % number in notices)
    for number, (size, recipients) in kept.items():
        if number in going:
            continue
        assert octets_of(found[number]) == body(number, size)
        waiting = [one.recipient.number for one in found[number].waiting]
        # The record of the first recipient may be on the disk though its line was not said.
        assert waiting == recipients or (recipients == [0, 1] and waiting == [1])
    assert all(entry.recovered for entry in found.values())
    files = {e.queue_id for e in found.values() if e.content.size > 256 * 1024}
    assert set(os.listdir(folder / "bodies-0")) == files
    fresh = spooled(spool)
    assert fresh.id > max([*kept, *found])
    spool.stop()


def is_notice(entry: Entry) -> bool:
    return octets_of(entry).startswith(b"notice of ")


def test_a_crash_between_body_and_commit_leaves_nothing(tmp_path: Path) -> None:
    """The states on the disk: a file begun, a file synced; the row that names it is missing."""
    spool = SqliteSpool(tmp_path / "spool", Disk())
    spool.start()
    writer = spool.begin()
    writer.write(b"x" * 3_000_000)
    stream = writer._stream
    assert stream is not None
    path = stream.finish().result(WAIT)
    assert path.stat().st_size == 3_000_000
    shutil.copytree(tmp_path / "spool", tmp_path / "crashed")
    spool.stop()
    again = SqliteSpool(tmp_path / "crashed", Disk())
    again.start()
    assert len(due(again)) == 0
    assert os.listdir(tmp_path / "crashed" / "bodies-0") == []
    again.stop()


def test_a_crash_between_forgetting_and_removal_leaves_no_file(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "spool", Disk())
    spool.start()
    entry = spooled(spool, b"x" * 600_000)
    body_file = tmp_path / "spool" / "bodies-0" / entry.queue_id
    spool.record(entry, [delivered(entry.waiting[0])]).result(WAIT)
    spool.stop()
    body_file.write_bytes(b"x" * 600_000)  # as if its removal had not reached the disk
    spool.start()
    assert len(due(spool)) == 0
    assert not body_file.exists()
    spool.stop()


def test_the_log_cut_anywhere_loses_only_what_came_last(tmp_path: Path) -> None:
    """A power cut may tear SQLite's log: every state is a prefix of the commits, and readable."""
    folder = tmp_path / "spool"
    spool = SqliteSpool(folder, Disk())
    spool.start()
    sizes, ids = [], []
    log = folder / "spool-0.sqlite-wal"
    for n in range(12):
        ids.append(spooled(spool, body(n, 5000)).id)
        sizes.append(log.stat().st_size)
    shutil.copytree(folder, tmp_path / "copy")
    spool.stop()
    chance = random.Random(1)
    for _ in range(25):
        cut = chance.randrange(sizes[0], sizes[-1])
        crashed = tmp_path / f"cut-{cut}"
        shutil.copytree(tmp_path / "copy", crashed, dirs_exist_ok=True)
        (crashed / "spool-0.sqlite-shm").unlink()
        os.truncate(crashed / log.name, cut)
        complete = sum(1 for size in sizes if size <= cut)
        again = SqliteSpool(crashed, Disk())
        again.start()
        entries = due(again)
        assert [entry.id for entry in entries] == ids[:complete]
        assert [octets_of(entry) for entry in entries] == [body(n, 5000) for n in range(complete)]
        again.stop()


def test_the_commit_is_synced(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "spool", Disk())
    spool.start()
    settings = [
        spool._call(lambda db, name=name: db.execute(f"PRAGMA {name}").fetchone()[0]).result(WAIT)
        for name in ("journal_mode", "synchronous", "user_version")
    ]
    assert settings == ["wal", 2, 1]
    spool.stop()
