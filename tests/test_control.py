"""The control socket: questions, mistakes, who may ask, and what is left behind."""

import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from mailserver.control import Control
from mailserver.control_client import NoServer, Refused, ask, socket_path
from tests.scratch import scratch_path


class ControlTests(TestCase):
    def setUp(self) -> None:
        self.state = scratch_path(self)
        self.state.mkdir()
        self.control = Control(reactor, self.state)
        self.control.startService()
        self.addCleanup(lambda: maybeDeferred(self.control.stopService))

    async def asked(self, name: str, **fields: Any) -> Any:
        return await deferToThread(ask, self.state, name, **fields)

    async def test_a_question_is_answered_now_or_later(self) -> None:
        later: Deferred[list[int]] = Deferred()
        self.control.answer("double", lambda request: 2 * request["n"])
        self.control.answer("later", lambda request: later)
        assert await self.asked("double", n=21) == 42
        waiting = Deferred.fromCoroutine(self.asked("later"))
        reactor.callLater(0.05, later.callback, [1, 2])  # type: ignore[attr-defined]
        assert await waiting == [1, 2]
        assert isinstance(await self.asked("ping"), int)

    async def test_mistakes_are_told_and_bugs_are_logged(self) -> None:
        def wrong(request: Any) -> None:
            raise ValueError("no such domain")

        self.control.answer("wrong", wrong)
        self.control.answer("bug", lambda request: 1 / 0)
        for name, words in (("wrong", "no such domain"), ("bug", "zero"), ("?", "does not know")):
            with pytest.raises(Refused, match=words):
                await self.asked(name)
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    async def test_only_its_owner_may_ask(self) -> None:
        assert stat.S_IMODE(socket_path(self.state).stat().st_mode) == 0o600

    async def test_a_stopped_server_leaves_no_socket_and_a_killed_one_no_harm(self) -> None:
        await maybeDeferred(self.control.stopService)
        assert not socket_path(self.state).exists()
        with pytest.raises(NoServer, match="No such file"):
            await self.asked("ping")
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(socket_path(self.state)))
        self.control.startService()
        assert isinstance(await self.asked("ping"), int)

    async def test_a_long_path_fits(self) -> None:
        deep = Path(self.state, "x" * 60, "y" * 60)
        deep.mkdir(parents=True)
        control = Control(reactor, deep)
        control.startService()
        assert isinstance(await deferToThread(ask, deep, "ping"), int)
        await maybeDeferred(control.stopService)
