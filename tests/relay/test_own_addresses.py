"""Which addresses are ourselves."""

from mailserver.relay.own_addresses import OwnAddresses


def test_a_listener_on_every_address_is_found_at_each_of_this_machine() -> None:
    own = OwnAddresses(lambda: [("0.0.0.0", 25)])
    assert own("127.0.0.1", 25)
    assert not own("127.0.0.1", 26)
    assert not own("192.0.2.99", 25)


def test_a_listener_on_one_address_is_found_there_alone() -> None:
    own = OwnAddresses(lambda: [("127.0.0.1", 25)])
    assert own("127.0.0.1", 25)
    assert not own("127.0.0.2", 25)
