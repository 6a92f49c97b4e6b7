"""Folders for the rounds: each one new, and none removed before the last round has ended.

ext4 gives out no inode that was freed in the last minutes: a new file looks past each of them, one after
the other.  After a round whose thousands of files were removed, whoever comes next would pay for that with
a multiple of what a file costs (half a millisecond was seen), and the order of the rounds would decide.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path


def fresh(folder: Path) -> Path:
    """A new folder in ``folder``, which goes when the program ends."""
    place = Path(tempfile.mkdtemp(prefix="mailserver-benchmark-", dir=folder))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place
