"""The window's arithmetic, against the rules of Postfix's scheduler."""

from mailserver.relay.window import Window


def test_it_grows_by_one_for_each_window_of_successes_that_fills_it() -> None:
    window = Window()
    sizes = []
    for _ in range(200):
        window.succeeded(busy=window.size)
        sizes.append(window.size)
    assert sizes.index(6) == 4  # five successes of 1/5
    assert sizes.index(7) == 10  # six more of 1/6
    assert max(sizes) == 20


def test_it_does_not_grow_while_nobody_fills_it() -> None:
    window = Window()
    for _ in range(100):
        window.succeeded(busy=1)
    assert window.size == 6  # one above busy + initial - 1


def test_it_shrinks_at_the_first_failure_of_a_cohort() -> None:
    window = Window(size=10)
    assert not window.failed()
    assert window.size == 9
    sizes = []
    for _ in range(20):
        window.succeeded(busy=9)  # no fail cohort comes together
        window.failed()
        sizes.append(window.size)
    assert sizes == sorted(sizes, reverse=True)
    assert 6 <= sizes[-1] <= 8


def test_a_cohort_of_failures_without_a_success_is_dead() -> None:
    window = Window()
    results = [window.failed() for _ in range(5)]
    assert results == [False, False, False, False, True]
    window = Window(limit=1)
    assert window.size == 1
    assert window.failed()


def test_it_never_falls_below_one_and_comes_back_slowly() -> None:
    window = Window(size=1)
    window.revive(busy=1)
    assert window.size == 1
    window.succeeded(busy=1)
    assert window.size == 2
    window.revive(busy=50)
    assert window.size == 20
