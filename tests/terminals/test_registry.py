"""Terminals come, owe answers, and go away in the middle of a message."""

from typing import Any

import pytest
from twisted.internet.task import Clock

from mailserver.terminals.registry import MOST_TERMINALS, MOST_UNSHOWN, PATIENCE, Terminals
from mailserver.values.account import Account, LocalUser, NoSuchUser, Resolution
from mailserver.values.address import Address
from tests.dialogues.smtp_talk import AtOnce

ADA = Address("ada", "example.test")
BOB = Address("bob", "example.test")
CONTENT = (b"Subject: tea?\r\n\r\n", b"At five\r\n")


def resolve(address: Address) -> Resolution:
    if address.local.partition("+")[0] in ("ada", "bob"):
        return LocalUser(Account(Address(address.local.partition("+")[0], "example.test")))
    return NoSuchUser(address)


class Shown(list[Any]):
    """What a terminal was sent."""


def terminals(wanted: bool = True) -> tuple[Clock, Terminals]:
    clock = Clock()
    workers: Any = AtOnce()
    return clock, Terminals(clock, workers, resolve, wanted)


def results(deferred: Any) -> list[Any]:
    found: list[Any] = []
    deferred.addCallback(found.append)
    return found


def test_a_message_is_shown_when_the_terminal_says_so() -> None:
    clock, room = terminals()
    sent = Shown()
    terminal = room.attach({"address": "ada@example.test"}, sent.append)
    assert room.has(ADA)
    assert room.has(Address("ada+x", "example.test"))
    assert not room.has(BOB)
    found = results(room.show(ADA, BOB, CONTENT))
    assert "At five" in sent[0]["show"]
    assert found == []
    terminal.heard({"shown": 99})
    terminal.heard({"shown": "1"})
    assert found == []
    terminal.heard({"shown": sent[0]["number"]})
    assert found == [True]
    assert not clock.getDelayedCalls()


def test_one_of_two_terminals_is_enough() -> None:
    _, room = terminals()
    first, second = Shown(), Shown()
    gone = room.attach({"address": "ada@example.test"}, first.append)
    other = room.attach({"address": "ada@example.test"}, second.append)
    found = results(room.show(ADA, BOB, CONTENT))
    gone.gone()
    assert found == []
    other.heard({"shown": second[0]["number"]})
    assert found == [True]
    other.gone()
    assert not room.has(ADA)


def test_a_terminal_that_goes_away_or_stays_silent_has_shown_nothing() -> None:
    clock, room = terminals()
    sent = Shown()
    terminal = room.attach({"address": "ada@example.test"}, sent.append)
    silent = results(room.show(ADA, BOB, CONTENT))
    clock.advance(PATIENCE)
    assert silent == [False]
    found = results(room.show(ADA, BOB, CONTENT))
    terminal.gone()
    assert found == [False]
    terminal.gone()
    assert results(room.show(ADA, BOB, CONTENT)) == [False]
    assert not clock.getDelayedCalls()


def test_a_terminal_that_does_not_keep_up_takes_no_more() -> None:
    _, room = terminals()
    sent = Shown()
    room.attach({"address": "ada@example.test"}, sent.append)
    waiting = [results(room.show(ADA, BOB, CONTENT)) for _ in range(MOST_UNSHOWN)]
    assert waiting == [[]] * MOST_UNSHOWN
    assert results(room.show(ADA, BOB, CONTENT)) == [False]
    assert len(sent) == MOST_UNSHOWN


def test_who_may_not_attach_is_told_why() -> None:
    _, room = terminals()
    for address, words in (("dave@example.test", "no user"), ("x", "not a mail address"), ("", "not a mail")):
        with pytest.raises(ValueError, match=words):
            room.attach({"address": address}, Shown().append)
    for _ in range(MOST_TERMINALS):
        room.attach({"address": "ada@example.test"}, Shown().append)
    with pytest.raises(ValueError, match="attached already"):
        room.attach({"address": "ada@example.test"}, Shown().append)
    with pytest.raises(ValueError, match="nobody"):
        terminals(wanted=False)[1].attach({"address": "ada@example.test"}, Shown().append)
