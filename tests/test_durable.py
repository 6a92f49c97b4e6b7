"""durable.py on the real file system: what it makes, what it refuses, what it leaves behind."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from mailserver import durable
from mailserver.durable import Disk, DurableFile


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_a_folder_is_made_with_its_parents_private_and_twice_without_harm(disk: Disk, tmp_path: Path) -> None:
    disk.make_folder(tmp_path / "a" / "b" / "c")
    disk.make_folder(tmp_path / "a" / "b" / "c")
    for path in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_the_parent_of_each_new_folder_is_synced(tmp_path: Path) -> None:
    synced: list[str] = []

    class Noting(Disk):
        def sync_folder(self, path: durable.StrPath) -> None:
            synced.append(os.fspath(path))
            super().sync_folder(path)

    Noting().make_folder(tmp_path / "a" / "b")
    assert synced == [str(tmp_path), str(tmp_path / "a")]


def test_a_file_in_a_folders_place_is_an_error(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(FileExistsError):
        disk.make_folder(tmp_path / "a")


def test_a_new_file_is_private_and_never_replaces(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with disk.create(path) as file:
        file.write(b"one ")
        file.write(b"two")
        file.sync()
    assert path.read_bytes() == b"one two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        disk.create(path)
    with pytest.raises(FileExistsError):
        disk.write(path, [b"other"])
    assert path.read_bytes() == b"one two"


def test_a_planted_symlink_is_not_followed(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        disk.write(tmp_path / "link", [b"x"])
    (tmp_path / "elsewhere").write_bytes(b"kept")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        disk.extend(tmp_path / "link")
    assert (tmp_path / "elsewhere").read_bytes() == b"kept"


def test_more_pieces_than_one_writev_takes(disk: Disk, tmp_path: Path) -> None:
    pieces = [b"%d " % n for n in range(5000)]
    disk.write(tmp_path / "file", pieces)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


def test_a_failed_write_leaves_no_file(disk: Disk, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            disk.write(tmp_path / "file", [b"x" * 3000, b"y" * 3000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


def test_extend_goes_to_the_end_and_can_be_cut_back(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with disk.extend(tmp_path / "file") as file:
        file.write(b"new")
        file.truncate(4)
        file.write(b"!")
    assert (tmp_path / "file").read_bytes() == b"oldn!"
    with pytest.raises(FileNotFoundError):
        disk.extend(tmp_path / "missing")


def test_link_never_replaces_and_rename_does(disk: Disk, tmp_path: Path) -> None:
    disk.write(tmp_path / "a", [b"a"])
    disk.write(tmp_path / "b", [b"b"])
    with pytest.raises(FileExistsError):
        disk.link(tmp_path / "a", tmp_path / "b")
    disk.rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"a"
    disk.remove(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_syncing_works_and_names_what_is_missing(disk: Disk, tmp_path: Path) -> None:
    disk.write(tmp_path / "a", [b"a"])
    disk.sync_file(tmp_path / "a")
    disk.sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        disk.sync_file(tmp_path / "missing")
    with pytest.raises(NotADirectoryError):
        disk.sync_folder(tmp_path / "a")


def test_the_file_system_is_synced_by_one_descriptor_for_ever(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    def syncfs(fd: int) -> int:
        used.append(fd)
        return 0

    monkeypatch.setattr(durable, "_syncfs", syncfs)
    assert disk.sync_filesystem(tmp_path)
    assert disk.sync_filesystem(tmp_path)
    assert used[0] == used[1]
    os.fstat(used[0])
    disk.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(used[0])


def test_the_file_systems_own_failure_is_told(tmp_path: Path) -> None:
    disk = Disk()
    if not disk.sync_filesystem(tmp_path):
        pytest.skip("this system has no syncfs that reports errors")
    os.close(disk._filesystems[str(tmp_path)])
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.sync_filesystem(tmp_path)


def test_without_syncfs_the_caller_is_told_to_sync_by_itself(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_syncfs", None)
    assert disk.sync_filesystem(tmp_path) is False


@pytest.mark.parametrize(
    ("system", "release", "trusted"),
    [
        ("Linux", "5.7.19", False),
        ("Linux", "5.8.0-rc1", True),
        ("Linux", "6.18.44-fc-v657", True),
        ("Linux", "4.19", False),
        ("FreeBSD", "14.1", False),
    ],
)
def test_syncfs_is_trusted_from_linux_5_8(
    system: str, release: str, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((system, "host", release, "", "x86_64")))
    assert (durable._find_syncfs() is not None) is trusted


@pytest.mark.parametrize(("kind", "far"), [("ext4", False), ("nfs4", True), ("fuse.sshfs", True)])
@pytest.mark.parametrize("name", ["mail", "odd\rname", "m\x0b-\x0bm", "two\\040words"])
def test_a_file_system_behind_a_network_is_told_from_the_systems_table(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, far: bool
) -> None:
    device = tmp_path.stat().st_dev
    mounted = f"23 1 {os.major(device)}:{os.minor(device)} / /{name} rw shared:1 - {kind} x rw\n"
    table = tmp_path / "mountinfo"
    table.write_bytes(b"22 1 0:999 / /else rw - nfs4 host:/ rw\n" + mounted.encode())

    def opened(path: str, **how: Any) -> Any:
        assert path == "/proc/self/mountinfo"
        return table.open(**how)

    monkeypatch.setattr(durable, "open", opened, raising=False)
    assert disk.is_far(tmp_path) is far


def test_closing_twice_closes_nobody_elses_descriptor(tmp_path: Path) -> None:
    file: DurableFile = Disk().create(tmp_path / "a")
    number = file.fd
    file.close()
    other = os.open(tmp_path / "a", os.O_RDONLY)
    assert other == number
    file.close()
    os.fstat(other)
    os.close(other)
