"""The books: who has an end, who waits, what was lost of the records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mailserver.trace.ledger import Books, Gap

DAY = "2026-11-22"


def write(folder: Path, writer: str, *records: dict[str, Any]) -> None:
    with (folder / f"{DAY}.{writer}.trace").open("a") as file:
        for record in records:
            file.write(json.dumps({"q": "", "t": 1.0, **record}) + "\n")


def accepted(id_: str, *numbers: int, t: float = 1.0) -> dict[str, Any]:
    return {
        "q": id_,
        "t": t,
        "e": "accepted",
        "from": "a@a.test",
        "to": [[n, f"{n}@a.test"] for n in numbers],
    }


def attempt(id_: str, what: str, *numbers: int, relay: str = "maildir") -> dict[str, Any]:
    to = [{"n": n, "to": f"{n}@a.test", "what": what, "relay": relay} for n in numbers]
    return {"q": id_, "t": 2.0, "e": "attempt", "to": to}


def test_each_recipient_needs_an_end(tmp_path: Path) -> None:
    write(tmp_path, "0", accepted("one", 0, 1), attempt("one", "delivered", 0), attempt("one", "delayed", 1))
    write(tmp_path, "0", accepted("two", 0), attempt("two", "failed", 0))
    books = Books()
    books.read(tmp_path)
    assert (books.messages, books.recipients) == (2, 3)
    assert dict(books.ends) == {"delivered": 1, "failed": 1}
    assert {id_: entry.waiting for id_, entry in books.open.items()} == {"one": {1: "1@a.test"}}
    assert books.delivered == [("one", 0, "0@a.test")]
    write(tmp_path, "0", attempt("one", "relayed", 1))
    books.read(tmp_path)
    assert not books.open
    assert not books.again


def test_an_operator_ends_what_waits(tmp_path: Path) -> None:
    write(tmp_path, "0", accepted("one", 0, 1), accepted("two", 0))
    write(tmp_path, "commands", {"q": "one", "e": "operator", "what": "removed", "by": "root"})
    write(tmp_path, "commands", {"q": "two", "e": "operator", "what": "released", "by": "root"})
    books = Books()
    books.read(tmp_path)
    assert dict(books.ends) == {"removed": 2}
    assert list(books.open) == ["two"]
    write(tmp_path, "0", accepted("three", 0, 1, 2))
    some = {"q": "three", "e": "operator", "what": "removed", "by": "root", "n": [0, 2]}
    write(tmp_path, "commands", some, some)
    books.read(tmp_path)
    assert dict(books.ends) == {"removed": 4}
    assert books.open["three"].waiting == {1: "1@a.test"}


def test_an_operator_may_end_some_of_a_message(tmp_path: Path) -> None:
    write(tmp_path, "0", accepted("one", 0, 1, 2))
    write(tmp_path, "commands", {"q": "one", "e": "operator", "what": "removed", "by": "root", "n": [0, 2]})
    books = Books()
    books.read(tmp_path)
    assert dict(books.ends) == {"removed": 2}
    assert books.open["one"].waiting == {1: "1@a.test"}


def test_an_end_that_is_read_before_its_beginning_counts(tmp_path: Path) -> None:
    write(tmp_path, "0", attempt("one", "relayed", 0))
    write(tmp_path, "1", accepted("one", 0))
    books = Books()
    books.read(tmp_path)
    assert not books.open
    assert dict(books.ends) == {"relayed": 1}


def test_a_second_end_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, "0", accepted("one", 0, 1), attempt("one", "delivered", 0), attempt("one", "failed", 0))
    write(tmp_path, "0", attempt("one", "relayed", 1), attempt("one", "relayed", 1))
    books = Books()
    books.read(tmp_path)
    assert books.again == [("one", 0, "0@a.test"), ("one", 1, "1@a.test")]


@pytest.mark.parametrize(
    ("between", "gaps"),
    [
        ([{"e": "stopped", "t": 3.0}, {"e": "rules"}, {"e": "began", "t": 9.0}], []),
        ([{"e": "rules"}, {"e": "began", "t": 9.0}], [Gap("0", 1.0, 9.0, 0)]),
        ([{"e": "lost", "count": 7, "t": 5.0}], [Gap("0", 1.0, 5.0, 7)]),
    ],
)
def test_gaps_are_known(tmp_path: Path, between: list[dict[str, Any]], gaps: list[Gap]) -> None:
    write(
        tmp_path, "0", {"e": "rules"}, {"e": "began"}, accepted("one", 0), *between, accepted("two", 0, t=9.5)
    )
    books = Books()
    books.read(tmp_path)
    assert books.gaps == gaps
    assert books.may_have_lost(books.open["one"]) == (gaps[0] if gaps else None)
    assert books.may_have_lost(books.open["two"]) is None


def test_a_torn_line_stops_nothing_and_what_raises_in_between_ends_it(tmp_path: Path) -> None:
    write(tmp_path, "0", accepted("one", 0))
    with (tmp_path / f"{DAY}.0.trace").open("a") as file:
        file.write('{"q":"x","e":\n' * 1000 + '{"q":"half')

    def stop() -> None:
        raise InterruptedError

    books = Books()
    books.read(tmp_path)
    assert list(books.open) == ["one"]
    with pytest.raises(InterruptedError):
        Books().read(tmp_path, stop)
