"""Log-in: passwords, the cost of failures, and what is remembered of successes."""

import gc
from collections.abc import Callable
from math import inf
from typing import Any

from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailserver.interfaces import IDirectory, IMaildropOwner, ISubmitter, LoginUnavailable
from mailserver.login import LoginPenalty, checkers, make_portal, penalty
from mailserver.values.account import Account, Elsewhere
from mailserver.values.address import Address

ADA = Account(Address("ada", "example.test"))


@implementer(IDirectory)
class Directory:
    def __init__(self) -> None:
        self.hashes = {"ada@example.test": "hash:secret", "ada": "hash:secret"}
        self.broken = False

    def resolve(self, address: Address) -> Elsewhere:
        return Elsewhere(address)

    def password_hash(self, login: str) -> tuple[Account, str] | None:
        if self.broken:
            raise OSError("disk on fire")
        stored = self.hashes.get(login)
        return None if stored is None else (ADA, stored)


class Threads:
    """Workers whose calls run when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def call(self, function: Any, *args: Any) -> Deferred[Any]:
        result: Deferred[Any] = Deferred()
        self.waiting.append((result, lambda: function(*args)))
        return result

    def run(self) -> int:
        """Run what waits; how many calls that were."""
        waiting, self.waiting = self.waiting, []
        for result, work in waiting:
            try:
                value = work()
            except Exception:
                result.errback()
            else:
                result.callback(value)
        return len(waiting)


class PortalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.directory, self.threads = Clock(), Directory(), Threads()
        self.verified: list[tuple[str, str]] = []
        self.portal = make_portal(
            self.directory,
            self.threads,  # type: ignore[arg-type]
            lambda account, locked: ("maildrop of", account),  # type: ignore[arg-type, return-value]
            verify=self.verify,
            dummy_hash="hash:\0",
            clock=self.clock,
        )

    def verify(self, stored: str, password: str) -> bool:
        self.verified.append((stored, password))
        if password == "broken":
            raise MemoryError
        return stored == f"hash:{password}"

    def login(self, user: Any, password: Any, interface: Any = ISubmitter) -> Deferred[Any]:
        return self.portal.login(UsernamePassword(user, password), None, interface)

    def succeed(self, user: Any, password: Any, interface: Any = ISubmitter) -> Any:
        attempt = self.login(user, password, interface)
        self.threads.run()
        return self.successResultOf(attempt)

    def refuse(self, user: Any, password: Any) -> None:
        attempt = self.login(user, password)
        self.threads.run()
        self.failureResultOf(attempt, UnauthorizedLogin)

    def test_a_submitter(self) -> None:
        interface, avatar, logout = self.succeed("ada@example.test", "secret")
        assert interface is ISubmitter
        assert verifyObject(ISubmitter, avatar)
        assert avatar.account == ADA
        logout()

    def test_the_owner_of_a_maildrop(self) -> None:
        interface, avatar, _ = self.succeed("ada", "secret", IMaildropOwner)
        assert interface is IMaildropOwner
        assert verifyObject(IMaildropOwner, avatar)
        opening = avatar.maildrop()
        self.assertNoResult(opening)
        self.threads.run()
        assert self.successResultOf(opening) == ("maildrop of", ADA)

    def test_bytes_are_utf8(self) -> None:
        self.directory.hashes["ada"] = "hash:şifre"
        self.succeed(b"ada", "şifre".encode())

    def test_bytes_that_are_not_utf8_are_wrong(self) -> None:
        self.refuse(b"\xff", b"secret")
        self.refuse(b"ada", b"\xff")

    def test_a_wrong_password(self) -> None:
        self.refuse("ada", "Secret")

    def test_nobody_costs_what_somebody_costs(self) -> None:
        self.refuse("nobody", "\0")
        assert self.verified == [("hash:\0", "\0")]

    def test_a_right_password_is_remembered(self) -> None:
        self.succeed("ada", "secret")
        self.clock.advance(checkers.REMEMBERED_SECONDS - 1)
        self.successResultOf(self.login("ada", "secret"))
        assert len(self.verified) == 1

    def test_but_not_for_ever(self) -> None:
        self.succeed("ada", "secret")
        self.clock.advance(checkers.REMEMBERED_SECONDS + 1)
        self.succeed("ada", "secret")
        assert len(self.verified) == 2

    def test_a_changed_password_ends_it(self) -> None:
        self.succeed("ada", "secret")
        self.directory.hashes["ada"] = "hash:other"
        self.refuse("ada", "secret")

    def test_a_removed_user_ends_it(self) -> None:
        self.succeed("ada", "secret")
        del self.directory.hashes["ada"]
        self.refuse("ada", "secret")

    def test_what_is_remembered_has_a_limit(self) -> None:
        self.patch(checkers, "MOST_REMEMBERED", 2)
        for user in ("a", "b", "c"):
            self.directory.hashes[user] = "hash:secret"
            self.succeed(user, "secret")
        self.successResultOf(self.login("c", "secret"))
        self.assertNoResult(self.login("a", "secret"))

    def test_wrong_passwords_are_not_remembered(self) -> None:
        self.refuse("ada", "x")
        self.refuse("ada", "x")
        assert len(self.verified) == 2

    def test_equal_logins_share_one_verification(self) -> None:
        attempts = [self.login("ada", "secret") for _ in range(3)]
        other = self.login("ada", "x")
        assert self.threads.run() == 2
        for attempt in attempts:
            self.successResultOf(attempt)
        self.failureResultOf(other, UnauthorizedLogin)

    def test_too_many_verifications(self) -> None:
        self.patch(checkers, "MOST_UNDER_WAY", 2)
        attempts = [self.login("ada", f"wrong{n}") for n in range(3)]
        self.failureResultOf(attempts[2], LoginUnavailable)
        self.threads.run()
        self.failureResultOf(attempts[0], UnauthorizedLogin)
        self.failureResultOf(attempts[1], UnauthorizedLogin)
        self.succeed("ada", "secret")

    def test_a_broken_directory(self) -> None:
        self.directory.broken = True
        self.failureResultOf(self.login("ada", "secret"), LoginUnavailable)
        assert self.flushLoggedErrors(OSError)

    def test_a_broken_verification_harms_nobody_else(self) -> None:
        broken = [self.login("ada", "broken") for _ in range(2)]
        well = self.login("ada", "secret")
        self.threads.run()
        for attempt in broken:
            self.failureResultOf(attempt, LoginUnavailable)
        self.successResultOf(well)
        del broken, attempt
        gc.collect()  # a failure that nobody handled would be logged now
        self.flushLoggedErrors(MemoryError)

    def test_digests_tell_the_parts_apart(self) -> None:
        successes = checkers.RecentSuccesses(self.clock)
        assert successes.digest("a", "b", "c") == successes.digest("a", "b", "c")
        assert successes.digest("a", "bc", "") != successes.digest("a", "b", "c")
        assert successes.digest("a", "b", "c") != checkers.RecentSuccesses(self.clock).digest("a", "b", "c")


class PenaltyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.penalty = LoginPenalty(self.clock)

    def test_grows_and_stops_growing(self) -> None:
        assert self.penalty.wait_for("192.0.2.1") == 0
        for seconds in (2, 4, 8, 15, 15):
            self.penalty.failed("192.0.2.1")
            assert self.penalty.wait_for("192.0.2.1") == seconds
            self.clock.advance(seconds)

    def test_attempts_that_wait_stand_in_a_row(self) -> None:
        self.penalty.failed("192.0.2.1")
        assert [self.penalty.wait_for("192.0.2.1") for _ in range(4)] == [2, 4, 6, 8]
        assert self.penalty.wait_for("192.0.2.2") == 0

    def test_a_crowd_of_guesses_does_not_fill_the_hours_to_come(self) -> None:
        for _ in range(4):
            self.penalty.failed("192.0.2.1")
        waits = [self.penalty.wait_for("192.0.2.1") for _ in range(1000)]
        assert waits[:5] == [15, 30, 45, 60, inf]
        assert set(waits[5:]) == {inf}
        self.clock.advance(75)
        assert self.penalty.wait_for("192.0.2.1") == 0

    def test_time_that_has_passed_counts(self) -> None:
        self.penalty.failed("192.0.2.1")
        self.clock.advance(1.5)
        assert self.penalty.wait_for("192.0.2.1") == 0.5
        self.clock.advance(2.5)
        assert self.penalty.wait_for("192.0.2.1") == 0

    def test_belongs_to_a_network(self) -> None:
        self.penalty.failed("192.0.2.1")
        assert self.penalty.wait_for("192.0.2.2") == 0
        self.penalty.failed("2001:db8:0:1::1")
        assert self.penalty.wait_for("2001:db8:0:1:ffff::2") == 2
        assert self.penalty.wait_for("2001:db8:0:2::1") == 0

    def test_other_spellings_of_a_host(self) -> None:
        self.penalty.failed("192.0.2.1")
        assert self.penalty.wait_for("::ffff:192.0.2.1") == 2
        self.penalty.failed("fe80::1%eth0")
        assert self.penalty.wait_for("fe80::2%eth1") == 2
        self.penalty.failed("not an address")
        assert self.penalty.wait_for("not an address") == 2

    def test_a_success_ends_it(self) -> None:
        self.penalty.failed("192.0.2.1")
        self.penalty.succeeded("192.0.2.1")
        self.penalty.succeeded("192.0.2.9")
        assert self.penalty.wait_for("192.0.2.1") == 0
        self.penalty.failed("192.0.2.1")
        assert self.penalty.wait_for("192.0.2.1") == 2

    def test_the_success_of_another_makes_nothing_good(self) -> None:
        """Somebody with an account of their own must not guess at others for nothing."""
        for seconds in (2, 4, 8, 15):
            self.penalty.failed("192.0.2.1", "ada")
            self.penalty.succeeded("192.0.2.1", "mallory")
            assert self.penalty.wait_for("192.0.2.1", "ada") == seconds
            self.clock.advance(seconds)

    def test_who_has_logged_in_there_before_does_not_wait_for_the_guesses_of_others(self) -> None:
        self.penalty.succeeded("192.0.2.1", "Bob")
        self.penalty.failed("192.0.2.1", "ada")
        assert self.penalty.wait_for("192.0.2.1", "bob") == 0
        assert self.penalty.wait_for("192.0.2.2", "bob") == 0
        assert self.penalty.wait_for("192.0.2.1", "ada") == 2
        assert self.penalty.wait_for("192.0.2.1", "carol") == 4
        self.penalty.failed("192.0.2.1", "bob")
        assert self.penalty.wait_for("192.0.2.1", "bob") > 0
        self.clock.advance(penalty.TRUSTED_SECONDS)
        self.penalty.failed("192.0.2.1", "ada")
        assert self.penalty.wait_for("192.0.2.1", "bob") > 0

    def test_guesses_at_many_names_are_not_taken_back_by_one(self) -> None:
        for n in range(penalty.MOST_NAMES + 5):
            self.penalty.failed("192.0.2.1", f"name{n}")
        for n in range(penalty.MOST_NAMES + 5):
            self.penalty.succeeded("192.0.2.1", f"name{n}")
        assert self.penalty.wait_for("192.0.2.1", "somebody") == 15

    def test_is_forgotten(self) -> None:
        for _ in range(3):
            self.penalty.failed("192.0.2.1")
        self.clock.advance(penalty.PENALTY_FORGOTTEN + 1)
        self.penalty.failed("192.0.2.1")
        assert self.penalty.wait_for("192.0.2.1") == 2

    def test_memory_is_bounded(self) -> None:
        self.patch(penalty, "MOST_PENALTIES", 3)
        for n in range(5):
            self.penalty.failed(f"192.0.2.{n}")
            self.penalty.succeeded(f"192.0.2.{n}", f"somebody{n}")
        assert len(self.penalty._trusted) == 3
        assert [n for n in range(5) if self.penalty.wait_for(f"192.0.2.{n}")] == [2, 3, 4]
