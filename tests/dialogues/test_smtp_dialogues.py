"""Plays every SMTP dialogue in this folder: one case a file.

``@ setup`` knows tls, implicit, submission, cleartext, trusted (the client's network may relay),
normalize (its bare line ends are mended), greet-wait (strangers wait a second for the greeting);
messages have at most 2000 octets and 3 recipients.  Besides handshake, wait, lose, connect, closed
and open there are ``@ kept 1`` (so many messages were accepted), ``@ envelope <from> <to> ...`` and
``@ ends text`` (of the last one).
"""

from pathlib import Path

import pytest

from tests.dialogues.script import Player
from tests.dialogues.smtp_talk import SmtpTalk

HERE = Path(__file__).parent


# SMTPReceiver._say_goodbye overwrites its timer after _hang_up, so one is left behind.


def case(path: Path) -> object:
    return pytest.param(path, id=path.stem)


@pytest.mark.parametrize("path", map(case, sorted(HERE.glob("smtp-*.txt"))))
def test_smtp(path: Path) -> None:
    Player(path, SmtpTalk).play()
