"""How long a POP3 client is waited for: one timer, and another while TLS begins."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mailserver.retrieve.settings import HANDSHAKE_SECONDS, IDLE_SECONDS, LAST_SECONDS


class Patience:
    """``ended`` is called when time is up; ``no_handshake`` when TLS has not begun in time.

    Setting a timer anew for each command would cost more than the command; so after log-in the timer
    looks when the client was ``heard`` last.
    """

    def __init__(
        self, clock: IReactorTime, ended: Callable[[], None], no_handshake: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._ended = ended
        self._no_handshake = no_handshake
        self._timer: IDelayedCall | None = None
        self._handshake: IDelayedCall | None = None
        self.is_logged_in = False
        self._spoke = 0.0
        self.heard = 0.0
        """When the client last spoke or read, in the clock's seconds."""

    def begin(self, seconds: float) -> None:
        """A connection is made; somebody has to log in within ``seconds``."""
        self.heard = self._spoke = self._clock.seconds()
        self._timer = self._clock.callLater(seconds, self._look)

    def hurry(self, seconds: float) -> None:
        """The time for that has changed."""
        if self._timer is not None and not self.is_logged_in:
            self._timer.reset(seconds)

    def spoke(self) -> None:
        """The client sent something."""
        self.heard = self._spoke = self._clock.seconds()

    def read(self) -> None:
        """The client took something."""
        self.heard = self._clock.seconds()

    @property
    def silence(self) -> float:
        """Seconds since the client last sent something."""
        return self._clock.seconds() - self._spoke

    def logged_in(self) -> None:
        """From now on a silence counts, not the time in all (RFC 1939 §3)."""
        self.is_logged_in = True
        self.heard = self._clock.seconds()
        if self._timer is not None:
            self._timer.reset(IDLE_SECONDS)

    def again(self) -> None:
        """Time was up and it is no fault of the client's."""
        self._timer = self._clock.callLater(IDLE_SECONDS, self._look)

    def expect_handshake(self) -> None:
        """TLS begins."""
        self._handshake = self._clock.callLater(HANDSHAKE_SECONDS, self._stalled)

    def handshake_done(self) -> None:
        """It has begun."""
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.cancel()

    def last(self) -> None:
        """Only the last response has still to leave."""
        self.stop()
        self.is_logged_in = False
        self._timer = self._clock.callLater(LAST_SECONDS, self._look)

    def stop(self) -> None:
        """Nobody waits any more. Harmless twice."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self.handshake_done()

    def end(self) -> None:
        """The session is over: it is not kept in memory by what it would have been told."""
        self.stop()
        self._ended = self._no_handshake = _nobody_hears

    def _stalled(self) -> None:
        self._handshake = None
        self._no_handshake()

    def _look(self) -> None:
        self._timer = None
        left = self.heard + IDLE_SECONDS - self._clock.seconds()
        if self.is_logged_in and left > 0:
            self._timer = self._clock.callLater(left, self._look)
        else:
            self._ended()


def _nobody_hears() -> None:
    """The session is over."""
