"""Out-of-office answers: to people, about mail that was meant for the account, once in seven days."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred

from mailserver import maillog
from mailserver.deliver.automatic import answer, beginning_of, header_of, may_be_answered, names
from mailserver.threads import Workers
from mailserver.values.account import Account, Away
from mailserver.values.address import Address
from mailserver.values.envelope import Entry, Envelope, Recipient
from mailserver.words import header_text, known, moment, say


@dataclass(frozen=True, slots=True)
class Answers:
    """``claim`` blocks, and tells whether a sender is owed an answer; ``send`` spools one."""

    claim: Callable[[Account, Address], bool]
    workers: Workers
    send: Callable[[Envelope, bytes, Entry], Deferred[None]]
    hostname: str
    language: str
    now: Callable[[], float]

    def delivered(self, entry: Entry, recipient: Recipient, account: Account) -> None:
        """A message has reached the mailbox of somebody who is away. Nothing waits for the answer."""
        away = account.away
        now = self.now()
        if away is None or now < away.begins or (away.ends and now >= away.ends) or recipient.is_listed:
            return
        answered = Deferred.fromCoroutine(self._answer(entry, recipient, account, away))
        answered.addErrback(
            lambda failure: maillog.fault("an out-of-office answer", failure.value, entry.queue_id)
        )

    async def _answer(self, entry: Entry, recipient: Recipient, account: Account, away: Away) -> None:
        header = header_of(beginning_of(entry.content))
        sender = entry.envelope.reverse_path
        own = {str(one).lower() for one in (account.address, recipient.address, recipient.original)}
        if not may_be_answered(sender, header) or not names(header, own) or str(sender).lower() in own:
            return
        if not await self.workers.call(self.claim, account, sender):
            return
        language = known(account.language or self.language)
        words = away.text or say(
            language,
            "away.until" if away.ends else "away",
            address=str(account.address),
            end=moment(language, away.ends) if away.ends else "",
        )
        subject = header_text(say(language, "away.subject"))
        envelope, content = answer(
            f"<{account.address}>", sender, subject, words, language, self.hostname, header, self.now()
        )
        await self.send(envelope, content, entry)
