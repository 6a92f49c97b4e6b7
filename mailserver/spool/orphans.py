"""Spools that no worker serves any more, because there are fewer workers than there were."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from mailserver.spool.schema import (
    SpoolUnusable,
    check_version,
    connect,
    spool_path,
    spool_workers,
    version_of,
)


def orphans(folder: Path, workers: int) -> list[int]:
    """The numbers of the spools below ``folder`` that hold mail and belong to none of ``workers`` workers.

    Raises:
        SpoolUnusable: one of them cannot be read; the text is for the administrator.
    """
    return [n for n in spool_workers(folder) if n >= workers and _holds_mail(spool_path(folder, n))]


def _holds_mail(path: Path) -> bool:
    try:
        with closing(connect(path)) as db:
            check_version(db, path)
            return version_of(db) > 0 and db.execute("SELECT 1 FROM entry LIMIT 1").fetchone() is not None
    except sqlite3.Error as error:
        raise SpoolUnusable(f"the spool {path}, which no worker serves, cannot be read: {error}") from error
