"""Another configuration in a running server: checked, taken over, and taken back unless confirmed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from mailserver.config import ConfigError, ConfigUnreadable, Settings, load, load_table, load_text
from mailserver.config.live import Difference, differences, merged
from mailserver.config.words import as_table
from mailserver.control import Control
from mailserver.control_client import NoServer, Refused, ask
from mailserver.listeners import StartFailed

log = Logger(namespace="mailserver")

LONGEST_SECONDS = 86400.0
ANSWER_SECONDS = 2.0


class Changing:
    """Keeps what is in force and what was before it.

    ``use`` puts settings into force, or raises ``StartFailed`` and leaves everything as it was;
    ``path`` is the configuration's file, for SIGHUP.
    """

    def __init__(
        self, settings: Settings, use: Callable[[Settings], None], clock: Any, path: Path | None = None
    ) -> None:
        self.settings = settings
        self._use = use
        self._clock = clock
        self._path = path
        self._before: Settings | None = None
        self._alarm: Any = None

    def answer(self, control: Control) -> None:
        """Answer the questions of ``mailserver config``."""
        control.answer("config-show", lambda request: as_table(self.settings))
        control.answer("config-apply", self._applied)
        control.answer("config-confirm", lambda request: self.confirm())

    def apply(self, wanted: Settings, within: float = 0.0) -> list[Difference]:
        """Take over what can be; all differences. ``within`` seconds (0: no need) it wants a confirmation.

        Raises:
            StartFailed: something in it cannot be used; nothing was changed.
        """
        found = differences(self.settings, wanted)
        before, settings = self.settings, merged(self.settings, wanted)
        if settings != before:
            self._use(settings)
            self.settings = settings
        # What was before the first change that nobody confirmed is what counts as safe.
        safe = self._before if self._alarm is not None and self._before is not None else before
        self._end_alarm()
        if within and settings != before:
            self._before = safe
            self._alarm = self._clock.callLater(min(within, LONGEST_SECONDS), self._take_back)
        _tell(found)
        return found

    def confirm(self) -> bool:
        """Keep what was applied; whether anything waited for that."""
        waited = self._alarm is not None
        self._end_alarm()
        if waited:
            log.info("configuration: confirmed")
        return waited

    def reread(self) -> None:
        """SIGHUP: apply the file, or say why not and keep what is in force."""
        if self._path is None:
            log.warn("configuration: SIGHUP, but this server was started without a file")
            return
        try:
            self.apply(load(self._path))
        except (ConfigError, ConfigUnreadable, StartFailed) as error:
            for line in str(error).splitlines():
                log.error("configuration: {line}", line=line)
            log.error("configuration: nothing was changed; the server keeps the old one")

    def stop(self) -> None:
        """No more taking back."""
        self._end_alarm()

    def _applied(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        try:
            wanted = load_text(str(request["text"]), Path(str(request["path"])))
            found = self.apply(wanted, float(request.get("within", 0)))
        except (ConfigError, StartFailed) as error:
            raise ValueError(str(error)) from None
        return [
            {"key": one.key, "old": one.old, "new": one.new, "needs_restart": not one.is_live}
            for one in found
        ]

    def _end_alarm(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None and alarm.active():
            alarm.cancel()

    def _take_back(self) -> None:
        self._alarm = None
        before, self._before = self._before, None
        assert before is not None
        log.warn("configuration: nobody confirmed; the one before is in force again, the file is as it was")
        try:
            self._use(before)
            self.settings = before
        except StartFailed as error:
            log.error("configuration: it cannot be taken back: {error}", error=str(error))


def _tell(found: list[Difference]) -> None:
    live = [one.key for one in found if one.is_live]
    others = [one.key for one in found if not one.is_live]
    log.info("configuration: changed {keys}", keys=", ".join(live) or "nothing")
    if others:
        log.warn("configuration: {keys}: needs a restart", keys=", ".join(others))


def on_hangup(reactor: Any, call: Callable[[], object]) -> None:
    """Call on SIGHUP; only where this is the main thread."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(call))


def in_force(settings: Settings, count: int, number: int) -> Settings:
    """What a worker that is started again begins with: what its equals have, which may have changed since the
    start. Blocks for a moment."""
    for other in range(count):
        if other == number:
            continue
        try:
            return load_table(ask(settings.state, "config-show", other, ANSWER_SECONDS))
        except (NoServer, Refused, ConfigError):
            continue
    return settings
