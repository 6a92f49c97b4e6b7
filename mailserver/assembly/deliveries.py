"""Settings become local delivery: mailboxes, commands, files, other stores, and a user's own agents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from mailserver import maillog
from mailserver.assembly.own_objects import find
from mailserver.config import Settings
from mailserver.deliver.command import CommandAgent
from mailserver.deliver.discard import DiscardAgent
from mailserver.deliver.lmtp import LmtpAgent
from mailserver.deliver.local import LocalAgent
from mailserver.deliver.mailbox import MailboxAgent
from mailserver.deliver.running import Limits, end_leftovers
from mailserver.deliver.turns import Room, Turns
from mailserver.interfaces import IDeliveryAgent, IMailbox
from mailserver.store.mailstore import MailStore
from mailserver.threads import Bridge
from mailserver.values.account import Account, LocalUser, Resolution
from mailserver.values.address import Address
from mailserver.values.deliveries import DISCARD, ROBOTS, command_of
from mailserver.values.envelope import Entry, Recipient

WAITING = 100
"""Messages that wait for one command or store; more come again later."""

SLOW = 1000
"""Messages that wait for all of them together; the rest of the local lane stays free for mailboxes."""


class Deliveries:
    """Makes the agents of local delivery, one set for all runners. Making it opens nothing.

    ``robot`` is the agent behind an address of the server's own; ``answer`` hears of deliveries to those
    who are away.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        bridge: Bridge,
        resolve: Callable[[Address], Resolution],
        store: MailStore,
        worker: int = 0,
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._bridge = bridge
        self._resolve = resolve
        self._store = store
        self._room = Room(SLOW)
        state = hashlib.sha256(str(settings.state).encode()).hexdigest()[:16]
        self._mark = f"{state}-{worker}"
        self._limits = Limits(settings.delivery.command_time, settings.delivery.command_output)
        self.robot: Callable[[str], IDeliveryAgent] | None = None
        self.answer: Callable[[Entry, Recipient, Account], object] = _nobody_answers
        self.mailboxes = MailboxAgent(bridge, self._mailbox_of, settings.hostname)
        self.local = LocalAgent(resolve, self.mailboxes, self._agent_of, self._answer)

    def is_quick(self, account: Account) -> bool:
        """Whether mail for the account goes to a mailbox that never waits for another program's lock."""
        plain = not account.deliver and account.away is None
        return plain and (account.format or self._settings.store.format) == "maildir"

    def open(self) -> None:
        """End what a server that was killed has left running."""
        if ended := end_leftovers(self._mark):
            maillog.log.warn("ended {count} processes of commands that were left running", count=ended)

    def stop(self) -> None:
        """End the commands that run."""
        self.local.stop()

    def _answer(self, entry: Entry, recipient: Recipient, account: Account) -> None:
        self.answer(entry, recipient, account)

    def _mailbox_of(self, recipient: Recipient) -> IMailbox | None:
        answer = self._resolve(recipient.address)
        return self._store.mailbox(answer.account) if isinstance(answer, LocalUser) else None

    def _agent_of(self, deliver: str) -> IDeliveryAgent:
        if deliver == DISCARD:
            return DiscardAgent()
        if deliver.startswith("|"):
            words = command_of(deliver)
            return CommandAgent(self._reactor, words, self._limits, self._turns(), self._mark)
        if deliver.startswith("/"):
            return MailboxAgent(self._bridge, lambda _: self._store.file(deliver), self._settings.hostname)
        if deliver.startswith("lmtp:"):
            endpoint = deliver.removeprefix("lmtp:")
            return LmtpAgent(self._reactor, endpoint, self._settings.hostname, self._turns())
        if deliver.startswith(ROBOTS) and self.robot is not None:
            return self.robot(deliver)
        name = deliver.removeprefix("agent:")
        found: IDeliveryAgent = find(name, IDeliveryAgent, "deliver", self._settings.policy.rules_folder)
        return found

    def _turns(self) -> Turns:
        return Turns(self._settings.delivery.at_once, WAITING, self._room)


def _nobody_answers(entry: Entry, recipient: Recipient, account: Account) -> None:
    """Before the answers are connected nobody is away."""
