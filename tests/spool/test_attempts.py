"""What is kept of attempts, for how long, and how files of an older age get the tables for it."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

from mailserver.durable import Disk
from mailserver.spool import schema
from mailserver.spool.sqlite import SqliteSpool
from mailserver.values.address import address_from
from mailserver.values.attempt import Attempt, Facts, Step
from mailserver.values.envelope import Entry, Envelope, Recipient
from mailserver.values.outcome import Delayed, Relayed

ATTEMPT = Attempt(
    at=5.0,
    host="mx.b.test",
    address="192.0.2.1",
    port=25,
    tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
    verified="DANE",
    uses=1,
    steps=(Step(0.1, "RCPT TO", "450 4.2.1 später \u0000"),),
)


def spool_in(folder: Path) -> SqliteSpool:
    spool = SqliteSpool(folder, Disk())
    spool.start()
    return spool


def submitted(spool: SqliteSpool, *texts: str) -> Entry:
    writer = spool.begin()
    writer.write(b"Subject: x\r\n\r\n")
    addresses = [address_from(text) for text in texts]
    recipients = tuple(Recipient(n, a, a) for n, a in enumerate(addresses))
    return writer.commit(Envelope(address_from("ada@a.test"), recipients)).result(10)


def rows(folder: Path) -> list[dict[str, Any]]:
    with sqlite3.connect(schema.spool_path(folder, 0)) as db:
        return [json.loads(text) for (text,) in db.execute("SELECT facts FROM attempt ORDER BY number")]


def delayed(entry: Entry, number: int = 0, times: int = 1) -> Delayed:
    recipient = entry.envelope.recipients[number]
    facts = Facts(attempts=(ATTEMPT,) * times)
    return Delayed(recipient=recipient, status="4.2.1", diagnostic="later", retry_at=1e9, facts=facts)


def test_the_last_attempts_of_a_waiting_message_are_kept(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    entry = submitted(spool, "x@b.test")
    for _ in range(schema.ATTEMPTS_KEPT + 5):
        spool.record(entry, [delayed(entry)]).result(10)
    spool.stop()
    kept = rows(tmp_path)
    assert len(kept) == schema.ATTEMPTS_KEPT
    assert kept[0]["host"] == "mx.b.test"
    assert kept[0]["verified"] == "DANE"
    assert kept[0]["recipients"] == [0]
    assert kept[0]["steps"] == [[0.1, "RCPT TO", "450 4.2.1 später \x00"]]


def test_they_go_with_the_message(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    entry = submitted(spool, "x@b.test", "y@b.test")
    other = submitted(spool, "z@b.test")
    spool.record(entry, [delayed(entry)]).result(10)
    spool.record(other, [delayed(other)]).result(10)
    assert len(rows(tmp_path)) == 2
    done = [
        Relayed(recipient=one, status="2.0.0", diagnostic="250 ok", facts=Facts(attempts=(ATTEMPT,)))
        for one in entry.envelope.recipients
    ]
    spool.record(entry, done).result(10)
    spool.stop()
    assert len(rows(tmp_path)) == 1


def test_nothing_is_written_of_a_message_that_went_at_once(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    entry = submitted(spool, "x@b.test")
    facts = Facts(attempts=(ATTEMPT,))
    (recipient,) = entry.envelope.recipients
    spool.record(entry, [Relayed(recipient=recipient, status="2.0.0", diagnostic="ok", facts=facts)]).result(
        10
    )
    spool.stop()
    assert rows(tmp_path) == []


def test_one_transactions_attempt_is_kept_once_for_all_its_recipients(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    entry = submitted(spool, "x@b.test", "y@b.test")
    first = delayed(entry, 0)
    second = replace(first, recipient=entry.envelope.recipients[1])
    spool.record(entry, [first, second]).result(10)
    spool.stop()
    (kept,) = rows(tmp_path)
    assert kept["recipients"] == [0, 1]


def test_a_file_of_the_first_version_gets_what_came_later(tmp_path: Path) -> None:
    path = schema.spool_path(tmp_path, 0)
    with sqlite3.connect(path) as db:
        db.executescript(schema._TABLES)
        db.execute(
            "CREATE INDEX recipient_due ON recipient (next_attempt, entry, number)"
            " WHERE next_attempt IS NOT NULL"
        )
        db.execute("INSERT INTO entry VALUES (1024, 1.0, 'ada', 'a.test', '{}', NULL, 0, 1, x'41')")
        db.execute(
            "INSERT INTO recipient VALUES (1024, 0, 5.0, 3, 0, 'x', 'b.test', NULL, NULL, '', '', 'later')"
        )
    for _ in range(2):  # and it is not done twice
        spool = spool_in(tmp_path)
        (entry,) = spool.due(10.0, 5).result(10)
        assert entry.waiting[0].attempts == 3
        spool.give_back(entry, lane=2).result(10)
        assert spool.due(10.0, 5, lanes=(0, 1)).result(10) == ()
        (entry,) = spool.due(10.0, 5, lanes=(2,)).result(10)
        spool.give_back(entry).result(10)
        assert spool.due(10.0, 5, without=[entry.id]).result(10) == ()
        spool.stop()
