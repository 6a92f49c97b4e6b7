"""The queue, opened for a command as the user who owns it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mailserver.admin.operator import WHO_MAY, Operator, Refusal, become_owner
from mailserver.spool.inspection import QueueInspection
from mailserver.spool.schema import SpoolUnusable


@contextmanager
def inspection_of(operator: Operator) -> Iterator[QueueInspection]:
    """The spools of all workers.

    Raises:
        Refusal: they cannot be read.
    """
    folder = operator.settings.state / "spool"
    become_owner(operator.settings.state)
    # A folder that may not be read would look like an empty queue.
    if folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise Refusal(os.EX_NOPERM, f"{folder}: Permission denied; {WHO_MAY}")
    try:
        with QueueInspection(folder) as inspection:
            yield inspection
    except SpoolUnusable as error:
        raise Refusal(os.EX_UNAVAILABLE, str(error)) from error
