"""Unique ids that came with messages from elsewhere, on both formats."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailserver.durable import Disk
from mailserver.store.kept_ids import kept_path, read_kept, write_kept
from mailserver.store.mailstore import MailStore
from tests.store.deliveries import ADA, contents, deliver, delivery_of, opened, sent_form, store_at


@pytest.fixture(params=["maildir", "mbox"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MailStore]:
    with store_at(tmp_path, request.param) as made:
        yield made


@pytest.fixture
def path(store: MailStore, tmp_path: Path) -> str:
    return f"{tmp_path}/example.test/ada" + (".mbox" if store.format_of(ADA) == "mbox" else "")


def ids(store: MailStore) -> list[str]:
    with opened(store.mailbox(ADA)) as drop:
        return [listing.unique_id for listing in drop.listings]


def test_a_kept_id_is_what_a_client_sees(store: MailStore, path: str) -> None:
    deliver(store.mailbox(ADA), *(delivery_of(n) for n in range(3)))
    before = ids(store)
    write_kept(Disk(), path, {before[1]: "UID7-1234567890"})
    assert ids(store) == [before[0], "UID7-1234567890", before[2]]
    with opened(store.mailbox(ADA)) as drop:
        drop.mark(0)
        drop.mark(1)
        assert drop.commit() == 0
    assert ids(store) == [before[2]]
    with opened(store.mailbox(ADA)) as drop:
        assert contents(drop) == [sent_form(delivery_of(2))]


def test_lines_that_are_no_ids_do_not_count(store: MailStore, path: str) -> None:
    deliver(store.mailbox(ADA), delivery_of(1))
    (natural,) = ids(store)
    Path(kept_path(path)).write_bytes(
        b"\xff\xfe " + natural.encode() + b"\n\nalone\n" + b"x" * 71 + b" " + natural.encode() + b"\n"
    )
    assert ids(store) == [natural]


def test_a_file_that_cannot_be_read_opens_no_maildrop(store: MailStore, path: str, tmp_path: Path) -> None:
    """Other ids than the kept ones would make the client fetch everything again."""
    deliver(store.mailbox(ADA), delivery_of(1))
    os.symlink(tmp_path / "elsewhere", kept_path(path))
    with pytest.raises(OSError, match="Too many levels"):
        store.mailbox(ADA).maildrop()
    os.unlink(kept_path(path))
    assert len(ids(store)) == 1


def test_a_rest_of_a_crash_is_in_nobody_s_way(store: MailStore, path: str) -> None:
    deliver(store.mailbox(ADA), delivery_of(1))
    Path(kept_path(path) + ".unfinished").write_bytes(b"torn")
    write_kept(Disk(), path, {"a": "b"})
    assert read_kept(path) == {"a": "b"}
    write_kept(Disk(), path, {})
    assert not os.path.exists(kept_path(path))
