"""An mbox is changed where it lies: killed at any moment, the next one who locks it ends the change."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mailserver.durable import Disk, DurableFile, StrPath
from mailserver.interfaces import MailboxUnavailable
from mailserver.store.locks import HeldMbox, MboxLocks
from mailserver.store.mbox_rewrite import (
    finish_rewrite,
    rewrite_with,
    rewrite_with_beginning,
    rewrite_without,
)
from mailserver.store.octets import open_regular

TEXT = "text\n"


def message(name: str, lines: int = 3) -> bytes:
    return f"From {name} Tue Nov 22 19:44:37 2016\nSubject: {name}\n\n{TEXT * lines}\n".encode()


BEFORE = message("a") + message("b", 40) + message("c") + message("d", 9)
FOREIGN = message("appended", 2)


def without_some(disk: Disk, held: HeldMbox) -> bytes:
    first = len(message("a"))
    rewrite_without(disk, held, [(first, first + len(message("b", 40)))])
    return message("a") + message("c") + message("d", 9)


def without_the_last(disk: Disk, held: HeldMbox) -> bytes:
    end = len(BEFORE) - len(message("d", 9))
    rewrite_without(disk, held, [(end, len(BEFORE))])
    return BEFORE[:end]


def with_more(disk: Disk, held: HeldMbox) -> bytes:
    more = os.path.dirname(held.path) + "/more"
    Path(more).write_bytes(message("e", 30))
    fd = open_regular(more)
    try:
        rewrite_with(disk, held, fd)
    finally:
        os.close(fd)
    return BEFORE + message("e", 30)


def with_a_beginning(disk: Disk, held: HeldMbox) -> bytes:
    rewrite_with_beginning(disk, held)
    return b"From MAILER-DAEMON Tue Nov 22 19:44:37 2016\n" + BEFORE


CHANGES: list[Callable[[Disk, HeldMbox], bytes]] = [
    without_some,
    without_the_last,
    with_more,
    with_a_beginning,
]


class _Killed(BaseException):
    pass


class KillingDisk(Disk):
    """After so many steps nothing happens any more; a write may happen by half."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def step(self) -> bool:
        """Whether it is the last step; raises after it."""
        self.steps -= 1
        if self.steps < 0:
            raise _Killed
        return self.steps == 0

    def create(self, path: StrPath) -> DurableFile:
        self.step()
        return _Killing(self, super().create(path).fd)

    def modify(self, path: StrPath) -> DurableFile:
        return _Killing(self, super().modify(path).fd)

    def rename(self, old: StrPath, new: StrPath) -> None:
        self.step()
        super().rename(old, new)

    def remove(self, path: StrPath) -> None:
        self.step()
        super().remove(path)


class _Killing(DurableFile):
    def __init__(self, disk: KillingDisk, fd: int) -> None:
        super().__init__(fd)
        self._disk = disk

    def write(self, *pieces: bytes) -> None:
        octets = b"".join(pieces)
        if self._disk.step():
            super().write(octets[: len(octets) // 2])
            raise _Killed
        super().write(octets)

    def write_at(self, octets: bytes, offset: int) -> None:
        if self._disk.step():
            super().write_at(octets[: len(octets) // 2], offset)
            raise _Killed
        super().write_at(octets, offset)

    def truncate(self, size: int) -> None:
        self._disk.step()
        super().truncate(size)


@pytest.mark.parametrize("foreign", [b"", FOREIGN], ids=["alone", "appended meanwhile"])
@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_every_step(
    tmp_path: Path, change: Callable[[Disk, HeldMbox], bytes], foreign: bytes
) -> None:
    path = tmp_path / "ada.mbox"
    whole = 0
    for steps in range(100):
        path.write_bytes(BEFORE)
        os.utime(path, (1479843877, 1479843877))
        inode = path.stat().st_ino
        after = b""
        try:
            with MboxLocks(1.0).hold(str(path)) as held:
                after = change(KillingDisk(steps), held)
        except _Killed:
            pass
        with path.open("ab") as other:
            other.write(foreign)
        for crash in range(30):  # the recovery itself is killed, too
            try:
                with MboxLocks(1.0, partial(finish_rewrite, KillingDisk(crash))).hold(str(path)):
                    break
            except _Killed:
                continue
        assert path.stat().st_ino == inode
        assert not os.path.exists(f"{path}.rewrite")
        got = path.read_bytes()
        if after:
            assert got == after + foreign
            whole += 1
            if whole == 2:
                break
        else:
            assert got.endswith(foreign)
            assert got.removesuffix(foreign) in (BEFORE, expected_after(change, tmp_path))
    assert whole == 2
    assert steps >= (2 if change is without_the_last else 6)


def expected_after(change: Callable[[Disk, HeldMbox], bytes], folder: Path) -> bytes:
    path = folder / "whole.mbox"
    path.write_bytes(BEFORE)
    os.utime(path, (1479843877, 1479843877))
    with MboxLocks(1.0).hold(str(path)) as held:
        return change(Disk(), held)


def test_a_rest_of_a_version_without_journals_goes(tmp_path: Path) -> None:
    path = tmp_path / "ada.mbox"
    path.write_bytes(BEFORE)
    Path(f"{path}.rewrite").write_bytes(message("a"))
    with MboxLocks(1.0, partial(finish_rewrite, Disk())).hold(str(path)):
        pass
    assert path.read_bytes() == BEFORE
    assert os.listdir(tmp_path) == ["ada.mbox"]


def test_a_damaged_journal_stops_everybody(tmp_path: Path) -> None:
    path = tmp_path / "ada.mbox"
    path.write_bytes(BEFORE)
    journal = Path(f"{path}.rewrite")
    try:
        with MboxLocks(1.0).hold(str(path)) as held:
            without_some(KillingDisk(7), held)
    except _Killed:
        pass
    journal.write_bytes(journal.read_bytes()[:-1] + b"?")
    locks = MboxLocks(1.0, partial(finish_rewrite, Disk()))
    with pytest.raises(MailboxUnavailable, match="journal"), locks.hold(str(path)):
        pass
    assert not os.path.exists(f"{path}.lock")


def test_a_full_disk_leaves_the_old_mbox(tmp_path: Path) -> None:
    class FullDisk(Disk):
        def modify(self, path: StrPath) -> DurableFile:
            return _Full(super().modify(path).fd)

    class _Full(DurableFile):
        def write_at(self, octets: bytes, offset: int) -> None:
            super().write_at(octets[:10], offset)
            raise OSError(28, "No space left on device")

    path = tmp_path / "ada.mbox"
    path.write_bytes(BEFORE)
    with pytest.raises(OSError, match="No space"), MboxLocks(1.0).hold(str(path)) as held:
        with_more(FullDisk(), held)
    assert path.read_bytes() == BEFORE
    assert not os.path.exists(f"{path}.rewrite")
