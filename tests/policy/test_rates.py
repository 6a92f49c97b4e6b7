"""Messages and recipients a minute by client."""

from mailserver.policy.rates import MOST_CLIENTS, TOO_MANY_MESSAGES, TOO_MANY_RECIPIENTS, ClientRates


class Now:
    def __init__(self) -> None:
        self.time = 100.0
        self.pressed = False

    def __call__(self) -> float:
        return self.time


def test_each_network_has_its_own_count_and_each_minute_a_new_one() -> None:
    now = Now()
    rates = ClientRates(2, 3, now, lambda: now.pressed)
    assert [rates.message("192.0.2.1") for _ in range(3)] == [None, None, TOO_MANY_MESSAGES]
    assert [rates.recipient("192.0.2.1") for _ in range(4)] == [None, None, None, TOO_MANY_RECIPIENTS]
    assert rates.message("192.0.2.2") is None
    now.time += 60
    assert rates.message("192.0.2.1") is None


def test_ipv6_neighbours_count_together() -> None:
    rates = ClientRates(1, 1, Now(), lambda: False)
    assert rates.message("2001:db8::1") is None
    assert rates.message("2001:db8::2") is TOO_MANY_MESSAGES


def test_nought_is_no_limit_and_pressure_leaves_a_tenth() -> None:
    now = Now()
    rates = ClientRates(0, 20, now, lambda: now.pressed)
    assert not any(rates.message("192.0.2.1") for _ in range(1000))
    now.pressed = True
    assert [rates.recipient("192.0.2.1") is None for _ in range(3)] == [True, True, False]


def test_a_flood_of_networks_costs_bounded_memory() -> None:
    rates = ClientRates(1, 1, Now(), lambda: False)
    for n in range(MOST_CLIENTS + 100):
        rates.message(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert len(rates._counts) <= MOST_CLIENTS + 1
