"""Settings become the trace: who records what becomes of each message."""

from __future__ import annotations

from collections.abc import Sequence

from mailserver import maillog
from mailserver.config import Settings
from mailserver.trace.recorder import Recorder
from mailserver.trace.segments import FOLDER


class Tracing:
    """The recorder of one worker process, if there is to be one. Making it opens nothing."""

    def __init__(self, settings: Settings, worker: int, rules: Sequence[str]) -> None:
        own = settings.trace
        self._recorder: Recorder | None = None
        if own.keep:
            self._recorder = Recorder(
                settings.state / FOLDER, worker, own.keep, own.size, maillog.trace_trouble, rules
            )

    def open(self) -> None:
        """Begin to record."""
        if self._recorder is not None:
            self._recorder.start()
            maillog.tell(self._recorder)

    def close(self) -> None:
        """Write what there is. Call it when nothing is under way any more."""
        maillog.tell(None)
        if self._recorder is not None:
            self._recorder.stop()
