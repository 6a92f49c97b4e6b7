"""``mailserver queue release|remove --sender`` and ``mailserver recall``: what is held, and what waits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mailserver.admin.command import main
from mailserver.durable import Disk
from mailserver.policy.usage import Usage, UsageLimits, held_accounts
from mailserver.spool.sqlite import SqliteSpool
from mailserver.values.address import address_from
from mailserver.values.envelope import Entry, Envelope, Recipient

ADA = "ada@example.test"
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


def spooled(spool: SqliteSpool, sender: str = ADA, hold: str = "", release_at: float = 0.0) -> Entry:
    writer = spool.begin()
    writer.write(b"Subject: x\r\n\r\n")
    bob = address_from("bob@b.test")
    recipients = (Recipient(0, bob, bob),)
    envelope = Envelope(address_from(sender), recipients, hold=hold, release_at=release_at)
    return writer.commit(envelope).result(10)


def over(tmp_path: Path) -> str:
    """Ada's account goes over its limit; why her mail is held."""
    usage = Usage(tmp_path / "state" / "usage.sqlite", UsageLimits(messages_per_hour=1), time.time)
    usage.open()
    usage.load(ADA)
    usage.charge(ADA, [])
    reason = usage.charge(ADA, [])
    usage.close()
    assert reason
    return reason


def due(spool: SqliteSpool) -> list[int]:
    return [entry.id for entry in spool.due(time.time(), 10).result(10)]


def test_a_sender_is_released(run: Run, spool: SqliteSpool, tmp_path: Path) -> None:
    reason = over(tmp_path)
    held = [spooled(spool, hold=reason), spooled(spool, "sales@example.test", hold=reason)]
    spooled(spool, "carol@example.test", hold="other")
    assert due(spool) == []
    result = run("queue", "release", "--sender", "ADA@example.test", "--json")
    assert json.loads(result.stdout) == {"released": [e.queue_id for e in held], "accounts": [ADA]}
    assert due(spool) == [entry.id for entry in held]
    assert held_accounts(tmp_path / "state" / "usage.sqlite") == {}


def test_the_last_message_that_is_released_ends_the_hold(
    run: Run, spool: SqliteSpool, tmp_path: Path
) -> None:
    reason = over(tmp_path)
    first, second = spooled(spool, hold=reason), spooled(spool, hold=reason)
    assert run("queue", "release", first.queue_id).stdout == f"{first.queue_id} released\n"
    assert held_accounts(tmp_path / "state" / "usage.sqlite") == {ADA: reason}
    done = run("queue", "release", second.queue_id)
    assert done.stdout == f"{second.queue_id} released; {ADA} may send again\n"
    assert held_accounts(tmp_path / "state" / "usage.sqlite") == {}


def test_a_sender_s_messages_are_removed(run: Run, spool: SqliteSpool, tmp_path: Path) -> None:
    entry = spooled(spool, hold=over(tmp_path))
    other = spooled(spool)
    done = run("queue", "remove", "--held", "--sender", ADA, "--yes")
    assert done.stdout == f"{entry.queue_id} removed; {ADA} may send again\n"
    assert [e["id"] for e in json.loads(run("queue", "list", "--json").stdout)] == [other.queue_id]


def test_what_is_not_held_is_not_released(run: Run, spool: SqliteSpool) -> None:
    entry = spooled(spool, release_at=time.time() + 100)
    assert run("queue", "release", entry.queue_id).exit_code == os.EX_NOUSER
    assert run("queue", "release").exit_code == os.EX_USAGE
    assert run("queue", "release", "--sender", ADA).exit_code == os.EX_NOUSER
    assert due(spool) == []


def test_a_message_is_taken_back(run: Run, spool: SqliteSpool) -> None:
    first = spooled(spool, release_at=time.time() + 100)
    last = spooled(spool, release_at=time.time() + 50)
    leased = spooled(spool)
    assert run("recall", "last").stdout == f"{last.queue_id} from <{ADA}> taken back; nobody gets it\n"
    assert run("recall", first.queue_id).exit_code == 0
    assert run("recall", "last").exit_code == os.EX_NOUSER
    refused = run("recall", leased.queue_id)
    assert refused.exit_code == os.EX_NOUSER
    assert "cannot be taken back" in refused.stderr
    assert [e["id"] for e in json.loads(run("queue", "list", "--json").stdout)] == [leased.queue_id]


def test_a_message_whose_time_has_come_leaves(run: Run, spool: SqliteSpool) -> None:
    entry = spooled(spool, release_at=time.time() - 1)
    assert run("recall", entry.queue_id).exit_code == os.EX_NOUSER
    held = spooled(spool, hold="why")
    assert run("recall", held.queue_id).exit_code == os.EX_NOUSER
    assert due(spool) == [entry.id]
