"""SEND: a message for terminals alone, which is kept nowhere (RFC 821 §3.4)."""

from __future__ import annotations

from concurrent.futures import Future
from typing import cast

from twisted.internet.defer import Deferred, succeed

from mailserver import maillog
from mailserver.interfaces import ISpoolWriter
from mailserver.receive.transaction import TRY_LATER, Transaction
from mailserver.values.address import Address
from mailserver.values.envelope import Envelope
from mailserver.values.expansion import final_addresses
from mailserver.values.reply import Reply, reply
from mailserver.values.text import printable
from mailserver.wire.smtp_events import RcptTo

MOST_OCTETS = 64 * 1024
"""A terminal shows no more of a message, so no more is kept."""

SHOWN = reply(250, "2.0.0", "Ok: shown on the terminal")
_NO_TERMINAL = "no terminal is attached; use MAIL"
_HELD = reply(450, "4.7.1", "Mail of your account is held; ask the postmaster")


class TerminalWriter:
    """Takes the place of the spool's writer: the beginning of a message, in memory."""

    id = 0

    def __init__(self) -> None:
        self.octets = b""

    def write(self, chunk: bytes) -> None:
        """Keep what a terminal could show."""
        if len(self.octets) < MOST_OCTETS:
            self.octets += chunk[: MOST_OCTETS - len(self.octets)]

    def commit(self, envelope: Envelope) -> Future[object]:
        """Nothing is kept, so nothing can be committed."""
        raise NotImplementedError("a message for terminals is shown, not kept")

    def abort(self) -> None:
        """Forget it."""
        self.octets = b""


class TerminalTransaction(Transaction):
    """SEND … end of data: 250 means that a terminal of each recipient has shown the message."""

    def _recipient_decided(self, rcpt: RcptTo, opinion: Reply | None) -> Reply:
        if opinion is None and not self._reaches_terminals(rcpt.path):
            opinion = _absent([rcpt.path])
        return super()._recipient_decided(rcpt, opinion)

    def _reaches_terminals(self, path: Address) -> bool:
        terminals = self._intake.terminals
        try:
            addresses = final_addresses(self._intake.directory.resolve, path).values()
            return terminals is not None and all(terminals.has(one) for one in addresses)
        except Exception as error:
            maillog.fault(f"looking for terminals of <{path}>", error)
            return False

    def _new_writer(self) -> ISpoolWriter:
        return cast(ISpoolWriter, TerminalWriter())

    def _commit(self, hold: str) -> Deferred[Reply]:
        writer, self._writer = self._writer, None
        if writer is None or self._envelope is None or self._intake.terminals is None:
            return succeed(TRY_LATER)
        if hold:
            return succeed(_HELD)
        return Deferred.fromCoroutine(self._show(cast(TerminalWriter, writer).octets, self._envelope))

    async def _show(self, octets: bytes, envelope: Envelope) -> Reply:
        assert self._intake.terminals is not None
        show = self._intake.terminals.show
        recipients = [one for one in envelope.recipients if not one.is_expanded]
        asked = [(one, show(one.address, envelope.reverse_path, [octets])) for one in recipients]
        missed = [one.original for one, answer in asked if not await answer]
        maillog.shown(envelope, len(asked) - len(missed), self.facts.session)
        return _absent(missed) if missed else SHOWN


def _absent(addresses: list[Address]) -> Reply:
    """450: try later, or by MAIL (RFC 821 §3.4)."""
    return reply(450, "4.2.1", f"<{printable(str(addresses[0]), 200)}>: {_NO_TERMINAL}")
