"""From a right password to a locked snapshot: who has it gives way or is waited for, and a slow one is
announced."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from mailserver import maillog
from mailserver.interfaces import IMaildrop, IMaildropOwner, MaildropInUse, MaildropUnusable
from mailserver.retrieve.login_times import LoginTimes
from mailserver.retrieve.occupants import AGAIN_SECONDS, WAIT_SECONDS
from mailserver.retrieve.outlet import Outlet
from mailserver.retrieve.settings import Pop3Settings
from mailserver.wire.pop3_server import Pop3Server

MOMENT_SECONDS = 0.5
"""A snapshot that takes longer is announced: the client hears +OK as soon as the lock is held."""

_FOR_GOOD = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EROFS)
"""What no second try mends (RFC 3206 §4: SYS/PERM)."""


class _TooSoon(Exception):
    """LOGIN-DELAY is not over."""


class Opening:
    """One log-in's way to its maildrop; ``is_stopping`` tells that the server ends."""

    def __init__(
        self,
        settings: Pop3Settings,
        machine: Pop3Server,
        outlet: Outlet,
        owner: IMaildropOwner,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._machine = machine
        self._outlet = outlet
        self._owner = owner
        self._is_stopping = is_stopping
        self._name = str(owner.account.address)
        self._locked = self._announced = False
        self._alarm: IDelayedCall | None = None
        self._pause: tuple[IDelayedCall, Deferred[None]] | None = None
        self._time_unknown: OSError | None = None

    async def drop(self) -> IMaildrop | None:
        """The maildrop; ``None`` after a refusal, or when the client has gone."""
        deadline = self._settings.clock.seconds() + WAIT_SECONDS
        while not self._outlet.is_lost:
            opening = self._owner.maildrop(self._lock_is_held)
            self._alarm = self._settings.clock.callLater(MOMENT_SECONDS, self._takes_long)
            try:
                return await opening
            except MaildropInUse:
                if self._is_stopping() or self._settings.clock.seconds() >= deadline:
                    self._refuse("IN-USE", "Another session has the maildrop")
                    return None
            except _TooSoon:
                self._refuse_too_soon()
                return None
            except Exception as error:
                self._fail(error)
                return None
            finally:
                self._stop_alarm()
            self._settings.occupants.ask(self._name)
            await self._a_moment()
        return None

    def cancel(self) -> None:
        """The client is gone: wait no longer."""
        self._stop_alarm()
        self._end_pause()

    # -- in the thread that opens ----------------------------------------------------------------

    def _lock_is_held(self) -> None:
        times = self._settings.login_times
        if times is not None and not self._is_late_enough(times):
            raise _TooSoon
        self._locked = True

    def _is_late_enough(self, times: LoginTimes) -> bool:
        try:
            return times.may_log_in(self._name)
        except OSError as error:
            self._time_unknown = error  # the delay spares us work; it is no reason to keep anybody out
            return True

    # -- time ------------------------------------------------------------------------------------

    def _takes_long(self) -> None:
        self._alarm = None
        if self._locked:
            self._announced = True
            self._machine.opening()
            self._outlet.flush()
        else:
            self._alarm = self._settings.clock.callLater(MOMENT_SECONDS, self._takes_long)

    def _stop_alarm(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.cancel()
        error, self._time_unknown = self._time_unknown, None
        if error is not None:
            maillog.fault("looking at the time of the last log-in", error)

    async def _a_moment(self) -> None:
        waiting: Deferred[None] = Deferred()
        self._pause = self._settings.clock.callLater(AGAIN_SECONDS, self._end_pause), waiting
        await waiting

    def _end_pause(self) -> None:
        pause, self._pause = self._pause, None
        if pause is not None:
            timer, waiting = pause
            if timer.active():
                timer.cancel()
            waiting.callback(None)

    # -- refusals --------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        maillog.fault("opening a maildrop", error)
        for_good = isinstance(error, MaildropUnusable) or getattr(error, "errno", None) in _FOR_GOOD
        if for_good:
            self._refuse("SYS/PERM", "The maildrop cannot be opened; the postmaster has to mend it")
        else:
            self._refuse("SYS/TEMP", "The maildrop cannot be opened now")

    def _refuse(self, code: str, why: str) -> None:
        if self._outlet.is_lost:
            return
        if self._announced:
            self._machine.opening_failed(code, why)
        else:
            self._machine.login_refused(code, why, counts=False)

    def _refuse_too_soon(self) -> None:
        assert self._settings.login_times is not None
        if not self._outlet.is_lost:
            self._machine.login_refused(
                "LOGIN-DELAY",
                "You have logged in a moment ago; wait {seconds} s between log-ins",
                counts=False,
                seconds=math.ceil(self._settings.login_times.delay),
            )
