"""Folders for the rounds: each new and apart from the others, and none removed before the last has ended.

ext4 gives out no inode that was freed in the last minutes: a new file looks past each of them, one after
the other.  After a round whose thousands of files were removed, whoever comes next would pay for that with
a multiple of what a file costs (a millisecond was seen), and the order of the rounds would decide.  So
nothing is removed before the end, and each round has a part of the disk of its own, for the run before
this one has removed its files too.
"""

from __future__ import annotations

import array
import atexit
import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

# linux/fs.h: what chattr(1) and lsattr(1) use.
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
_TOP_FOLDER = 0x00020000
"""chattr(1)'s ``T``: what is in this folder has nothing to do with each other, and may lie far apart."""


def fresh(folder: Path) -> Path:
    """A new folder in ``folder``, which goes when the program ends."""
    return Path(tempfile.mkdtemp(prefix="round-", dir=_home(folder)))


@cache
def _home(folder: Path) -> Path:
    """The folder of this program's rounds."""
    home = Path(tempfile.mkdtemp(prefix="mailserver-benchmark-", dir=folder))
    home.chmod(0o755)  # Postfix's processes are not root
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # no ext4: then it is as it is
            flags = array.array("l", [0])
            fcntl.ioctl(fd, _GET_FLAGS, flags)
            flags[0] |= _TOP_FOLDER
            fcntl.ioctl(fd, _SET_FLAGS, flags)
    finally:
        os.close(fd)
    return home
