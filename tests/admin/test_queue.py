"""``mailserver queue`` over a real spool, with the server running and stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mailserver.admin.command import main
from mailserver.admin.tried import merged, why_page
from mailserver.durable import Disk
from mailserver.spool.sqlite import SqliteSpool
from mailserver.values.address import NULL_SENDER, address_from
from mailserver.values.attempt import Attempt, Facts, Step
from mailserver.values.envelope import Entry, Envelope, Recipient, queue_id
from mailserver.values.outcome import Delayed

CONTENT = "Received: from there\r\n\tby here\r\nSubject: кава \x1b[2J\r\n\r\nthe body\r\n".encode()
LATER = time.time() + 1000

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "mailserver.toml").write_text('hostname = "mx.example.test"\n')
    return lambda *arguments: CliRunner().invoke(main, ["-c", str(tmp_path / "mailserver.toml"), *arguments])


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SqliteSpool]:
    made = SqliteSpool(tmp_path / "state" / "spool", Disk())
    made.start()
    yield made
    made.stop()


def spooled(
    spool: SqliteSpool, *recipients: str, reverse: str = "ada@example.test", content: bytes = CONTENT
) -> Entry:
    writer = spool.begin()
    writer.write(content)
    original = address_from("list@example.test")
    envelope = Envelope(
        address_from(reverse) if reverse else NULL_SENDER,
        tuple(Recipient(n, address_from(r), original) for n, r in enumerate(recipients)),
    )
    return writer.commit(envelope).result(10)


def delayed(spool: SqliteSpool, entry: Entry, reason: str = "connection refused") -> None:
    outcomes = [
        Delayed(recipient=w.recipient, status="4.4.1", diagnostic=reason, retry_at=LATER)
        for w in entry.waiting
    ]
    spool.record(entry, outcomes).result(10)


def listed(run: Run) -> list[dict[str, object]]:
    result = run("queue", "list", "--json")
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, object]] = json.loads(result.stdout)
    return found


def test_an_empty_queue(run: Run, spool: SqliteSpool) -> None:
    result = run("queue", "list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "The queue is empty.\n")
    assert listed(run) == []


def test_a_queue_that_has_never_been(run: Run, tmp_path: Path) -> None:
    assert run("queue", "list").stderr == "The queue is empty.\n"
    assert not (tmp_path / "state").exists()


def test_the_list_for_people(run: Run, spool: SqliteSpool) -> None:
    leased = spooled(spool, "bob@b.test")
    waiting = spooled(spool, "carol@c.test", "dan@c.test", "eve@c.test", reverse="")
    delayed(spool, waiting)
    lines = run("queue", "list").stdout.splitlines()
    assert lines[0].split() == ["id", "age", "size", "from", "to", "next", "reason"]
    assert lines[1].startswith(f"{leased.queue_id}  ")
    assert "<ada@example.test>  <bob@b.test>" in lines[1]
    assert lines[1].endswith("being delivered")
    assert lines[2].startswith(f"{waiting.queue_id}  ")
    assert "  <>  " in lines[2]
    assert "<carol@c.test> and 2 more  in 1" in lines[2]
    assert lines[2].endswith("connection refused")


def test_the_list_for_programs(run: Run, spool: SqliteSpool) -> None:
    entry = spooled(spool, "bob@b.test")
    delayed(spool, entry)
    ((found),) = listed(run)
    assert found["id"] == entry.queue_id
    assert found["size"] == len(CONTENT)
    assert found["from"] == "ada@example.test"
    assert found["recipients"] == [
        {
            "address": "bob@b.test",
            "original": "list@example.test",
            "state": "waiting",
            "next_attempt": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(LATER)),
            "hold": "",
            "attempts": 1,
            "reason": "connection refused",
        }
    ]


def test_one_message_for_people(run: Run, spool: SqliteSpool) -> None:
    entry = spooled(spool, "bob@b.test")
    delayed(spool, entry, "450 4.2.1 try again")
    shown = run("queue", "show", entry.queue_id).stdout
    assert f"id        {entry.queue_id}\n" in shown
    assert "to        <bob@b.test>, sent to <list@example.test>\n" in shown
    assert "waiting, next attempt " in shown
    assert "450 4.2.1 try again" in shown
    assert shown.endswith("\n\nReceived: from there\n        by here\nSubject: кава \\x1b[2J\n")
    assert "the body" not in shown


@pytest.mark.parametrize("content", [CONTENT, b"Subject: large\r\n\r\n" + b"x" * 600_000, b""])
def test_the_message_itself(run: Run, spool: SqliteSpool, content: bytes) -> None:
    entry = spooled(spool, "bob@b.test", content=content)
    assert run("queue", "show", entry.queue_id, "--content").stdout_bytes == content
    header = content.partition(b"\r\n\r\n")[0].decode().replace("\r\n", "\n")
    assert json.loads(run("queue", "show", entry.queue_id, "--json").stdout)["header"] == header


def test_a_stopped_server(run: Run, spool: SqliteSpool) -> None:
    spooled(spool, "bob@b.test")
    spool.stop()
    assert run("queue", "list").stdout.rstrip().endswith("at the next start")
    assert run("queue", "retry", "--all").stdout == "0 recipients will be tried when the server starts\n"


@pytest.mark.parametrize("what", ["ID", "bob@b.test", "bob@B.test", "list@example.test", "B.test", "--all"])
def test_what_waits_is_tried_again(run: Run, spool: SqliteSpool, what: str) -> None:
    entry = spooled(spool, "bob@b.test")
    delayed(spool, entry)
    assert spool.due(time.time(), 10).result(10) == ()
    result = run("queue", "retry", entry.queue_id if what == "ID" else what)
    assert (result.exit_code, result.stdout) == (0, "1 recipient will be tried now\n")
    assert [e.id for e in spool.due(time.time(), 10).result(10)] == [entry.id]


def test_what_is_being_delivered_is_left_alone(run: Run, spool: SqliteSpool) -> None:
    entry = spooled(spool, "bob@b.test")
    result = run("queue", "retry", entry.queue_id)
    assert (result.exit_code, result.stdout) == (0, f"{entry.queue_id} is being delivered already\n")
    spool.stop()
    assert run("queue", "retry", entry.queue_id).stdout == f"{entry.queue_id} is tried at the next start\n"


def test_a_domain_that_could_be_an_id(run: Run, spool: SqliteSpool) -> None:
    delayed(spool, spooled(spool, "bob@xyz"))
    assert run("queue", "retry", "xyz").stdout == "1 recipient will be tried now\n"


def test_messages_are_removed(run: Run, spool: SqliteSpool) -> None:
    one, two = spooled(spool, "bob@b.test"), spooled(spool, "bob@b.test")
    assert run("queue", "remove", one.queue_id, "--yes").stdout == f"{one.queue_id} removed\n"
    assert [found["id"] for found in listed(run)] == [two.queue_id]
    result = run("queue", "remove", one.queue_id, two.queue_id, "--yes")
    assert (result.exit_code, result.stdout) == (67, "")
    assert f"{one.queue_id} is not in the queue" in result.stderr
    assert f"({two.queue_id} removed)" in result.stderr
    assert listed(run) == []


NOT_THERE = queue_id(123456789)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("show", 64, "Missing argument 'ID'"),
        ("show AEIOU", 64, "'AEIOU' is not a queue id; `mailserver queue list` shows them. Example: "),
        (f"show {'z' * 30}", 64, "is not a queue id"),
        (f"show {NOT_THERE}", 67, f"{NOT_THERE} is not in the queue"),
        ("retry", 64, "Give IDs, or say which messages are meant."),
        (f"retry {NOT_THERE} --domain b.test --all", 64, "Give --all, or say which messages are meant."),
        ("retry @b.test", 64, "'@b.test' is not a mail address"),
        ("retry nowhere.test", 67, "nobody waits for that"),
        (f"retry {NOT_THERE}", 67, "nobody waits for that"),
        ("remove AEIOU --yes", 64, "'AEIOU' is not a queue id"),
        (f"remove {NOT_THERE}", 64, "confirm with --yes"),
        (f"remove {NOT_THERE} --yes", 67, f"{NOT_THERE} is not in the queue"),
    ],
)
def test_a_refusal_is_one_line_and_a_code(
    run: Run, spool: SqliteSpool, arguments: str, code: int, words: str
) -> None:
    spooled(spool, "bob@b.test")
    result = run("queue", *arguments.split())
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    assert words in line
    assert len(listed(run)) == 1


def test_a_broken_spool_is_unavailable(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "state" / "spool"
    folder.mkdir(parents=True)
    (folder / "spool-0.sqlite").write_bytes(b"not a database" * 1000)
    result = run("queue", "list")
    assert result.exit_code == 69
    assert "not a database" in result.stderr


def test_holds_and_release_times_are_shown(run: Run, spool: SqliteSpool) -> None:
    plain = Envelope(address_from("ada@example.test"), (Recipient(0, *[address_from("bob@b.test")] * 2),))
    for envelope in (replace(plain, hold="over its limit"), replace(plain, release_at=4e9)):
        spool.begin().commit(envelope).result(10)
    held, later = listed(run)
    assert (held["hold"], held["release_at"], later["hold"]) == ("over its limit", None, "")
    assert later["release_at"] == "2096-10-02T07:06:40+00:00"
    table = run("queue", "list").stdout
    assert "over its limit" in table
    assert "not before 2096-10-02T07:06:40+00:00" in table
    page = run("queue", "show", str(later["id"])).stdout
    assert "release   not before 2096-10-02T07:06:40+00:00" in page
    assert run("queue", "retry", str(later["id"])).exit_code == 0
    assert "not before" not in run("queue", "list").stdout


def test_show_tells_what_was_tried(run: Run, spool: SqliteSpool) -> None:
    entry = spooled(spool, "x@b.test")
    attempt = Attempt(
        at=1_800_000_000.0,
        host="mx.b.test",
        address="192.0.2.1",
        port=25,
        tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
        verified="DANE",
        steps=(Step(0.25, "RCPT TO", "450 4.2.1 later"),),
        ended="",
    )
    outcome = Delayed(
        recipient=entry.waiting[0].recipient,
        status="4.2.1",
        diagnostic="450 4.2.1 later",
        retry_at=LATER,
        facts=Facts(attempts=(attempt,)),
    )
    spool.record(entry, [outcome]).result(10)
    shown = run("queue", "show", entry.queue_id)
    assert "tried     2027-01-15T08:00:00+00:00  mx.b.test[192.0.2.1]:25" in shown.output
    assert "TLSv1.3 TLS_AES_256_GCM_SHA384, verified by DANE" in shown.output
    assert "0.250 s  RCPT TO: 450 4.2.1 later" in shown.output
    fields = json.loads(run("queue", "show", entry.queue_id, "--json").output)
    assert fields["tried"][0]["steps"] == [[0.25, "RCPT TO", "450 4.2.1 later"]]


def test_route_needs_the_running_server(run: Run) -> None:
    result = run("route", "x@b.test")
    assert result.exit_code == 69
    assert "is it running?" in result.stderr


def test_why_counts_what_waits_without_the_server(run: Run, spool: SqliteSpool) -> None:
    delayed(spool, spooled(spool, "x@b.test", "y@b.test"), "connection refused")
    spooled(spool, "z@B.test")
    result = run("queue", "why", "b.test")
    assert result.stdout.splitlines() == [
        "domain    b.test",
        "waiting   2: connection refused",
        "waiting   1: not tried yet",
        "stopped   the server does not run, so nothing is tried",
    ]
    assert json.loads(run("queue", "why", "b.test", "--json").stdout)["running"] is False


def test_tls_is_forgotten_on_the_disk(run: Run, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    for worker in (0, 1):
        path = tmp_path / "state" / f"tls-hosts-{worker}.json"
        path.write_text(json.dumps({"mx.b.test": 1.0, "mx.c.test": 2.0}))
    assert json.loads(run("queue", "forget", "MX.b.test", "--json").stdout) == {"hosts": ["mx.b.test"]}
    assert json.loads((tmp_path / "state" / "tls-hosts-1.json").read_text()) == {"mx.c.test": 2.0}
    assert run("queue", "forget", "mx.b.test").stdout == "nothing was known of its TLS\n"


def test_workers_are_told_as_one() -> None:
    def worker(dead: str, at: float) -> dict[str, Any]:
        state = {
            "busy": 1,
            "waiting": 2,
            "open": 0,
            "window": 5,
            "limit": 20,
            "dead": dead,
            "seconds_between": 0,
        }
        host = {
            "host": "mx[192.0.2.1]:25",
            "tls": "any",
            "policy": [],
            "refused": "",
            "memory": dead,
            "tls_seen": at,
        }
        last = {"at": at, "steps": []}
        return {
            "route": None,
            "hosts": [host],
            "destination": {**state, "probe_in": at if dead else None},
            "last": last,
            "policy_trouble": "the policy cannot be had" if dead else "",
        }

    told = merged("b.test", [worker("", 5.0), worker("refused", 9.0)], [(3, "refused")])
    assert told["destination"]["busy"] == 2
    assert (told["destination"]["dead"], told["destination"]["probe_in"]) == ("refused", 9.0)
    assert (told["last"]["at"], told["hosts"][0]["tls_seen"], told["workers"]) == (9.0, 9.0, 2)
    assert "\npolicy    the policy cannot be had\n" in why_page({**told, "last": None})
    assert merged("b.test", [{"trouble": "no such domain"}], [])["trouble"] == "no such domain"


def test_hold_with_an_end_shows_why_and_until_when(run: Run, spool: SqliteSpool) -> None:
    entry = spooled(spool, "x@b.test")
    other = spooled(spool, "y@c.test")
    for one in (entry, other):
        delayed(spool, one)
    held = run("queue", "hold", "--domain", "B.test", "--reason", "they asked", "--until", "2h", "--json")
    assert json.loads(held.output) == {"messages": [entry.queue_id], "recipients": 1}
    (shown, free) = json.loads(run("queue", "list", "--json").output)
    assert shown["hold"] == "they asked"
    assert shown["recipients"][0]["next_attempt"] is not None
    assert free["hold"] == ""
    assert spool.due(time.time() + 7100, 10).result(10)[0].id == other.id
    (back,) = spool.due(time.time() + 7300, 10).result(10)
    assert back.id == entry.id
    # Its time is over: it is held no more.
    spool.give_back(back).result(10)
    assert json.loads(run("queue", "list", "--json").output)[0]["hold"] == ""


def test_hold_without_an_end_waits_for_release(run: Run, spool: SqliteSpool) -> None:
    entry = spooled(spool, "x@b.test")
    delayed(spool, entry)
    assert run("queue", "hold", entry.queue_id, "--reason", "why not").exit_code == 0
    assert spool.due(1e12, 10).result(10) == ()
    assert run("queue", "release", entry.queue_id).exit_code == 0
    assert [one.id for one in spool.due(1e12, 10).result(10)] == [entry.id]


def test_bounce_and_reroute_are_orders_that_the_server_finds(run: Run, spool: SqliteSpool) -> None:
    small, large = spooled(spool, "x@b.test"), spooled(spool, "y@b.test", content=CONTENT * 100)
    for one in (small, large):
        delayed(spool, one)
    assert run("queue", "bounce", "--larger", "1KiB", "--reason", "too much", "--yes").exit_code == 0
    assert run("queue", "reroute", small.queue_id, "--to", "smtp://10.0.0.5:25").exit_code == 0
    found = {one.id: one.envelope for one in spool.due(1.0, 10).result(10)}
    assert found[large.id].bounce == "too much"
    assert found[small.id].route == "smtp://10.0.0.5:25"


def test_an_order_for_a_domain_is_not_for_the_others_of_a_message(run: Run, spool: SqliteSpool) -> None:
    entry = spooled(spool, "x@b.test", "y@c.test", "z@c.test")
    delayed(spool, entry)
    done = run("queue", "bounce", "--domain", "c.test", "--reason", "dead", "--yes")
    assert done.stdout == "2 recipients returned\n"
    (found,) = spool.due(1.0, 10).result(10)
    assert [(w.recipient.address.domain, w.bounce) for w in found.waiting] == [("c.test", "dead")] * 2
    assert run("queue", "remove", "--domain", "b.test", "--yes", "--json").exit_code == 0
    (shown,) = listed(run)
    assert [one["address"] for one in shown["recipients"]] == ["y@c.test", "z@c.test"]  # type: ignore[attr-defined]


def test_retry_release_and_remove_take_what_hold_takes(run: Run, spool: SqliteSpool) -> None:
    one, other = spooled(spool, "x@b.test"), spooled(spool, "y@c.test", content=CONTENT * 100)
    for entry in (one, other):
        delayed(spool, entry)
    assert run("queue", "hold", "--larger", "1KiB", "--reason", "large").exit_code == 0
    assert json.loads(run("queue", "retry", "--all", "--json").stdout)["messages"] == [one.queue_id]
    assert run("queue", "release", "--domain", "b.test").exit_code == 67
    assert run("queue", "release", "--recipient", "@C.test").stdout == f"{other.queue_id} released\n"
    assert run("queue", "remove", "--older", "1h", "--yes").exit_code == 67
    assert run("queue", "remove", "--held", "--yes").exit_code == 67
    assert run("queue", "remove", "--all", "--yes").exit_code == 0
    assert listed(run) == []


def test_orders_that_mean_nobody_or_nothing(run: Run, spool: SqliteSpool) -> None:
    spooled(spool, "x@b.test")
    for words, code in (
        (("hold", "--reason", "x"), 64),
        (("hold", "--sender", "@nowhere.test", "--reason", "x"), 67),
        (("hold", "--older", "soon", "--reason", "x"), 64),
        (("reroute", "--domain", "b.test", "--to", "http://x"), 64),
        (("bounce", "--domain", "b.test", "--reason", "x"), 64),
        (("hold", "--domain", "b.test", "--recipient", "x@b.test", "--reason", "x"), 64),
    ):
        assert run("queue", *words).exit_code == code, words
