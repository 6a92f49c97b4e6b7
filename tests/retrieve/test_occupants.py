"""A session that nobody uses gives way, also to a log-in of another process."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from mailserver.assembly.fetching import Fetching
from mailserver.config import Settings
from mailserver.control import Control
from mailserver.listeners import Place
from mailserver.retrieve.occupants import Occupants
from mailserver.threads import Bridge, Workers


class Session:
    def __init__(self) -> None:
        self.asked = 0
        self.gives_way = True

    def give_way(self) -> bool:
        self.asked += 1
        return self.gives_way


def test_who_is_here_is_asked_and_nobody_else() -> None:
    elsewhere: list[str] = []
    occupants, session = Occupants(elsewhere.append), Session()
    occupants.enter("ada", session)
    occupants.ask("ada")
    assert (session.asked, elsewhere) == (1, [])
    occupants.leave("ada", Session())
    occupants.ask("ada")
    assert session.asked == 2
    occupants.leave("ada", session)
    occupants.ask("ada")
    assert (session.asked, elsewhere) == (2, ["ada"])
    assert not occupants.ask_here("ada")


class ProcessesTests(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="occupants-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.workers = Workers(Bridge(reactor), "blocking", 2)  # type: ignore[arg-type]
        self.workers.start()
        settings = Settings(hostname="mx.test", state=self.folder)
        self.rooms = [Fetching(settings, self.workers, reactor, Place(number=n, count=3)) for n in range(3)]
        self.controls = [Control(reactor, self.folder, n) for n in (0, 2)]  # the second has just died
        for control, room in zip(self.controls, (self.rooms[0], self.rooms[2]), strict=True):
            room.answer(control)
            control.startService()

    async def tearDown(self) -> None:
        for control in self.controls:
            await maybeDeferred(control.stopService)
        self.workers.stop()

    async def test_a_session_of_another_process_is_asked(self) -> None:
        session, other = Session(), Session()
        self.rooms[2].occupants.enter("ada@mx.test", session)
        self.rooms[2].occupants.enter("bob@mx.test", other)
        for _ in range(5):
            self.rooms[0].occupants.ask("ada@mx.test")
        for _ in range(200):
            if session.asked:
                break
            await _later(0.02)
        await _later(0.1)
        assert (session.asked, other.asked) == (1, 0), "five log-ins that wait ask once a second"


def _later(seconds: float) -> Deferred[Any]:
    return deferLater(reactor, seconds, lambda: None)  # type: ignore[arg-type]
