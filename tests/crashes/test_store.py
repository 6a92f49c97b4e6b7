"""A power cut at every moment of delivery and removal, in both formats: nothing acknowledged is lost,
nothing is there twice, nothing torn is left once the spool has delivered again what it still owes."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path

import pytest

from mailserver.group_commit import GroupCommit
from mailserver.interfaces import Delivery, IMailbox
from mailserver.store import maildir_files
from mailserver.store.mailstore import MailStore
from tests.crashes.lossy_disk import (
    Acknowledged,
    Fate,
    LossyDisk,
    Note,
    SyncAll,
    acknowledged,
    all_kept,
    all_lost,
    build,
    by_chance,
    last_torn,
    names_only,
    state_after,
)
from tests.store.deliveries import ADA, SOON, content_of, contents, delivery_of, opened, sent_form
from tests.turns import Turns

SEEDS = 20
BODIES = (b"Hello.\r\n", b"From here\r\n\r\n>From there\r\n\r\n", b"", b"line\r\n" * 2000)


KINDS = ("maildir", "maildir in turns", "maildir streamed", "maildir without syncfs", "mbox")
TURNS = Turns()
"""The reactor of the kind in whose turns files are made."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if "streamed" in request.param:
        monkeypatch.setattr(maildir_files, "IN_MEMORY_OCTETS", 0)
    return str(request.param)


def message(number: int, repeated: bool = False) -> Delivery:
    return delivery_of(number, content_of(number, BODIES[number % len(BODIES)]), repeated)


def wait(futures: Sequence[Future[None]]) -> None:
    if TURNS.ends:
        TURNS.until(*futures)
    for future in futures:
        future.result(SOON)


def send(disk: LossyDisk, mailbox: IMailbox, numbers: Sequence[int]) -> None:
    """Deliver, and note each acknowledgement in the moment it is given."""

    def note(number: int) -> Callable[[Future[None]], None]:
        return lambda future: None if future.exception() else disk.acknowledge(f"message {number}")

    futures = []
    for number in numbers:
        future = mailbox.deliver(message(number))
        future.add_done_callback(note(number))
        futures.append(future)
    wait(futures)


def delivering(disk: LossyDisk, mailbox: IMailbox) -> None:
    send(disk, mailbox, [1])
    send(disk, mailbox, [2, 3])
    send(disk, mailbox, [4])


def removing(disk: LossyDisk, mailbox: IMailbox) -> None:
    send(disk, mailbox, [1, 2, 3])
    with opened(mailbox) as drop:
        send(disk, mailbox, [4])
        drop.mark(0)
        drop.mark(2)
        disk.acknowledge("removal begins")
        assert drop.commit() == 0
        disk.acknowledge("removed")
    send(disk, mailbox, [5])


def fates() -> Iterator[tuple[str, Fate]]:
    yield "lost", all_lost
    yield "kept", all_kept
    yield "torn", last_torn
    yield "zeros", names_only
    for seed in range(SEEDS):
        yield f"chance {seed}", by_chance(seed)


@pytest.mark.parametrize("format", ["maildir", "mbox"])
def test_a_power_cut_while_messages_go_to_the_trash(tmp_path: Path, format: str) -> None:
    """Whatever was deleted can be brought back, once, and nothing is lost on the way."""
    kind = f"{format} with trash"
    root, copy = tmp_path / "mail", tmp_path / "copy"
    notes = record(root, kind, removing)
    for point in range(1, len(notes) + 1):
        done = acknowledged(notes[:point])
        if "removal begins" not in done:
            continue
        for name, fate in islice(fates(), 10):
            build(state_after(notes[:point], fate), root, copy)
            disk, store = lossy_store(copy, kind)
            store.start()
            store.undelete(ADA, 0.0)
            owed = [number for number in range(1, 6) if f"message {number}" not in done]
            for future in [store.mailbox(ADA).deliver(message(number, repeated=True)) for number in owed]:
                future.result(SOON)
            with opened(store.mailbox(ADA)) as drop:
                count = Counter(contents(drop))
                assert len({listing.unique_id for listing in drop.listings}) == len(drop.listings)
            store.stop()
            disk.close()
            state = f"{kind}, {name}, after {notes[point - 1]}"
            assert count == Counter(sent_form(message(number)) for number in range(1, 6)), state
            shutil.rmtree(copy)


def lossy_store(root: Path, kind: str) -> tuple[LossyDisk, MailStore]:
    disk = LossyDisk(root, whole_filesystem="without" not in kind)
    return disk, MailStore(
        root,
        kind.split()[0],
        disk,
        "mx.example.test",
        patience=SOON,
        undelete_for=60.0 if "trash" in kind else 0.0,
        group=GroupCommit(TURNS) if "turns" in kind else None,
    )


def record(root: Path, kind: str, story: Callable[[LossyDisk, IMailbox], None]) -> list[Note]:
    root.mkdir()
    disk, store = lossy_store(root, kind)
    store.start()
    try:
        story(disk, store.mailbox(ADA))
    finally:
        store.stop()
    return disk.notes


def recover(root: Path, kind: str, owed: Sequence[int]) -> tuple[list[Note], list[bytes]]:
    """Start anew on what the power cut has left; what was noted, and what a POP3 user then sees."""
    disk, store = lossy_store(root, kind)
    store.start()
    try:
        mailbox = store.mailbox(ADA)
        wait([mailbox.deliver(message(number, repeated=True)) for number in owed])
        with opened(mailbox) as drop:
            seen = contents(drop)
            assert [listing.octets for listing in drop.listings] == [len(octets) for octets in seen]
            return disk.notes, seen
    finally:
        store.stop()


def check(seen: Sequence[bytes], done: set[str], numbers: Sequence[int], state: str) -> None:
    """Exactly one whole copy of each; only what a removal was asked for may be gone."""
    count = Counter(seen)
    going = {1, 3} if "removal begins" in done else set()
    for number in numbers:
        copies = count.pop(sent_form(message(number)), 0)
        if number not in going:
            assert copies == 1, f"{state}: {copies} copies of {number}"
        elif "removed" in done:
            assert copies == 0, f"{state}: {number} is back"
        else:
            assert copies <= 1, f"{state}: {copies} copies of {number}"
    assert not count, f"{state}: something that nobody sent: {list(count)}"


@pytest.mark.parametrize("story", [delivering, removing])
def test_a_power_cut_at_every_moment(
    tmp_path: Path, kind: str, story: Callable[[LossyDisk, IMailbox], None]
) -> None:
    root, copy = tmp_path / "mail", tmp_path / "copy"
    notes = record(root, kind, story)
    everything = sorted(int(what.split()[1]) for what in acknowledged(notes) if what.startswith("message"))
    for point in range(1, len(notes) + 1):
        if isinstance(notes[point - 1], Acknowledged) and point < len(notes):
            continue  # the next moment has the same disk, and more was promised
        done = acknowledged(notes[:point])
        for index, (name, fate) in enumerate(fates()):
            build(state_after(notes[:point], fate), root, copy)
            # The spool owes what was not acknowledged, and perhaps more: its own record may be late.
            owed = [
                number
                for number in everything
                if f"message {number}" not in done or (index % 2 and "removal begins" not in done)
            ]
            _, seen = recover(copy, kind, owed)
            check(seen, done, everything, f"{kind}, {name}, after {notes[point - 1]}")
            shutil.rmtree(copy)


def test_a_second_power_cut_during_recovery(tmp_path: Path, kind: str) -> None:
    root, copy, again = tmp_path / "mail", tmp_path / "copy", tmp_path / "again"
    notes = record(root, kind, delivering)
    for point in range(len(notes) // 3, len(notes), 3):
        for seed in range(4):
            build(state_after(notes[:point], by_chance(seed)), root, copy)
            done = acknowledged(notes[:point])
            owed = [number for number in (1, 2, 3, 4) if f"message {number}" not in done]
            recovery, _ = recover(copy, kind, owed)
            first = recovery.index(SyncAll()) + 1  # what the first cut had left is on the disk
            for second in range(first, len(recovery), 4):
                build(state_after(recovery[:second], by_chance(seed + 100)), copy, again)
                _, seen = recover(again, kind, owed)
                check(seen, done, (1, 2, 3, 4), f"{kind}, seed {seed}, {point} then {second}")
                shutil.rmtree(again)
            shutil.rmtree(copy)
