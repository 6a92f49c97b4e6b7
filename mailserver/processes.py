"""``workers``: how many processes make the server, and the one that looks after the others."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger, globalLogPublisher

from mailserver import maillog
from mailserver.assembly.changing import in_force, on_hangup
from mailserver.config import Settings
from mailserver.listeners import Place, StartFailed, make_listeners
from mailserver.notifying import Notifying
from mailserver.service import MailServer
from mailserver.supervisor import FIRST_SOCKET, Supervisor, WorkerFailed

log = Logger(namespace="mailserver")


def make_server(
    settings: Settings, reactor: Any, quick_start: bool = False, path: Path | None = None
) -> MultiService:
    """The whole server, in this process or in several; nothing is opened yet.

    Raises:
        StartFailed: something in the settings cannot be understood.
    """
    count = settings.workers or _cores()
    # One that is alone looks at the settings in any case.
    alone = MailServer(settings, reactor, quick_start, Place(path=path))
    server = alone if count == 1 else SupervisedServer(settings, reactor, count, quick_start, path)
    if (notifying := Notifying(reactor)).is_wanted:
        notifying.setServiceParent(server)  # type: ignore[no-untyped-call]
    return server


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class SupervisedServer(MultiService):
    """Binds the ports and lends them to ``count`` equal processes, each of which is a ``MailServer``.

    No rooms are opened here: no file, no database, no thread.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        count: int,
        quick_start: bool,
        path: Path | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._settings = settings
        self._path = path
        self._reactor = reactor
        self._count = count
        self._quick_start = quick_start
        self._listeners = make_listeners(settings.listen, reactor, {})
        self._supervisor = Supervisor(reactor, "mailserver.worker", count, self._task, self._say)

    def privilegedStartService(self) -> None:
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        for listener in self._listeners:
            listener.bind()

    def startService(self) -> None:
        """Start the processes; they serve when this returns. Raises ``StartFailed``."""
        if any(listener.port is None for listener in self._listeners):
            self.privilegedStartService()  # `twist` never calls it
        sockets = [listener.lend() for listener in self._listeners]
        try:
            self._supervisor.start(sockets)
        except WorkerFailed as error:
            raise StartFailed(str(error)) from error
        super().startService()  # type: ignore[no-untyped-call]
        on_hangup(self._reactor, lambda: self._supervisor.signal("HUP"))
        for listener in self._listeners:
            log.info("listening: {name} on {where}", name=listener.name, where=listener.where)

    def stopService(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        ended = self._supervisor.stop()
        for listener in self._listeners:
            listener.retire()
        await ended
        await DeferredList([listener.close() for listener in self._listeners])

    def _task(self, number: int) -> bytes:
        """What a worker needs to know. The settings themselves and not the path of their file: it may be
        root's to read, and a worker that is started again must not differ from the others."""
        sockets = {listener.name: FIRST_SOCKET + n for n, listener in enumerate(self._listeners)}
        place = Place(number, self._count, sockets, self._path)
        settings = in_force(self._settings, self._count, number)
        return pickle.dumps((settings, place, self._quick_start and number == 0))

    @staticmethod
    def _say(lines: bytes) -> None:
        """Put lines of a worker's log into ours; a file gets them as they are."""
        text = lines.decode(errors="replace")
        file = maillog.text_file(globalLogPublisher)
        if file is None:
            for line in text.splitlines():
                log.info("{line}", line=line)
        else:
            file.write(text)
            file.flush()
