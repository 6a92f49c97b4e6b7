"""The dialogues hear every reply that the server's code makes, and try every command in every state."""

from __future__ import annotations

from typing import Any

import pytest

from mailserver.values.reply import Reply
from mailserver.wire import smtp_table
from mailserver.wire.smtp_table import (
    ATTEMPTED,
    CHUNKED,
    COMMANDS,
    ENTITLED,
    HELLO,
    RECIPIENT,
    TRANSACTION,
    Command,
)
from tests.dialogues.script import Player
from tests.dialogues.smtp_talk import STATES, SmtpTalk
from tests.dialogues.spoken import HERE, heard, made

Asked = tuple[str, str, int, Reply | None]
"""Role, verb, the facts of the session, and why the command was not legal."""


_OTHER_TESTS = {
    # Only a domain whose name is outside ASCII has such mailboxes under an ASCII name.
    (252, "2.6.8"): "receive/test_address_book.py",
}
"""Replies that need a server with other settings than the dialogues have, and who hears them."""


def test_every_reply_of_the_code_is_in_a_dialogue() -> None:
    heard_by_somebody = heard()
    for (code, status), path in _OTHER_TESTS.items():
        assert f"{code}" in (text := (HERE.parent / path).read_text())
        assert status in text
    heard_by_somebody |= set(_OTHER_TESTS)
    silent = {said: files for said, files in made().items() if said not in heard_by_somebody}
    assert not silent, "write a dialogue for " + ", ".join(
        f"{code} {status} ({', '.join(sorted(set(files)))})" for (code, status), files in silent.items()
    )


def test_the_replies_of_the_code_are_found() -> None:
    """So that the test above has something to fail for."""
    found = made()
    assert len(found) > 45
    for said in ((354, ""), (452, "4.3.1"), (503, "5.5.1"), (554, "5.4.6"), (250, "2.1.5"), (421, "4.4.2")):
        assert said in found
    assert (599, "5.9.9") not in heard()


@pytest.fixture(scope="module")
def asked() -> set[Asked]:
    """What the rows of the table were asked while all dialogues were played."""
    seen: set[Asked] = set()
    role = ""
    really = Command.objection

    def begin(setup: list[list[str]]) -> SmtpTalk:
        nonlocal role
        talk = SmtpTalk(setup)
        role = talk.factory.settings.offer.role
        return talk

    def objection(self: Command, facts: int) -> Reply | None:
        refusal = really(self, facts)
        seen.add((role, self.verb, facts, refusal))
        return refusal

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smtp_table.Command, "objection", objection)
        for path in sorted(HERE.glob("smtp-*.txt")):
            Player(path, begin).play()
    return seen


def state(facts: int) -> str:
    """How far a session with these facts has come."""
    for bit, name in ((CHUNKED, "chunked"), (RECIPIENT, "recipient"), (ATTEMPTED, "attempted")):
        if facts & bit:
            return name
    return "mail" if facts & TRANSACTION else "hello" if facts & HELLO else "start"


def test_every_command_is_tried_in_every_state(asked: set[Asked]) -> None:
    tried = {(role, verb, state(facts)) for role, verb, facts, _ in asked}
    wanted = {
        (role, row.verb, name) for role, rows in COMMANDS.items() for row in rows.values() for name in STATES
    }
    assert not wanted - tried


def test_every_command_is_tried_before_and_after_log_in(asked: set[Asked]) -> None:
    verbs = {row.verb for row in COMMANDS["submission"].values()}
    for entitled in (True, False):
        tried = {
            v for role, v, facts, _ in asked if role == "submission" and bool(facts & ENTITLED) is entitled
        }
        assert tried == verbs


def test_every_objection_of_the_table_is_heard(asked: set[Asked]) -> None:
    heard_objections = {(verb, refusal) for _, verb, _, refusal in asked}
    wanted: set[Any] = {
        (row.verb, condition.refusal)
        for role, rows in COMMANDS.items()
        for row in rows.values()
        for condition in row.order
        if (role, row.verb) != ("lmtp", "AUTH")  # LMTP has no mechanisms, which is what is said first
    }
    silent = wanted - heard_objections
    assert not silent, [f"{verb}: {refusal.text}" for verb, refusal in silent]


def test_every_command_is_legal_somewhere(asked: set[Asked]) -> None:
    legal = {verb for _, verb, _, refusal in asked if refusal is None}
    verbs = {row.verb for rows in COMMANDS.values() for row in rows.values()}
    assert verbs - legal <= {"TURN"}
