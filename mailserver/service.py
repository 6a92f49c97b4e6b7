"""The server as a service: binds, opens the house, lets people in, and takes leave of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger, globalLogPublisher

from mailserver import maillog
from mailserver.assembly.changing import Changing, on_hangup
from mailserver.assembly.sharing import share_of
from mailserver.assembly.welcome import welcome
from mailserver.config import Settings
from mailserver.house import House, wait
from mailserver.listeners import Listener, Place, StartFailed, make_listeners
from mailserver.polling import poll_lightly
from mailserver.relay.routes import RouteTable
from mailserver.threads import favour_the_reactor

log = Logger(namespace="mailserver")

NEW_OBJECTS = 50_000
"""So many more there are when Python's collector looks for rings among them: with its own 700 it walked
through all that belongs to 5,000 sessions so often that a message cost a quarter more, and with 10,000
still a fifteenth. Sessions are in no ring (tests/journeys/test_sessions_end.py): what would wait for the
collector must stay small."""


class MailServer(MultiService):
    """The whole server, or one of several equal ones. Making it opens nothing; ports bind first,
    then, as the user that twistd has changed to, files are opened."""

    def __init__(
        self, settings: Settings, reactor: Any, quick_start: bool = False, place: Place | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._place = place or Place()
        self._given = settings
        self._settings = settings = share_of(settings, self._place.count)
        self._reactor = reactor
        self._quick_start = quick_start
        self._routes = _route_table(settings)
        self._listeners = make_listeners(settings.listen, reactor, self._place.sockets)
        self._house: House | None = None
        self._changing: Changing | None = None
        self._poll_as_before: Callable[[], None] = lambda: None

    def privilegedStartService(self) -> None:
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        for listener in self._listeners:
            listener.bind()

    def startService(self) -> None:
        """Open the rooms and let people in. Raises ``StartFailed``."""
        # Twisted's timers follow the wall clock; one that is set back an hour would stop them for it.
        self._reactor.seconds = time.monotonic
        if any(listener.port is None for listener in self._listeners):
            self.privilegedStartService()  # `twist` never calls it
        house = House(self._settings, self._reactor, self._routes, self._place, self._listening)
        house.open()
        favour_the_reactor()
        self._poll_as_before = poll_lightly(self._reactor)
        maillog.write_directly(globalLogPublisher, lambda write: self._reactor.callLater(0, write))
        self._house = house
        for runner in house.runners:
            runner.setServiceParent(self)  # type: ignore[no-untyped-call]
        house.control.setServiceParent(self)  # type: ignore[no-untyped-call]
        super().startService()  # type: ignore[no-untyped-call]
        for listener in self._listeners:
            listener.serve(house.doors.factory(listener.name), house.share)
            if self._place.count == 1:
                log.info("listening: {name} on {where}", name=listener.name, where=listener.where)
        self._changing = Changing(self._given, self._change, self._reactor, self._place.path)
        self._changing.answer(house.control)
        on_hangup(self._reactor, self._changing.reread)
        # What a start has made stays: Python's collector need not walk through it while people wait.
        gc.collect()
        gc.freeze()
        gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
        if self._quick_start:
            ports = {listener.name: _port(listener) for listener in self._listeners}
            welcome(house.directory, self._settings.domains[0], ports.get("smtp", 0), ports.get("pop3", 0))

    def _change(self, settings: Settings) -> None:
        """Let the next connections meet other settings. Raises ``StartFailed``: nothing was changed."""
        assert self._house is not None
        self._house.change(share_of(settings, self._place.count))
        for listener in self._listeners:
            listener.serve(self._house.doors.factory(listener.name))

    def _listening(self) -> list[tuple[str, int]]:
        """Where other servers reach us: what leads there leads back."""
        places: list[Any] = [
            one.port.getHost() for one in self._listeners if one.name == "smtp" and one.port is not None
        ]
        return [(place.host, place.port) for place in places if hasattr(place, "port")]

    def stopService(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._changing is not None:
            self._changing.stop()
        await DeferredList([listener.close() for listener in self._listeners])
        if self._house is not None:
            await self._house.end_sessions()
            # The runner takes nothing new, and waits for what is under way on its ways out: they end now.
            idle = MultiService.stopService(self)
            relay_ended = self._house.relay.stop()
            self._house.deliveries.stop()
            self._house.store.hurry()
            await wait(idle)
            await relay_ended
            self._house.close()
        maillog.write_through_the_logger()
        self._poll_as_before()


def _route_table(settings: Settings) -> RouteTable:
    try:
        return RouteTable(settings.relay.routes)
    except ValueError as error:
        raise StartFailed(str(error)) from None


def _port(listener: Listener) -> int:
    return 0 if listener.port is None else getattr(listener.port.getHost(), "port", 0)
