"""The only place that creates, renames, removes and syncs files whose order matters.

One ``Disk`` is made by ``house.py`` and handed to every room that keeps mail, so that a test can
put a disk in its place that loses, tears and reorders whatever was not synced.  Reading needs no
such care and uses ``os`` directly.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from types import TracebackType

StrPath = str | os.PathLike[str]

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_EXTEND = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MODIFY = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FAR = ("nfs", "cifs", "smb", "fuse", "ceph", "9p", "afs", "gfs", "gluster", "lustre", "ocfs", "virtiofs")
_IOV_MAX = 1024  # POSIX promises 16, Linux has 1024


def write_all(fd: int, pieces: Sequence[bytes]) -> None:
    """Write every octet of ``pieces`` with as few system calls as the kernel allows.

    Raises:
        OSError: the disk's own reason; part of the octets may have been written.
    """
    if len(pieces) > _IOV_MAX:
        pieces = [b"".join(pieces)]
    written = os.writev(fd, pieces)
    wanted = sum(map(len, pieces))
    if written != wanted:  # a full disk, a signal, or more than 2 GiB
        rest = memoryview(b"".join(pieces))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


class DurableFile:
    """An open file of a ``Disk``. ``write`` appends; nothing is safe before ``sync`` returns."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, *pieces: bytes) -> None:
        """Append all of ``pieces``, by one system call; ``OSError`` may leave a part of them behind."""
        write_all(self.fd, pieces)

    def write_at(self, octets: bytes, offset: int) -> None:
        """Put all of ``octets`` at ``offset``; only for a file that ``Disk.modify`` has opened."""
        rest = memoryview(octets)
        while rest:
            written = os.pwrite(self.fd, rest, offset)
            rest, offset = rest[written:], offset + written

    def truncate(self, size: int) -> None:
        """Cut the file back to ``size`` octets, or fill it up to them with zeros."""
        os.ftruncate(self.fd, size)

    def start_sync(self) -> None:
        """Begin to write what was appended, and wait for nothing: many files that are synced after one
        another are then on their way to the disk together."""
        # Linux writes dirty pages before it drops what has none (mm/fadvise.c), which is all we ask for.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Octets and length are on the disk when this returns.

        After an ``OSError`` the unwritten pages are lost: a second call that succeeds proves
        nothing, so nobody may retry and call it good.
        """
        os.fsync(self.fd)

    def close(self) -> None:
        """Close; harmless twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> DurableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Disk:
    """The real disk. All methods raise ``OSError`` with the system's own reason."""

    def __init__(self) -> None:
        self._filesystems: dict[str, int] = {}
        self._lock = threading.Lock()

    def make_folder(self, path: StrPath) -> None:
        """Make ``path`` and its missing parents, durably, mode 0700; harmless when it is there.

        ``FileExistsError`` when something else than a folder has the name.
        """
        path = os.fspath(path)
        if os.path.isdir(path):
            return
        parent = os.path.dirname(path) or "."
        if not os.path.isdir(parent):
            self.make_folder(parent)
        try:
            os.mkdir(path, FOLDER_MODE)
        except FileExistsError:
            if not os.path.isdir(path):  # not made by somebody else in the same moment
                raise
        self.sync_folder(parent)

    def create(self, path: StrPath) -> DurableFile:
        """A new file, mode 0600; ``FileExistsError`` when the name is taken, also by a symlink."""
        return DurableFile(os.open(path, _NEW, FILE_MODE))

    def write(self, path: StrPath, pieces: Sequence[bytes]) -> None:
        """A whole new file as ``create`` makes it, not synced; a failure leaves no file behind."""
        fd = os.open(path, _NEW, FILE_MODE)
        try:
            try:
                write_all(fd, pieces)
            finally:
                os.close(fd)
        except BaseException:
            os.unlink(path)
            raise

    def extend(self, path: StrPath) -> DurableFile:
        """An existing file, opened so that every ``write`` goes to its end."""
        return DurableFile(os.open(path, _EXTEND))

    def modify(self, path: StrPath) -> DurableFile:
        """An existing file, opened for ``write_at``; ``write`` is not for it."""
        return DurableFile(os.open(path, _MODIFY))

    def rename(self, old: StrPath, new: StrPath) -> None:
        """Give ``old`` the name ``new``, in the place of whatever had it."""
        os.rename(old, new)

    def link(self, old: StrPath, new: StrPath) -> None:
        """A second name; ``FileExistsError`` when it is taken."""
        os.link(old, new, follow_symlinks=False)

    def remove(self, path: StrPath) -> None:
        """Take away a file's name."""
        os.unlink(path)

    def sync_file(self, path: StrPath) -> None:
        """Sync the octets and length of a file that is not open."""
        self._sync(path, _READ)

    def sync_folder(self, path: StrPath) -> None:
        """Sync the names in a folder."""
        self._sync(path, _FOLDER)

    def sync_filesystem(self, folder: StrPath) -> bool:
        """Sync everything on the file system that holds ``folder``; the GIL is free meanwhile.

        ``False`` where the system cannot do that and tell of its failure (Linux before 5.8, other
        systems): then nothing was done and the caller syncs each file and each folder.  Linux
        reports a lost write once to each descriptor that was open when it happened, so the
        folder's descriptor is kept from the first call on: call once before the first write, and
        from one thread for one folder.
        """
        if _syncfs is None:
            return False
        if _syncfs(self._filesystem(os.fspath(folder))) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fspath(folder))
        return True

    def is_far(self, folder: StrPath) -> bool:
        """Whether ``folder`` lies behind a network or another process, which may let a call wait for long."""
        device = os.stat(folder).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        try:
            # Of a path the kernel escapes space, tab, line feed and backslash alone: no other ends a field.
            with open("/proc/self/mountinfo", encoding="utf-8", errors="replace", newline="\n") as mounts:
                rows = [line.split(" ") for line in mounts]
        except OSError:
            return False
        # proc_pid_mountinfo(5): the device is the third field, the type comes behind a lone hyphen.
        kinds = [row[row.index("-") + 1] for row in rows if row[2] == wanted]
        return any(kind.startswith(_FAR) for kind in kinds)

    def close(self) -> None:
        """Give back the descriptors that ``sync_filesystem`` keeps."""
        with self._lock:
            while self._filesystems:
                os.close(self._filesystems.popitem()[1])

    def _filesystem(self, folder: str) -> int:
        with self._lock:
            fd = self._filesystems.get(folder)
            if fd is None:
                fd = self._filesystems[folder] = os.open(folder, _FOLDER)
            return fd

    @staticmethod
    def _sync(path: StrPath, flags: int) -> None:
        fd = os.open(path, flags)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _find_syncfs() -> ctypes._NamedFuncPointer | None:
    """The C library's ``syncfs``, where its result can be trusted (Linux 5.8 or later)."""
    system = os.uname()
    if system.sysname != "Linux":
        return None
    numbers = [int("".join(filter(str.isdigit, part)) or 0) for part in system.release.split(".")[:2]]
    if numbers < [5, 8]:
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except AttributeError:
        return None
    function.argtypes = (ctypes.c_int,)
    function.restype = ctypes.c_int
    return function


_syncfs = _find_syncfs()
