"""A place for a test's files, outside the checkout and gone with the test."""

import tempfile
from pathlib import Path

from twisted.trial.unittest import TestCase


def scratch_path(case: TestCase) -> Path:
    """A path that does not exist yet, in a folder of its own."""
    folder = tempfile.TemporaryDirectory()
    case.addCleanup(folder.cleanup)
    return Path(folder.name) / "it"
