"""The MDA's way into a command: each recipient's copy through a pipe, the exit status as the outcome."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, succeed
from zope.interface import implementer

from mailserver import maillog
from mailserver.deliver.final import FinalForm, final_form, final_header, with_unix_line_ends
from mailserver.deliver.running import Ended, Limits, Run
from mailserver.deliver.turns import Turns
from mailserver.interfaces import IDeliveryAgent
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Delayed, Delivered, Failed, Outcome
from mailserver.values.text import printable

RELAY = "command"

_REFUSALS = {
    os.EX_DATAERR: "5.6.0",
    os.EX_NOUSER: "5.1.1",
    os.EX_NOHOST: "5.1.2",
    os.EX_UNAVAILABLE: "5.2.0",
    os.EX_CANTCREAT: "5.2.0",
    os.EX_PROTOCOL: "5.5.0",
    os.EX_NOPERM: "5.7.1",
}
"""Exit statuses of sysexits.h that speak of the message or its recipient. All others are a fault on our
side, which time or the administrator mends: the message waits."""

_SAID_CHARACTERS = 200


@implementer(IDeliveryAgent)
class CommandAgent:
    """Runs ``words`` once for each recipient, the message on standard input with LF at line ends.

    No shell, and nothing of the message in arguments or environment: who it is for and from stands in
    its first lines, Return-Path and Delivered-To.  ``mark``: see ``running.MARK``.
    """

    def __init__(self, reactor: Any, words: Sequence[str], limits: Limits, turns: Turns, mark: str) -> None:
        self._reactor = reactor
        self._words = words
        self._limits = limits
        self._turns = turns
        self._mark = mark
        self._runs: set[Run] = set()
        self._stopped = False

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        """See ``IDeliveryAgent``."""
        try:
            form = final_form(entry)
        except Exception as error:
            maillog.fault("reading a message for a command", error, entry.queue_id)
            return succeed([_later(one, "the message cannot be read now") for one in recipients])
        every = gatherResults([self._one(entry, form, recipient) for recipient in recipients])
        outcomes: Deferred[Sequence[Outcome]] = every.addCallback(tuple)
        return outcomes

    def stop(self) -> None:
        """End what runs; its messages wait for the next start."""
        self._stopped = True
        for run in list(self._runs):
            run.kill("the server is stopping")

    def _one(self, entry: Entry, form: FinalForm, recipient: Recipient) -> Deferred[Outcome]:
        if looped := form.loop_at(recipient):
            return succeed(looped)
        begun = self._turns.run(partial(self._run, entry, form, recipient))
        if begun is None:
            return succeed(_later(recipient, "too many messages wait for the command already", "4.3.2"))
        return begun.addCallbacks(
            partial(_outcome, recipient), partial(_not_begun, entry.queue_id, recipient)
        )

    def _run(self, entry: Entry, form: FinalForm, recipient: Recipient) -> Deferred[Ended]:
        if self._stopped:
            return succeed(Ended(None, "the server is stopping", b""))
        content = with_unix_line_ends(final_header(entry, recipient), form.content)
        run = Run(self._reactor, content, self._limits)
        run.start(self._words, self._mark)
        self._runs.add(run)

        def over(ended: Ended) -> Ended:
            self._runs.discard(run)
            return ended

        return run.ended.addCallback(over)


def _outcome(recipient: Recipient, ended: Ended) -> Outcome:
    said = printable(ended.said.decode(errors="replace").strip().partition("\n")[0].strip(), _SAID_CHARACTERS)
    if ended.code == 0:
        return Delivered(recipient=recipient, status="2.0.0", diagnostic="delivered to command", relay=RELAY)
    what = ended.why or f"it ended with status {ended.code}"
    text = f"the command failed: {what}{': ' if said else ''}{said}"
    if status := _REFUSALS.get(ended.code or 0):
        return Failed(recipient=recipient, status=status, diagnostic=text, relay=RELAY)
    return _later(recipient, text)


def _not_begun(queue_id: str, recipient: Recipient, failure: Any) -> Outcome:
    maillog.fault("starting a command", failure.value, queue_id)
    return _later(recipient, "the command cannot be started now")


def _later(recipient: Recipient, why: str, status: str = "4.3.0") -> Outcome:
    return Delayed(recipient=recipient, status=status, diagnostic=why, relay=RELAY)
