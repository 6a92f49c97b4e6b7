"""The recorder: what is told is written in its thread, dropped when there is too much, and never waits."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailserver.trace import recorder as recorder_module
from mailserver.trace.marks import Marks, made_at
from mailserver.trace.reading import find, lives
from mailserver.trace.recorder import Recorder
from mailserver.trace.segments import SegmentWriter, append, segments, sweep
from mailserver.values.account import Account
from mailserver.values.address import NULL_SENDER, Address, address_from
from mailserver.values.attempt import Attempt, Facts, Step
from mailserver.values.content import MemoryContent
from mailserver.values.envelope import Entry, Envelope, Recipient, Waiting
from mailserver.values.outcome import Delayed, Delivered, Relayed
from mailserver.values.reply import reply
from mailserver.values.session import SessionFacts, TLSFacts

NOW = 1_795_388_400.0
DAY = 86400.0
SESSION = SessionFacts(
    "submission",
    "192.0.2.9",
    4711,
    hello="mx.c.test",
    extended=True,
    tls=TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384"),
    account=Account(address_from("ada@a.test")),
    client_name="mx.c.test",
    began=NOW - 1,
)


def entry(*texts: str, number: int = int(NOW * 1e6) << 10, sender: Address | None = None) -> Entry:
    recipients = tuple(
        Recipient(n, address_from(t.partition("=")[0]), address_from(t.rpartition("=")[2]))
        for n, t in enumerate(texts)
    )
    envelope = Envelope(address_from("ada@a.test") if sender is None else sender, recipients)
    return Entry(number, NOW, envelope, tuple(map(Waiting, recipients)), MemoryContent(b"x" * 100))


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def recorder(tmp_path: Path, complaints: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setattr(recorder_module, "BATCH_SECONDS", 0.0)
    made = Recorder(tmp_path, 0, 30 * DAY, 0, complaints.append, ["relay_only", "greylist"], lambda: NOW)
    yield made
    made.stop()


def kinds(records: list[dict[str, Any]]) -> list[str]:
    return [record["e"] for record in records]


def test_the_newest_of_all_workers_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "BATCH_SECONDS", 0.0)
    moment = [NOW]
    recorders = [
        Recorder(tmp_path, worker, 30 * DAY, 0, lambda words: None, [], lambda: moment[0])
        for worker in (0, 1)
    ]
    for recorder in recorders:
        recorder.start()
    messages = []
    for turn in range(8):
        moment[0] = NOW + turn
        messages.append(replace(entry("bea@b.test"), id=entry("bea@b.test").id + turn))
        recorders[1 - turn % 2].accepted(messages[-1], SESSION, f"<{turn}@c.test>", [])
    for recorder in recorders:
        recorder.stop()
    for most in (1, 3, 8):
        assert find(tmp_path, "bea@b.test", most) == [one.queue_id for one in messages[-most:]]


def test_a_life_is_told_from_the_connection_to_the_end(recorder: Recorder, tmp_path: Path) -> None:
    recorder.start()
    message = entry("bea@b.test=list@a.test", "ben@a.test=list@a.test")
    bea, ben = message.envelope.recipients
    recorder.accepted(message, SESSION, "<one@c.test>", [("spf", "pass")])
    step = Step(0.1, "RCPT TO", "450 4.2.1 later")
    facts = Facts(attempts=(Attempt(at=NOW, host="mx.b.test", address="192.0.2.1", port=25, steps=(step,)),))
    later = Delayed(recipient=bea, status="4.2.1", diagnostic="450 later", relay="mx.b.test", facts=facts)
    recorder.attempted(message, [later])
    recorder.attempted(
        message, [Delivered(recipient=ben, status="2.0.0", diagnostic="delivered", relay="maildir")]
    )
    recorder.attempted(
        message, [Relayed(recipient=bea, status="2.0.0", diagnostic="250 ok", relay="mx.b.test")]
    )
    recorder.removed(message)
    recorder.stop()
    for what in (
        message.queue_id,
        "one@c.test",
        "<One@c.test>",
        "LIST@a.test",
        "bea@b.test",
        "ada@a.test",
        "last",
    ):
        assert find(tmp_path, what, 5) == [message.queue_id], what
    assert find(tmp_path, "nobody@a.test", 5) == []
    life = lives(tmp_path, [message.queue_id])[message.queue_id]
    assert kinds(life.records) == ["accepted", "attempt", "attempt", "attempt"]
    assert life.rules == ["relay_only", "greylist"]
    accepted, first = life.records[0], life.records[1]
    assert accepted["user"] == "ada@a.test"
    assert accepted["tls"] == "TLSv1.3 TLS_AES_256_GCM_SHA384"
    assert accepted["client"] == ["192.0.2.9", 4711, "mx.c.test"]
    assert accepted["notes"] == [["spf", "pass"]]
    assert accepted["to"] == [[0, "bea@b.test", "list@a.test"], [1, "ben@a.test", "list@a.test"]]
    assert first["to"][0]["what"] == "delayed"
    assert first["tries"][0]["steps"] == [[0.1, "RCPT TO", "450 4.2.1 later"]]


def test_what_is_made_from_a_message_is_told_with_it(recorder: Recorder, tmp_path: Path) -> None:
    recorder.start()
    message, report = (
        entry("x@b.test"),
        entry("ada@a.test", number=(int(NOW * 1e6) + 5) << 10, sender=NULL_SENDER),
    )
    recorder.accepted(message, SESSION)
    recorder.reported(report, message)
    recorder.attempted(
        report,
        [Delivered(recipient=report.envelope.recipients[0], status="2.0.0", diagnostic="", relay="mbox")],
    )
    recorder.stop()
    found = lives(tmp_path, [message.queue_id])
    assert list(found) == [message.queue_id, report.queue_id]
    assert found[report.queue_id].parent == message.queue_id
    assert kinds(found[report.queue_id].records) == ["accepted", "attempt"]


def test_a_refusal_has_an_id_that_is_found(recorder: Recorder, tmp_path: Path) -> None:
    recorder.start()
    said = recorder.refused(
        reply(550, "5.1.1", "no such user"), "RCPT", SESSION, NULL_SENDER, address_from("x@a.test"), "exists"
    )
    recorder.stop()
    assert said.text == f"550 5.1.1 no such user ({said.mark})"
    (id_,) = find(tmp_path, said.mark, 5)
    (record,) = lives(tmp_path, [id_])[id_].records
    assert (record["rule"], record["to"], record["reply"]) == ("exists", "x@a.test", "550 5.1.1 no such user")
    assert find(tmp_path, "x@a.test", 5) == find(tmp_path, "last", 5) == [said.mark]


def test_marks_differ_and_tell_when_they_were_made() -> None:
    one, other = Marks(1, lambda: NOW), Marks(2, lambda: NOW)
    given = {marks.next() for marks in (one, other) for _ in range(100)}
    assert len(given) == 200
    assert max(map(len, given)) <= 9
    assert made_at(one.next()) == pytest.approx(NOW, abs=1.0)
    assert made_at(entry("x@b.test").queue_id) == pytest.approx(NOW)
    assert made_at("not an id") is None


def test_a_long_refusal_has_its_id_on_a_line_of_its_own() -> None:
    said = Marks(0, lambda: NOW).put_on(reply(550, "5.7.1", "x" * 450))
    assert said.lines == ("x" * 450, f"({said.mark})")


def test_too_much_is_dropped_and_counted(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "MOST_WAITING", 3)
    for _ in range(10):
        recorder.held(entry("x@b.test"))
    assert recorder.dropped == 7
    monkeypatch.undo()
    recorder.start()
    recorder.stop()
    (segment,) = segments(tmp_path)
    told = [json.loads(line) for line in segment.path.read_bytes().splitlines()]
    assert [record["count"] for record in told if record["e"] == "lost"] == [7]
    assert kinds(told).count("held") == 3


def test_a_full_disk_costs_records_and_nothing_else(
    recorder: Recorder, tmp_path: Path, complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()
    write = os.write

    def failing(fd: int, octets: Any) -> int:
        if full.is_set():
            write(fd, bytes(octets)[:5])
            raise OSError(28, "No space left on device")
        return write(fd, octets)

    monkeypatch.setattr("mailserver.trace.segments.os.write", failing)
    recorder.start()
    first, second = entry("x@b.test"), entry("y@b.test", number=(int(NOW * 1e6) + 9) << 10)
    recorder.held(first)
    while not find_quietly(tmp_path, first.queue_id):
        pass
    full.set()
    recorder.held(second)
    while not recorder.dropped:
        pass
    full.clear()
    recorder.held(first)
    recorder.stop()
    (segment,) = segments(tmp_path)
    told = [json.loads(line) for line in segment.path.read_bytes().splitlines()]
    assert kinds(told) == ["rules", "began", "held", "lost", "held", "stopped"]
    assert len(complaints) == 1
    assert "mail goes on" in complaints[0]


def find_quietly(folder: Path, id_: str) -> bool:
    return bool(lives(folder, [id_]))


def test_a_torn_line_is_closed_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "2026-11-22.0.trace").write_bytes(b'{"q":"x","t":1,"e":"remo')
    writer = SegmentWriter(tmp_path, "0", DAY, 0, lambda: NOW)
    writer.write(b'{"q":"y","t":2,"e":"removed"}\n')
    writer.close()
    assert [segment.day for segment in segments(tmp_path)] == ["2026-11-22"]
    assert len(lives(tmp_path, ["x", "y"])) == 1


def test_old_days_go_and_the_oldest_when_there_are_too_many_octets(tmp_path: Path) -> None:
    for day in ("2026-10-01", "2026-11-19", "2026-11-20", "2026-11-21"):
        for writer in ("0", "1"):
            (tmp_path / f"{day}.{writer}.trace").write_bytes(b"x" * 1000)
    sweep(tmp_path, NOW - 30 * DAY, 0, "2026-11-22")
    assert {segment.day for segment in segments(tmp_path)} == {"2026-11-19", "2026-11-20", "2026-11-21"}
    sweep(tmp_path, NOW - 30 * DAY, 2500, "2026-11-22")
    assert {segment.day for segment in segments(tmp_path)} == {"2026-11-21"}


def test_each_writer_has_its_own_file_and_all_are_read(tmp_path: Path) -> None:
    message = entry("x@b.test")
    for worker in (0, 1):
        made = Recorder(tmp_path, worker, DAY, 0, pytest.fail, (), lambda: NOW)
        made.start()
        (made.accepted if worker == 0 else made_held(made))(message, None)
        made.stop()
    append(tmp_path, [b'{"q":"%s","t":1,"e":"operator"}\n' % message.queue_id.encode()], NOW)
    assert [segment.writer for segment in segments(tmp_path)] == ["0", "1", "commands"]
    assert sorted(kinds(lives(tmp_path, [message.queue_id])[message.queue_id].records)) == [
        "accepted",
        "held",
        "operator",
    ]


def made_held(made: Recorder) -> Any:
    return lambda message, _: made.held(message)


def test_letters_of_every_alphabet_are_found(recorder: Recorder, tmp_path: Path) -> None:
    recorder.start()
    message = entry("олена@пошта.укр")
    odd = replace(message, id=message.id + 1024, envelope=Envelope(Address("\udcff", "a.test"), ()))
    recorder.accepted(message, None)
    recorder.accepted(odd, None)
    recorder.stop()
    assert find(tmp_path, "олена@пошта.укр", 5) == [message.queue_id]
    assert lives(tmp_path, [odd.queue_id])
