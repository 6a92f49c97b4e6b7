"""What POP3 deletes can be brought back, on both formats."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from mailserver.admin.command import main
from mailserver.durable import Disk, DurableFile, StrPath
from mailserver.store.mailstore import MailStore
from mailserver.store.sweep import mailboxes
from mailserver.store.trash import deletions, sweep_trash
from tests.store.deliveries import ADA, SOON, contents, deliver, delivery_of, opened, sent_form


@pytest.fixture(params=["maildir", "mbox"])
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def keeping(root: Path, format: str, disk: Disk | None = None) -> Iterator[MailStore]:
    store = MailStore(root, format, disk or Disk(), "mx.example.test", patience=SOON, undelete_for=60.0)
    store.start()
    try:
        yield store
    finally:
        store.stop()


def path_of(root: Path, format: str) -> str:
    return str(root / "example.test" / ("ada" if format == "maildir" else "ada.mbox"))


def remove(store: MailStore, *indexes: int) -> list[str]:
    """Delete, and the unique ids of all that were there."""
    with opened(store.mailbox(ADA)) as drop:
        for index in indexes:
            drop.mark(index)
        assert drop.commit() == 0
        return [listing.unique_id for listing in drop.listings]


def test_what_comes_back_is_the_same_and_comes_once(tmp_path: Path, format: str) -> None:
    with keeping(tmp_path, format) as store:
        deliver(store.mailbox(ADA), *(delivery_of(n) for n in range(6)))
        before = remove(store, 1, 4)
        deliver(store.mailbox(ADA), delivery_of(7))
        assert store.undelete(ADA, time.time() + 60) == 0
        assert store.undelete(ADA, 0.0) == 2
        assert store.undelete(ADA, 0.0) == 0
        with opened(store.mailbox(ADA)) as drop:
            assert set(before) < {listing.unique_id for listing in drop.listings}
            assert sorted(contents(drop)) == sorted(sent_form(delivery_of(n)) for n in (0, 1, 2, 3, 4, 5, 7))
            assert [listing.octets for listing in drop.listings] == [len(o) for o in contents(drop)]


def test_bringing_back_during_a_session_does_not_disturb_it(tmp_path: Path, format: str) -> None:
    with keeping(tmp_path, format) as store:
        deliver(store.mailbox(ADA), *(delivery_of(n) for n in range(4)))
        remove(store, 0)
        with opened(store.mailbox(ADA)) as drop:
            assert store.undelete(ADA, 0.0) == 1
            assert contents(drop) == [sent_form(delivery_of(n)) for n in (1, 2, 3)]
            drop.mark(0)
            assert drop.commit() == 0
        with opened(store.mailbox(ADA)) as drop:
            assert sorted(contents(drop)) == sorted(sent_form(delivery_of(n)) for n in (0, 2, 3))


def test_the_trash_is_swept_when_its_time_has_come(tmp_path: Path, format: str) -> None:
    path = path_of(tmp_path, format)
    with keeping(tmp_path, format) as store:
        deliver(store.mailbox(ADA), delivery_of(1), delivery_of(2))
        remove(store, 0)
        ((second, _),) = deletions(path)
        assert sweep_trash(path, second) == 0
        assert sweep_trash(path, second + 1) == 1
        assert store.undelete(ADA, 0.0) == 0
        assert deletions(path) == []
        with opened(store.mailbox(ADA)) as drop:
            assert contents(drop) == [sent_form(delivery_of(2))]


def test_a_full_disk_keeps_nobody_from_making_room(tmp_path: Path, format: str) -> None:
    class FullDisk(Disk):
        full = False

        def make_folder(self, path: StrPath) -> None:
            if self.full and not os.path.isdir(path):
                raise OSError(errno.ENOSPC, "planted")
            super().make_folder(path)

        def create(self, path: StrPath) -> DurableFile:
            if self.full and ".trash/" in str(path):
                raise OSError(errno.ENOSPC, "planted")
            return super().create(path)

    disk = FullDisk()
    with keeping(tmp_path, format, disk) as store:
        deliver(store.mailbox(ADA), delivery_of(1), delivery_of(2))
        disk.full = True
        remove(store, 0)
        with opened(store.mailbox(ADA)) as drop:
            assert contents(drop) == [sent_form(delivery_of(2))]
        assert store.undelete(ADA, 0.0) == 0


def test_the_command(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "mailserver.toml"
    config.write_text(
        f'hostname = "mx.example.test"\ndomains = ["example.test"]\n[store]\nformat = "{format}"\n'
    )

    monkeypatch.chdir(tmp_path)

    def mailserver(*arguments: str, input: str = "") -> tuple[int, str]:
        result = CliRunner().invoke(main, ["--config", str(config), *arguments], input=input)
        return result.exit_code, result.stdout

    assert mailserver("mailbox", "undelete", "ada@example.test")[0] == os.EX_NOUSER
    assert mailserver("user", "add", "ada@example.test", "--password-stdin", input="secret\n")[0] == 0
    with keeping(tmp_path / "maildirs", format) as store:
        deliver(store.mailbox(ADA), delivery_of(1))
        remove(store, 0)
        done = mailserver("mailbox", "undelete", "ada@example.test", "--since", "1h")
        assert done == (0, "1 messages are back in the mailbox of ada@example.test\n")
        with opened(store.mailbox(ADA)) as drop:
            assert contents(drop) == [sent_form(delivery_of(1))]
    assert mailserver("mailbox", "undelete", "ada@example.test", "--since", "soon")[0] == os.EX_USAGE
    with keeping(tmp_path / "maildirs", format) as store:
        deliver(store.mailbox(ADA), delivery_of(2))
        known = remove(store, 0)
    # A conversion between the deletion and the way back.
    other = "mbox" if format == "maildir" else "maildir"
    assert mailserver("mailbox", "convert", "ada@example.test", "--to", other)[0] == 0
    assert mailserver("mailbox", "undelete", "ada@example.test") == done
    with keeping(tmp_path / "maildirs", other) as store, opened(store.mailbox(ADA)) as drop:
        assert sorted(contents(drop)) == sorted(sent_form(delivery_of(n)) for n in (1, 2))
        assert {listing.unique_id for listing in drop.listings} == set(known)


def test_the_trash_of_an_mbox_that_was_converted_is_found(tmp_path: Path) -> None:
    domain = tmp_path / "example.test"
    (domain / "ada.mbox.trash").mkdir(parents=True)
    (domain / "bob.mbox.trash").mkdir()
    (domain / "bob.mbox").write_bytes(b"")
    assert list(mailboxes(str(tmp_path))) == [f"{domain}/ada.mbox", f"{domain}/bob.mbox"]
