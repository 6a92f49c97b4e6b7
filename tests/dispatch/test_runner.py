"""The runner over a real spool: each recipient goes its way, and every outcome is recorded."""

import email
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from mailserver import maillog
from mailserver.dispatch import lanes
from mailserver.dispatch import runner as runner_module
from mailserver.dispatch.bounce import Reporter
from mailserver.dispatch.runner import RECORD_AGAIN_SECONDS, Runner
from mailserver.dispatch.settlement import Ways
from mailserver.durable import Disk
from mailserver.interfaces import IDeliveryAgent, IDirectory, IRelay, SpoolUnavailable
from mailserver.spool import leases
from mailserver.spool.inspection import QueueInspection
from mailserver.spool.retries import RetrySchedule
from mailserver.spool.sqlite import SqliteSpool
from mailserver.threads import Bridge
from mailserver.values.account import Account, Alias, Elsewhere, LocalUser, NoSuchUser, Resolution
from mailserver.values.address import NULL_SENDER, Address, address_from
from mailserver.values.envelope import Entry, Envelope, Recipient
from mailserver.values.expansion import final_recipients
from mailserver.values.outcome import STOPPING, Delayed, Delivered, Failed, Outcome, Relayed

Answer = Callable[[Recipient], Outcome]


@implementer(IDirectory)
class Table:
    """Ours is example.test: everybody but those who begin with ``no``; ``all`` is an alias."""

    def resolve(self, address: Address) -> Resolution:
        if address.domain != "example.test":
            return Elsewhere(address)
        if address.local == "broken":
            raise OSError("the directory's disk is gone")
        if address.local == "all":
            return Alias(address, (address_from("ada@example.test"), address_from("bob@b.test")))
        return NoSuchUser(address) if address.local.startswith("no") else LocalUser(Account(address))

    def password_hash(self, login: str) -> None:
        return None


@implementer(IDeliveryAgent)
class Agent:
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[Entry, list[str]]] = []
        self.hold: Deferred[None] | None = None

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        self.asked.append((entry, [str(r.address) for r in recipients]))
        try:
            outcomes = [self.answer(r) for r in recipients]
        except Exception:
            return fail()
        if self.hold is not None:
            return self.hold.addCallback(lambda _: outcomes)
        return succeed(outcomes)

    @property
    def recipients(self) -> list[list[str]]:
        return [recipients for _, recipients in self.asked]


@implementer(IRelay)
class Each(Agent):
    """Lets the test say when something is known."""

    told: Callable[[Sequence[Outcome]], None] | None = None

    def attempt_each(
        self, entry: Entry, recipients: Sequence[Recipient], told: Callable[[Sequence[Outcome]], None]
    ) -> Deferred[Sequence[Outcome]]:
        self.told, self.end = told, Deferred[Sequence[Outcome]]()
        return self.end


def delivered(recipient: Recipient) -> Outcome:
    return Delivered(recipient=recipient, status="2.0.0", diagnostic="in its mailbox", relay="maildir")


def relayed(recipient: Recipient) -> Outcome:
    return Relayed(recipient=recipient, status="2.0.0", diagnostic="250 ok", relay="mx[192.0.2.1]:25")


def delayed(recipient: Recipient) -> Outcome:
    return Delayed(recipient=recipient, status="4.4.1", diagnostic="no answer", remote_mta="mx.b.test")


def failed(recipient: Recipient) -> Outcome:
    return Failed(recipient=recipient, status="5.1.1", diagnostic="550 no", remote_mta="mx.b.test")


class RunnerTests(TestCase):
    timeout = 15

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.spool = SqliteSpool(Path(self.folder.name), Disk(), now=self.clock.seconds)
        self.spool.start()
        self.addCleanup(self.spool.stop)
        self.local, self.remote = Agent(delivered), Agent(relayed)
        self.bridge = Bridge(reactor)
        schedule = RetrySchedule([60.0, 600.0], 1000.0, 5000.0, vary=lambda: 0.5)
        reporter = Reporter("mx.example.test", schedule.gives_up_at)
        ways = Ways(Table(), self.local, self.remote, schedule, reporter, schedule.warn_due)
        self.runner = Runner(self.spool, self.bridge, ways, self.clock, self.clock.seconds)
        self.runner.startService()

    async def tearDown(self) -> None:
        stopped = self.runner.stopService()
        if stopped is not None:
            await stopped

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(500):
            if condition():
                return
            await deferLater(self.reactor, 0.01)
        raise AssertionError("it did not come to pass")

    async def settle(self, seconds: float = 0.0) -> None:
        """Let time pass, and wait until nothing is under way."""
        for _ in range(3):
            self.clock.advance(seconds)
            seconds = 1.0
            await deferLater(self.reactor, 0.01)
            await self.until(lambda: not self.runner._under_way and not self.runner._asking)

    async def test_success_is_reported_to_those_who_ask(self) -> None:
        asked = [(address_from(a), "", frozenset({"SUCCESS"})) for a in ("bob@b.test", "all@example.test")]
        writer = self.spool.begin()
        writer.write(b"Subject: x\r\n\r\nbody\r\n")
        who = final_recipients(Table().resolve, asked)
        envelope = Envelope(address_from("zoe@example.test"), who)
        self.runner.accepted(await self.bridge.deferred(writer.commit(envelope)))
        await self.settle()
        assert self.remote.recipients == [["bob@b.test"]]
        assert self.local.recipients == [["ada@example.test"], *[["zoe@example.test"]] * 2]
        told = [email.message_from_bytes(b"".join(e.content.chunks())) for e, _ in self.local.asked[1:]]
        actions = [str(t.get_payload(1).get_payload(1)["Action"]) for t in told]  # type: ignore[union-attr]
        assert sorted(actions) == ["expanded", "relayed"]
        assert await self.waiting() is None

    async def submit(self, *recipients: str, sender: str = "ada@example.test", **fields: Any) -> Entry:
        writer = self.spool.begin()
        writer.write(b"Subject: x\r\n\r\nbody\r\n")
        addresses = [address_from(r) for r in recipients]
        reverse_path = address_from(sender) if sender else NULL_SENDER
        who = tuple(Recipient(n, a, a) for n, a in enumerate(addresses))
        envelope = Envelope(reverse_path, who, **fields)
        return await self.bridge.deferred(writer.commit(envelope))

    async def waiting(self) -> float | None:
        return await self.bridge.deferred(self.spool.next_due())

    async def test_recipients_go_their_ways_and_are_forgotten(self) -> None:
        self.runner.accepted(await self.submit("ada@example.test", "bob@b.test", "cem@c.test"))
        await self.settle()
        assert self.local.recipients == [["ada@example.test"]]
        assert self.remote.recipients == [["bob@b.test", "cem@c.test"]]
        assert await self.waiting() is None

    async def test_a_delayed_recipient_comes_again_when_its_time_has_come(self) -> None:
        self.remote.answer = delayed
        self.runner.accepted(await self.submit("bob@b.test", "ada@example.test"))
        await self.settle()
        assert await self.waiting() == 1000060.0
        await self.settle(30)
        assert len(self.remote.asked) == 1
        self.remote.answer = relayed
        await self.settle(60)
        assert self.remote.recipients == [["bob@b.test"]] * 2
        assert len(self.local.asked) == 1
        assert await self.waiting() is None

    async def test_a_failure_makes_one_report_to_the_sender(self) -> None:
        self.remote.answer = failed
        self.runner.accepted(await self.submit("bob@b.test", "cem@c.test", "nobody@example.test"))
        await self.settle()
        reports = [entry for entry, _ in self.local.asked]
        assert [e.envelope.reverse_path for e in reports] == [NULL_SENDER] * len(reports)
        told = b"".join(octets for e in reports for octets in e.content.chunks())
        for address in (b"bob@b.test", b"cem@c.test", b"nobody@example.test"):
            assert address in told
        message = email.message_from_bytes(b"".join(reports[0].content.chunks()))
        assert message.get_content_type() == "multipart/report"
        assert await self.waiting() is None

    async def test_failures_are_told_to_whoever_wants_to_know(self) -> None:
        told: list[tuple[str, list[str]]] = []
        self.runner._ways = replace(
            self.runner._ways,
            failed=lambda entry, lost: told.append(
                (entry.queue_id, [str(o.recipient.address) for o in lost])
            ),
        )
        self.remote.answer = lambda r: failed(r) if r.address.local == "bob" else relayed(r)
        entry = await self.submit("bob@b.test", "carol@b.test", "ada@example.test")
        self.runner.accepted(entry)
        await self.settle()
        assert told == [(entry.queue_id, ["bob@b.test"])]

    async def test_what_was_sent_is_recorded_before_the_slowest_answers(self) -> None:
        self.runner._ways = replace(self.runner._ways, remote=(relay := Each(delayed)))
        self.runner._lanes = lanes.Lanes(self.local, relay)
        self.runner._tells_each = True
        first, slow, wanted = "a@fast.test", "b@slow.test", "c@fast.test"
        entry = await self.submit(first, slow, wanted)
        wishes = replace(entry.waiting[2].recipient, notify=frozenset({"SUCCESS"}))
        waiting = (*entry.waiting[:2], replace(entry.waiting[2], recipient=wishes))
        self.runner.accepted(replace(entry, waiting=waiting))
        await self.until(lambda: relay.told is not None)
        relay.told([relayed(waiting[0].recipient), relayed(wishes)])

        def left() -> list[str]:
            with QueueInspection(Path(self.folder.name)) as queue:
                return [str(r.waiting.recipient.address) for e in queue.entries() for r in e.recipients]

        await self.until(lambda: left() == [slow, wanted])  # success is reported once, at the end
        relay.end.callback([relayed(waiting[0].recipient), delayed(waiting[1].recipient), relayed(wishes)])
        await self.settle()
        assert left() == [slow]
        assert len(self.local.asked) == 1  # the report

    async def test_a_report_that_fails_makes_nothing(self) -> None:
        self.remote.answer = failed
        self.runner.accepted(await self.submit("bob@b.test", sender=""))
        await self.settle()
        assert self.local.asked == []
        assert await self.waiting() is None

    async def test_a_sender_is_warned_once_and_told_the_end(self) -> None:
        self.remote.answer = delayed
        self.runner.accepted(await self.submit("bob@b.test"))
        for _ in range(20):
            await self.settle(600)
        subjects = [
            email.message_from_bytes(b"".join(e.content.chunks()))["Subject"] for e, _ in self.local.asked
        ]
        assert len(subjects) == 2, subjects
        assert subjects[0] != subjects[1]
        assert await self.waiting() is None

    async def test_a_report_follows_the_senders_alias(self) -> None:
        self.remote.answer = lambda r: failed(r) if r.address.domain == "c.test" else relayed(r)
        self.runner.accepted(await self.submit("cem@c.test", sender="all@example.test"))
        await self.settle()
        assert self.local.recipients == [["ada@example.test"]]
        assert self.remote.recipients == [["cem@c.test"], ["bob@b.test"]]

    async def test_an_address_that_became_an_alias_is_forwarded(self) -> None:
        self.runner.accepted(await self.submit("all@example.test", sender="zoe@b.test"))
        await self.settle()
        assert self.local.recipients == [["ada@example.test"]]
        assert self.remote.recipients == [["bob@b.test"]]
        assert await self.waiting() is None

    async def test_a_release_time_is_kept_and_retries_count_from_it(self) -> None:
        self.remote.answer = delayed
        await self.submit("bob@b.test", "all@example.test", release_at=1_100_000.0)
        await self.settle(90_000)  # give_up_after is 5,000 seconds
        assert (self.local.asked, self.remote.asked) == ([], [])
        await self.settle(10_000)
        assert self.remote.recipients == [["bob@b.test"], ["bob@b.test"]]  # the second by the alias
        assert self.local.recipients == [["ada@example.test"]]
        assert 1_100_060 <= (await self.waiting() or 0) <= 1_100_070

    async def told(self) -> list[tuple[str, str]]:
        """Action and status in each report that has been delivered."""
        reports = [email.message_from_bytes(b"".join(e.content.chunks())) for e, _ in self.local.asked]
        blocks: list[Any] = [report.get_payload(1) for report in reports]
        return [(str(b.get_payload(1)["Action"]), str(b.get_payload(1)["Status"])) for b in blocks]

    async def test_a_message_to_return_goes_back_when_its_time_is_over(self) -> None:
        self.remote.answer = delayed
        self.runner.accepted(await self.submit("bob@b.test", deliver_by=1_000_090.0, by_mode="R"))
        await self.settle()
        await self.settle(60)  # the second attempt; the third would be 600 seconds later
        assert len(self.remote.asked) == 2
        await self.settle(30)
        assert len(self.remote.asked) == 2  # no attempt beyond its time
        assert await self.told() == [("failed", "5.4.7")]
        assert await self.waiting() is None

    async def test_a_message_to_notify_of_goes_on_after_its_time(self) -> None:
        self.remote.answer = delayed
        self.runner.accepted(await self.submit("bob@b.test", deliver_by=1_000_090.0, by_mode="N"))
        await self.settle()
        await self.settle(60)
        assert await self.told() == []
        await self.settle(30)
        assert await self.told() == [("delayed", "4.4.1")]  # long before warn_after
        self.remote.answer = relayed
        await self.settle(700)
        assert await self.waiting() is None
        assert len(await self.told()) == 1

    async def test_what_is_urgent_sets_out_first(self) -> None:
        for priority in (0, 9, -9, 9):
            entry = await self.submit(f"u{priority}@b.test", priority=priority)
            await self.bridge.deferred(self.spool.give_back(entry))
        await self.settle()
        assert [a for asked in self.remote.recipients for a in asked] == [
            "u9@b.test",
            "u9@b.test",
            "u0@b.test",
            "u-9@b.test",
        ]

    async def test_an_agent_with_a_bug_delays_its_message(self) -> None:
        def bug(_: Recipient) -> Outcome:
            raise RuntimeError("a bug")

        self.local.answer = bug
        self.runner.accepted(await self.submit("ada@example.test"))
        await self.settle()
        assert await self.waiting() == 1000060.0
        self.flushLoggedErrors(RuntimeError)

    async def test_a_broken_directory_delays_its_message(self) -> None:
        self.runner.accepted(await self.submit("broken@example.test", "ada@example.test"))
        await self.settle()
        assert self.local.recipients == [["ada@example.test"]]
        assert await self.waiting() == 1000060.0
        self.flushLoggedErrors(OSError)

    async def test_outcomes_are_offered_until_the_spool_keeps_them(self) -> None:
        record = self.spool.record
        refusals = [1, 2]

        def full(*args: Any) -> Any:
            if refusals and refusals.pop():
                future: Future[Any] = Future()
                future.set_exception(SpoolUnavailable("full"))
                return future
            return record(*args)

        self.spool.record = full  # type: ignore[method-assign]
        self.runner.accepted(await self.submit("ada@example.test"))
        for _ in range(3):
            await deferLater(self.reactor, 0.02)
            self.clock.advance(RECORD_AGAIN_SECONDS)
        await self.settle()
        assert self.local.recipients == [["ada@example.test"]]
        assert await self.waiting() is None
        self.flushLoggedErrors(SpoolUnavailable)

    async def test_what_there_is_no_room_for_waits_in_the_spool(self) -> None:
        self.patch(lanes, "MOST_ENTRIES", 1)
        self.local.hold = Deferred()
        self.runner.accepted(await self.submit("ada@example.test"))
        self.runner.accepted(await self.submit("bob@example.test"))
        await deferLater(self.reactor, 0.05)
        assert self.local.recipients == [["ada@example.test"]]
        assert await self.waiting() is not None
        self.local.hold.callback(None)
        self.local.hold = None
        await self.settle()
        assert self.local.recipients == [["ada@example.test"], ["bob@example.test"]]

    async def test_stopping_waits_for_what_is_under_way_and_takes_nothing_new(self) -> None:
        self.local.hold = Deferred()
        self.runner.accepted(await self.submit("ada@example.test"))
        stopped = self.runner.stopService()
        assert stopped is not None
        assert not stopped.called
        self.runner.accepted(await self.submit("bob@example.test"))
        self.local.hold.callback(None)
        await stopped
        assert self.local.recipients == [["ada@example.test"]]
        await deferLater(self.reactor, 0.05)
        assert await self.waiting() is not None

    async def test_what_the_end_of_the_server_keeps_from_being_tried_is_due_at_the_next_start(self) -> None:
        self.local.hold = Deferred()
        self.local.answer = lambda one: Delayed(recipient=one, status=STOPPING, diagnostic="stopping")
        self.remote.hold = Deferred()
        self.remote.answer = delayed
        for recipient in ("ada@example.test", "bob@b.test"):
            self.runner.accepted(await self.submit(recipient))
        stopped = self.runner.stopService()
        assert stopped is not None
        self.local.hold.callback(None)
        self.remote.hold.callback(None)
        await stopped
        now = self.clock.seconds()
        due = await self.bridge.deferred(self.spool.due(now, 10, (0, 1, 2, 3), []))
        assert [str(entry.waiting[0].recipient.address) for entry in due] == ["ada@example.test"]

    async def test_remote_work_without_room_does_not_stop_local_work(self) -> None:
        self.patch(lanes, "MOST_ENTRIES", 1)
        self.remote.hold = Deferred()
        self.runner.accepted(await self.submit("bob@b.test"))
        self.runner.accepted(await self.submit("cem@c.test", "ada@example.test"))
        await deferLater(self.reactor, 0.05)
        assert self.remote.recipients == [["bob@b.test"]]
        assert self.local.recipients == [["ada@example.test"]]
        self.remote.hold.callback(None)
        self.remote.hold = None
        await self.settle()
        assert self.remote.recipients == [["bob@b.test"], ["cem@c.test"]]

    async def test_a_report_whose_sender_cannot_be_looked_up_waits_itself(self) -> None:
        self.remote.answer = failed
        self.runner.accepted(await self.submit("bob@b.test", sender="broken@example.test"))
        await self.settle()
        assert await self.waiting() == 1_000_060.0  # the report; the failure itself is recorded
        entries = await self.bridge.deferred(self.spool.due(2_000_000.0, 10))
        assert [e.envelope.reverse_path for e in entries] == [NULL_SENDER]
        self.flushLoggedErrors(OSError)

    async def test_stopping_does_not_wait_for_a_spool_that_keeps_nothing(self) -> None:
        def full(*_: Any) -> Any:
            future: Future[Any] = Future()
            future.set_exception(SpoolUnavailable("full"))
            return future

        self.patch(self.spool, "record", full)
        self.runner.accepted(await self.submit("ada@example.test"))
        await deferLater(self.reactor, 0.05)
        stopped = self.runner.stopService()
        assert stopped is not None
        self.clock.advance(RECORD_AGAIN_SECONDS)
        await stopped
        self.flushLoggedErrors(SpoolUnavailable)

    async def test_a_message_is_called_removed_only_when_nobody_waits(self) -> None:
        said: list[str] = []
        self.patch(maillog, "_say", lambda line, program: said.append(line))
        self.remote.answer = delayed
        entry = await self.submit("bob@b.test", "ada@example.test")
        self.runner.accepted(entry)
        await self.settle()
        assert f"{entry.queue_id}: removed" not in said
        self.remote.answer = relayed
        await self.settle(60)
        assert said.count(f"{entry.queue_id}: removed") == 1

    async def test_each_class_has_room_of_its_own(self) -> None:
        """Remote mail without room holds up neither local mail nor a report; all of it goes in the end."""
        self.patch(lanes, "MOST_ENTRIES", 1)
        self.remote.hold = Deferred()
        remote = [await self.submit(f"r{n}@b.test") for n in range(5)]
        for entry in remote:
            self.runner.accepted(entry)
        await self.settle_spool()
        # What waits for room does so in the spool; others fall due behind it.
        for entry in [await self.submit("ada@example.test"), await self.submit("bob@example.test")]:
            await self.bridge.deferred(self.spool.give_back(entry))
        report = await self.submit("eve@c.test", sender="")
        self.runner.accepted(report)
        self.clock.advance(1)
        await self.until(lambda: self.clock.advance(1) or len(self.local.asked) == 2)
        assert ["eve@c.test"] in self.remote.recipients
        assert len(self.remote.asked) == 2  # one of five, and the report
        hold, self.remote.hold = self.remote.hold, None
        hold.callback(None)
        await self.until(lambda: self.clock.advance(1) or len(self.remote.asked) == 6)
        await self.settle()
        assert await self.waiting() is None

    async def test_a_message_to_very_many_goes_page_by_page_and_others_pass(self) -> None:
        self.patch(runner_module, "WHOLE", 10)
        self.patch(leases, "RECIPIENTS_PER_ENTRY", 10)
        self.remote.hold = Deferred()
        many = await self.submit(*[f"u{n}@b.test" for n in range(100)])
        self.runner.accepted(many)
        await self.settle_spool()
        self.clock.advance(1)
        await self.until(lambda: len(self.remote.asked) == 2)
        self.runner.accepted(await self.submit("one@c.test"))
        await self.until(lambda: len(self.remote.asked) == 3)
        assert [len(who) for who in self.remote.recipients] == [10, 10, 1]
        hold, self.remote.hold = self.remote.hold, None
        hold.callback(None)
        await self.until(lambda: self.clock.advance(1) or len(self.remote.asked) == 11)
        await self.settle()
        assert await self.waiting() is None

    async def test_an_operators_order_returns_a_message(self) -> None:
        self.runner.accepted(await self.submit("ada@example.test", "bob@b.test", bounce="wrong address"))
        await self.settle()
        ((report, [to]),) = self.local.asked
        assert to == "ada@example.test"
        text = b"".join(report.content.chunks()).replace(b"\r\n    ", b" ")
        assert b"Returned by the postmaster: wrong address" in text
        assert self.remote.asked == []

    async def settle_spool(self) -> None:
        """Whatever was handed to the spool is kept."""
        await self.bridge.deferred(self.spool.next_due())
