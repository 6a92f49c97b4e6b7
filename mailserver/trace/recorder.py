"""Takes events from the reactor, writes them in a thread of its own; it drops rather than waits.

Telling costs an append to a queue.  A disk that is slow, full or gone costs records, which are counted,
and never mail.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mailserver.trace import records
from mailserver.trace.marks import Marks
from mailserver.trace.segments import SegmentWriter
from mailserver.values.address import Address
from mailserver.values.envelope import Entry, queue_id
from mailserver.values.outcome import Outcome
from mailserver.values.reply import Reply
from mailserver.values.session import SessionFacts

MOST_WAITING = 20_000
"""Events that wait to be written; more of them are dropped, and counted."""

BATCH_SECONDS = 0.1
"""How long events wait for others, so that many are written by one call; a crash loses so much."""

COMPLAIN_SECONDS = 300.0
"""How often a failing disk is told of."""

BEGAN, STOPPED, LOST, RULES = "began", "stopped", "lost", "rules"
"""Records of the writer itself: it has begun (after a crash there is no ``stopped`` before), it has ended in
good order, how many events were dropped before this one, and which rules are asked about a recipient."""

Event = tuple[str, float, Any, Any, Any]


class Recorder:
    """What ``maillog`` tells of each message, on its way into segments. Making it opens nothing.

    ``complain`` is called in the thread, with words for the log, when records cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        worker: int,
        keep: float,
        most: int,
        complain: Callable[[str], object],
        rules: Sequence[str] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self.dropped = 0
        self._now = now
        self._rules = list(rules)
        self._marks = Marks(worker, now)
        self._writer = SegmentWriter(folder, str(worker), keep, most, now, self._header)
        self._complain = complain
        self._complained = -COMPLAIN_SECONDS
        self._events: deque[Event] = deque()
        self._told_of = 0
        self._some = threading.Event()
        self._awake = self._ending = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write."""
        self._put(BEGAN, "", {}, None)
        self._thread = threading.Thread(target=self._run, name="trace", daemon=True)
        self._thread.start()

    def stop(self, patience: float = 5.0) -> None:
        """Write what there is, but wait no longer than ``patience`` seconds for it."""
        if self._thread is None:
            return
        self._put(STOPPED, "", {}, None)
        self._ending = True
        self._some.set()
        self._thread.join(patience)
        self._thread = None

    # -- what maillog tells ----------------------------------------------------------------

    def accepted(
        self,
        entry: Entry,
        session: SessionFacts | None,
        message_id: str = "",
        notes: Sequence[tuple[str, str]] = (),
        how: str = "",
    ) -> None:
        """A message is ours: by SMTP in ``session``, or ``how`` else; ``notes`` is what rules had to say."""
        seen = None
        if session is not None:
            seen = (
                session.role,
                session.client_host,
                session.client_port,
                session.client_name,
                session.hello,
                session.began,
                session.tls,
                session.account,
                notes,
            )
        self._put("accepted", entry.id, entry.envelope, (seen, message_id, entry.content.size, how))

    def attempted(self, entry: Entry, outcomes: Sequence[Outcome]) -> None:
        """One attempt has ended."""
        events = self._events
        if self._awake and len(events) < MOST_WAITING:  # as ``_put``, without the call
            events.append(("attempt", self._now(), entry.id, outcomes, None))
        else:
            self._put("attempt", entry.id, outcomes, None)

    def reported(self, made: Entry, about: Entry) -> None:
        """``made`` is a message of our own about another, or a copy of it to others."""
        self._put("child", about.id, made.id, made.envelope.reverse_path)
        self._put("accepted", made.id, made.envelope, (None, "", made.content.size, f"from {about.queue_id}"))

    def held(self, entry: Entry) -> None:
        """A message waits until somebody releases it."""
        self._put("held", entry.id, {"why": entry.envelope.hold}, None)

    def removed(self, entry: Entry) -> None:
        """Nobody waits for a message any more, which the ends of its recipients have told already."""

    def refused(
        self,
        reply: Reply,
        command: str,
        session: SessionFacts,
        sender: Address | None = None,
        recipient: Address | None = None,
        rule: str = "",
    ) -> Reply:
        """The reply as it is said, with its mark."""
        said = self._marks.put_on(reply)
        tls = session.tls
        fields = {
            "command": command,
            "reply": reply.text,
            "from": sender,
            "to": recipient,
            "rule": rule,
            "client": [session.client_host, session.client_port, session.client_name],
            "hello": session.hello,
            "role": session.role,
            "began": session.began,
            "tls": f"{tls.version} {tls.cipher}" if tls is not None else "",
            "user": session.account.address if session.account is not None else "",
        }
        self._put("refused", said.mark, fields, None)
        return said

    def _header(self) -> bytes:
        return records.line("", self._now(), RULES, {"rules": self._rules})

    def _put(self, event: str, id_: int | str, what: Any, more: Any) -> None:
        if len(self._events) >= MOST_WAITING:
            self.dropped += 1
            return
        self._events.append((event, self._now(), id_, what, more))
        if not self._awake:
            self._awake = True
            self._some.set()

    # -- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._some.wait()
            if not self._ending:
                time.sleep(BATCH_SECONDS)
            # First the flags, then the queue: what comes in between wakes us again.
            last = self._ending
            self._some.clear()
            self._awake = False
            self._write_all()
            if last:
                self._writer.close()
                return

    def _write_all(self) -> None:
        lines: list[str] = []
        count = len(self._events)
        if self.dropped > self._told_of:
            told = {"count": self.dropped - self._told_of}
            lines.append(records.line("", self._now(), LOST, told).decode())
        told_of = self.dropped
        next_event = self._events.popleft
        for _ in range(count):
            event = next_event()
            try:
                lines.append(_line(event))
            except Exception as error:  # a fault of ours costs one record
                self.dropped += 1
                self._say(f"a record of {event[0]} cannot be written: {error!r}")
        if not lines:
            return
        try:
            self._writer.write("".join(lines).encode())
            self._told_of = told_of
        except OSError as error:
            self.dropped += count
            self._say(
                f"the trace cannot be written ({error.strerror or error}): {self.dropped} records are lost; "
                "mail goes on"
            )

    def _say(self, what: str) -> None:
        now = time.monotonic()
        if now - self._complained >= COMPLAIN_SECONDS:
            self._complained = now
            self._complain(what)


def _line(event: Event) -> str:
    kind, moment, id_, what, more = event
    name = queue_id(id_) if isinstance(id_, int) else id_
    if kind == "attempt":
        return records.attempted(name, moment, what)
    if kind == "accepted":
        seen, message_id, size, how = more
        return records.accepted(name, moment, what, message_id, size, how, seen)
    if kind == "child":
        what = {"child": queue_id(what), "from": str(more)}
    return records.line(name, moment, kind, what).decode()
