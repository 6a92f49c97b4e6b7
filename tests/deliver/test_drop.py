"""The drop folder's files: written whole, read with distrust."""

import os
from pathlib import Path

import pytest

from mailserver.deliver import drop
from mailserver.deliver.drop import DropWrong, canonical, make_folder, put, read
from mailserver.values.address import NULL_SENDER, Address

ADA, BOB = Address("ada", "a.test"), Address("bob b", "b.test")


def test_what_is_put_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    make_folder(folder)
    make_folder(folder)
    assert folder.stat().st_mode & 0o7777 == 0o1733
    name = put(folder, NULL_SENDER, [ADA, Address("zoë", "b.test")], b"Subject: x\n\nline\r\nlast")
    assert os.listdir(folder) == [name]
    assert (folder / name).stat().st_mode & 0o777 == 0o600
    found = read(folder / name, 1000)
    assert (found.sender, found.recipients) == (NULL_SENDER, (ADA, Address("zoë", "b.test")))
    assert found.content == b"Subject: x\r\n\r\nline\r\nlast\r\n"
    assert found.uid == os.getuid()


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"no json\nx",
        b"[]\nx",
        b"5\nx",
        b'{"from": "a@b.test"}\nx',
        b'{"from": "a@b.test", "to": []}\nx',
        b'{"from": "a@b.test", "to": ["nobody"]}\nx',
        b'{"from": "a@b.test", "to": ["a\\nb@b.test"]}\nx',
        b'{"from": "a@b.test", "to": ["a@b.test"]}\n' + b"x" * 101,
    ],
)
def test_what_is_wrong(tmp_path: Path, octets: bytes) -> None:
    (tmp_path / "x.mail").write_bytes(octets)
    with pytest.raises(DropWrong):
        read(tmp_path / "x.mail", 100)


def test_what_the_server_s_own_user_writes_is_its_own(tmp_path: Path) -> None:
    name = put(tmp_path, ADA, [ADA], b"x\n")
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_links_and_pipes(tmp_path: Path) -> None:
    good = put(tmp_path, ADA, [ADA], b"secret\n")
    os.link(tmp_path / good, tmp_path / "other.mail")
    with pytest.raises(DropWrong):
        read(tmp_path / "other.mail", 100)
    os.symlink(tmp_path / good, tmp_path / "link.mail")
    with pytest.raises(OSError, match="symbolic"):
        read(tmp_path / "link.mail", 100)
    os.mkfifo(tmp_path / "pipe.mail")
    with pytest.raises(DropWrong):
        read(tmp_path / "pipe.mail", 100)


def test_nothing_is_left_of_what_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drop.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        put(tmp_path, ADA, [ADA], b"x\n")
    assert os.listdir(tmp_path) == []


def test_line_ends() -> None:
    assert canonical(b"a\nb\r\nc\rd") == b"a\r\nb\r\nc\r\nd\r\n"
    assert canonical(b"") == b""
