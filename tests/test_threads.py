"""Between threads and the reactor: order, one wake-up, no result lost, no call that hangs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailserver.threads import SWITCH_SECONDS, Bridge, Workers, WorkersStopped, favour_the_reactor


class ToldReactor:
    """Runs what came from threads when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def callFromThread(self, callable: Callable[[], object]) -> None:
        self.calls.append(callable)

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class BridgeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = ToldReactor()
        self.bridge = Bridge(self.reactor)

    def test_fires_only_in_the_reactor(self) -> None:
        future: Future[int] = Future()
        future.set_result(3)
        result = self.bridge.deferred(future)
        self.assertNoResult(result)
        self.reactor.turn()
        assert self.successResultOf(result) == 3

    def test_failures_arrive_as_failures(self) -> None:
        future: Future[int] = Future()
        result = self.bridge.deferred(future)
        future.set_exception(OSError("full"))
        self.reactor.turn()
        assert str(self.failureResultOf(result, OSError).value) == "full"

    def test_one_wake_up_for_all_in_their_order(self) -> None:
        fired: list[int] = []
        futures: list[Future[int]] = [Future() for _ in range(50)]
        for future in futures:
            self.bridge.deferred(future).addCallback(fired.append)
        for n, future in enumerate(futures):
            future.set_result(n)
        assert len(self.reactor.calls) == 1
        self.reactor.turn()
        assert fired == list(range(50))

    def test_a_result_that_comes_while_others_fire_wakes_again(self) -> None:
        first: Future[int] = Future()
        second: Future[int] = Future()
        fired: list[int] = []
        self.bridge.deferred(first).addCallback(lambda _: second.set_result(2))
        self.bridge.deferred(second).addCallback(fired.append)
        first.set_result(1)
        self.reactor.turn()
        assert fired == []
        self.reactor.turn()
        assert fired == [2]

    def test_what_a_call_from_a_thread_makes_done_fires_behind_it_without_another_wake_up(self) -> None:
        future: Future[int] = Future()
        told: list[int] = []
        self.bridge.deferred(future).addCallback(told.append)
        self.bridge.call(lambda: future.set_result(2))
        assert len(self.reactor.calls) == 1
        self.reactor.turn()
        assert told == [2]
        assert not self.reactor.calls

    def test_a_call_that_fails_keeps_nobody_waiting(self) -> None:
        future: Future[int] = Future()
        self.bridge.call(lambda: 1 // 0)
        result = self.bridge.deferred(future)
        future.set_result(1)
        self.reactor.turn()
        assert self.successResultOf(result) == 1
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_a_result_that_comes_while_a_call_runs_is_never_forgotten(self) -> None:
        futures: list[Future[int]] = [Future() for _ in range(2)]
        told: list[int] = []
        for future in futures:
            self.bridge.deferred(future).addCallback(told.append)

        def call() -> None:
            other = threading.Thread(target=futures[0].set_result, args=(1,))
            other.start()
            other.join()

        self.bridge.call(call)
        self.reactor.turn()
        futures[1].set_result(2)
        self.reactor.turn()
        assert told == [1, 2]

    def test_a_cancelled_deferred_and_a_cancelled_future_hurt_nobody(self) -> None:
        futures: list[Future[int]] = [Future() for _ in range(3)]
        results = [self.bridge.deferred(future) for future in futures]
        results[0].cancel()
        futures[1].cancel()
        futures[0].set_result(0)
        futures[2].set_result(2)
        self.reactor.turn()
        self.failureResultOf(results[0], CancelledError)
        self.failureResultOf(results[1], CancelledError)
        assert self.successResultOf(results[2]) == 2

    def test_a_deferred_that_was_fired_already_does_not_stop_the_others(self) -> None:
        futures: list[Future[int]] = [Future() for _ in range(2)]
        results = [self.bridge.deferred(future) for future in futures]
        results[0].callback(7)
        for future in futures:
            future.set_result(1)
        self.reactor.turn()
        assert self.successResultOf(results[1]) == 1
        assert len(self.flushLoggedErrors()) == 1

    def test_no_result_is_lost_between_threads(self) -> None:
        """Threads finish while the reactor drains: each result is met by a drain."""
        count, threads = 2000, 4
        lock = threading.Lock()
        calls: list[Callable[[], object]] = []

        class Reactor:
            def callFromThread(self, callable: Callable[[], object]) -> None:
                with lock:
                    calls.append(callable)

        bridge = Bridge(Reactor())
        futures: list[Future[int]] = [Future() for _ in range(count)]
        fired: list[int] = []
        for future in futures:
            bridge.deferred(future).addCallback(fired.append)

        def finish(part: int) -> None:
            for n in range(part, count, threads):
                futures[n].set_result(n)

        workers = [threading.Thread(target=finish, args=(part,)) for part in range(threads)]
        for worker in workers:
            worker.start()
        while len(fired) < count and (any(w.is_alive() for w in workers) or calls):
            with lock:
                taken, calls[:] = calls[:], []
            for call in taken:
                call()
        assert sorted(fired) == list(range(count))


class WorkersTests(TestCase):
    def setUp(self) -> None:
        self.workers = Workers(Bridge(reactor), "test", 2)

    def test_calls_run_elsewhere_and_answer_here(self) -> Deferred[None]:
        self.workers.start()
        self.addCleanup(self.workers.stop)
        here = threading.get_ident()

        def check(there: int) -> None:
            assert there != here
            assert threading.get_ident() == here

        return self.workers.call(threading.get_ident).addCallback(check)

    def test_exceptions_arrive(self) -> Deferred[ValueError]:
        self.workers.start()
        self.addCleanup(self.workers.stop)
        return self.assertFailure(self.workers.call(int, "x", base=10), ValueError)

    def test_more_calls_than_threads(self) -> Deferred[None]:
        self.workers.start()
        self.addCleanup(self.workers.stop)
        results = gatherResults([self.workers.call(pow, n, 2) for n in range(100)])

        def check(squares: list[int]) -> None:
            assert squares == [n * n for n in range(100)]

        return results.addCallback(check)

    def test_stop_finishes_what_was_asked(self) -> Deferred[None]:
        self.workers.start()
        results = gatherResults([self.workers.call(pow, n, 2) for n in range(20)])
        self.workers.stop()

        def check(squares: list[int]) -> None:
            assert len(squares) == 20

        return results.addCallback(check)

    def test_a_call_that_nobody_would_run_fails(self) -> Deferred[object]:
        before = self.assertFailure(self.workers.call(int), WorkersStopped)
        self.workers.stop()
        self.workers.start()
        self.workers.stop()
        after = self.assertFailure(self.workers.call(int), WorkersStopped)
        return gatherResults([before, after])


def test_the_reactor_gets_the_interpreter_back_soon() -> None:
    usual = sys.getswitchinterval()
    try:
        favour_the_reactor()
        assert sys.getswitchinterval() == SWITCH_SECONDS < usual
    finally:
        sys.setswitchinterval(usual)
