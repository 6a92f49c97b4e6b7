"""A promise keeps what a future of the standard library promises, but for being cancelled."""

import threading
from concurrent.futures import Future

import pytest

from mailserver.promise import Promise


def test_a_result_reaches_those_who_came_before_and_after() -> None:
    promise: Promise[int] = Promise()
    seen: list[Future[int]] = []
    promise.add_done_callback(seen.append)
    assert not promise.done()
    promise.set_result(7)
    promise.add_done_callback(seen.append)
    assert seen == [promise, promise]
    assert (promise.done(), promise.result(), promise.exception()) == (True, 7, None)


def test_a_failure_is_raised_and_told() -> None:
    promise: Promise[int] = Promise()
    error = OSError("no")
    promise.set_exception(error)
    assert promise.exception() is error
    with pytest.raises(OSError, match="no"):
        promise.result()


def test_somebody_may_block_on_it() -> None:
    promise: Promise[int] = Promise()
    threading.Timer(0.05, promise.set_result, [3]).start()
    assert promise.result(5) == 3


def test_waiting_ends_with_the_time() -> None:
    promise: Promise[int] = Promise()
    with pytest.raises(TimeoutError):
        promise.result(0.01)
    with pytest.raises(TimeoutError):
        promise.exception(0.01)


def test_nobody_cancels_it() -> None:
    promise: Promise[int] = Promise()
    assert not promise.cancel()
    assert not promise.cancelled()


def test_no_callback_is_lost_or_called_twice_when_two_threads_meet() -> None:
    for _ in range(2000):
        promise: Promise[int] = Promise()
        calls: list[object] = []
        start = threading.Barrier(2)

        def fulfil(promise: Promise[int] = promise, start: threading.Barrier = start) -> None:
            start.wait()
            promise.set_result(1)

        thread = threading.Thread(target=fulfil)
        thread.start()
        start.wait()
        promise.add_done_callback(calls.append)
        thread.join()
        assert len(calls) == 1
