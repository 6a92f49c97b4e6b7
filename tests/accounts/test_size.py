"""With 10,000 users and 20,000 aliases a question stays a few reads by index: counted, not timed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks.recipients import addresses, fill


def test_a_question_is_a_few_reads_by_index(tmp_path: Path) -> None:
    directory = fill(tmp_path)
    read: list[str] = []
    connection = directory._opened()
    connection.set_trace_callback(read.append)
    asked = addresses()[:200]
    for address in asked:
        before = len(read)
        directory.resolve(address)
        assert len(read) - before <= 13, (str(address), read[before:])
    again = len(read)
    for address in asked:
        if not address.local.startswith("guess"):
            directory.resolve(address)
    looks = Counter(sql for sql in read[again:])
    assert set(looks) <= {"PRAGMA data_version"}, "what was met before costs no read"
    connection.set_trace_callback(None)
    for sql in {sql for sql in read if sql.startswith("SELECT")}:
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}"))
        assert "SCAN account" not in plan, (sql, plan)
        assert "SCAN alias" not in plan, (sql, plan)
        assert "SCAN target" not in plan, (sql, plan)
    directory.close()
