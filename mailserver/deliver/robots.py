"""Addresses of the server's own: what members ask of a mailing list, and mail to them that came back."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.header import decode_header, make_header
from email.message import Message
from typing import Protocol

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailserver import maillog
from mailserver.deliver.automatic import answer, beginning_of, header_of, may_be_answered
from mailserver.interfaces import IDeliveryAgent
from mailserver.threads import Workers
from mailserver.values.account import MailingList
from mailserver.values.address import Address, address_from
from mailserver.values.envelope import Entry, Envelope, Recipient
from mailserver.values.outcome import Delayed, Delivered, Outcome
from mailserver.values.text import printable

_FAILED = re.compile(rb"^action:\s*failed\b", re.IGNORECASE | re.MULTILINE)
_COMMANDS = ("subscribe", "unsubscribe", "help", "confirm")

AGAIN_SECONDS = 300.0
"""How long one address gets no second answer from a list, but to a confirmation."""

MOST_ANSWERED = 200
"""Addresses that one list answers in that time; whoever forges senders gets no more out of it."""

Send = Callable[[Envelope, bytes, Entry], Deferred[None]]
"""Spools an answer to a message."""


class ListTable(Protocol):
    """The lists, where they are kept. All of it may wait for the disk."""

    def mailing_list(self, address: Address) -> MailingList: ...

    def add_members(self, address: Address, members: Sequence[Address]) -> int: ...

    def remove_members(self, address: Address, members: Sequence[Address]) -> None: ...

    def bounced(self, address: Address, member: Address, limit: int) -> bool: ...


class Tokens(Protocol):
    """What ``accounts.list_tokens.ListTokens`` makes."""

    def member_behind(self, mailing_list: MailingList, address: Address) -> Address | None: ...

    def confirmation(self, mailing_list: Address, member: Address, what: str) -> str: ...

    def is_confirmed(self, mailing_list: Address, member: Address, what: str, token: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class RobotPlace:
    """What both robots need. ``missing`` and ``exists`` are the exceptions by which ``lists`` says that
    there is no such list or member, and that somebody is one already."""

    lists: ListTable
    tokens: Tokens
    workers: Workers
    send: Send
    hostname: str
    now: Callable[[], float]
    bounce_limit: int
    missing: type[Exception]
    exists: type[Exception]


class _Robot:
    def __init__(self, place: RobotPlace, mailing_list: Address) -> None:
        self._place = place
        self._list = mailing_list

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        """See ``IDeliveryAgent``."""
        return Deferred.fromCoroutine(self._attempt(entry, recipients))

    async def _attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        for recipient in recipients:
            try:
                said = await self._do(entry, recipient)
            except Exception as error:
                maillog.fault(f"the list {self._list}", error, entry.queue_id)
                why = "the list cannot be read or changed now"
                outcomes.append(Delayed(recipient=recipient, status="4.3.0", diagnostic=why, relay="list"))
            else:
                outcomes.append(Delivered(recipient=recipient, status="2.0.0", diagnostic=said, relay="list"))
        return outcomes

    async def _do(self, entry: Entry, recipient: Recipient) -> str:
        raise NotImplementedError


@implementer(IDeliveryAgent)
class BounceRobot(_Robot):
    """Mail to a member came back: counts it, and lets the member go when it happens too often."""

    async def _do(self, entry: Entry, recipient: Recipient) -> str:
        octets = beginning_of(entry.content)
        if not _FAILED.search(octets):
            return "no report of a failure"  # a delay, or somebody's out-of-office answer
        return await self._place.workers.call(self._count, recipient.address)

    def _count(self, address: Address) -> str:
        place = self._place
        try:
            mailing_list = place.lists.mailing_list(self._list)
        except place.missing:
            return "there is no such list any more"
        member = place.tokens.member_behind(mailing_list, address)
        if member is None:
            return "nobody's reverse-path"
        gone = place.lists.bounced(self._list, member, place.bounce_limit)
        return f"{member} {'leaves' if gone else 'failed; counted for'} {self._list}"


@dataclass(frozen=True, slots=True)
class Request:
    """What a message asks for: ``command`` is one of ``_COMMANDS`` or ``""``; ``confirmed`` what a
    confirmation is for."""

    command: str
    token: str = ""
    confirmed: str = ""
    member: str = ""


def request_in(header: Message, body: bytes) -> Request:
    """The first command in Subject (any ``Re:`` aside), or in the first lines of the text."""
    try:
        subject = str(make_header(decode_header(str(header.get("Subject", "")))))
    except (ValueError, LookupError):
        subject = ""
    lines = [subject, *body[:2000].decode("utf-8", "replace").splitlines()[:5]]
    for line in lines:
        words = re.sub(r"^(\s*\w{1,3}:\s*)+", "", line.strip()).split()
        if not words or words[0].lower() not in _COMMANDS:
            continue
        command = words[0].lower()
        if command != "confirm":
            return Request(command)
        if len(words) >= 4 and words[2].lower() in ("subscribe", "unsubscribe"):
            return Request(command, words[1], words[2].lower(), words[3])
    return Request("")


@implementer(IDeliveryAgent)
class RequestRobot(_Robot):
    """``NAME-request``: subscribe, unsubscribe, help; the first two only once they are confirmed by the
    address that they are about. It says nothing of who is a member."""

    def __init__(self, place: RobotPlace, mailing_list: Address) -> None:
        super().__init__(place, mailing_list)
        self._answered: dict[str, float] = {}

    async def _do(self, entry: Entry, recipient: Recipient) -> str:
        octets = beginning_of(entry.content)
        header = header_of(octets)
        sender = entry.envelope.reverse_path
        if not may_be_answered(sender, header):
            return "automatic mail is not answered"
        request = request_in(header, octets.partition(b"\r\n\r\n")[2])
        if request.command != "confirm" and not self._is_turn_of(sender):
            return "answered a moment ago"  # somebody may have forged the sender, again and again
        try:
            mailing_list = await self._place.workers.call(self._place.lists.mailing_list, self._list)
        except self._place.missing:
            return "there is no such list any more"
        if request.command == "confirm":
            subject, words = await self._confirmed(mailing_list, request)
        else:
            subject, words = self._reply(mailing_list, sender, request.command)
        own = f"{self._list.local}-request@{self._list.domain}"
        envelope, content = answer(
            f"<{own}>", sender, subject, words, "en", self._place.hostname, header, self._place.now()
        )
        await self._place.send(envelope, content, entry)
        return f"answered {request.command or 'nothing that it knows'}"

    def _is_turn_of(self, sender: Address) -> bool:
        now, key = self._place.now(), str(sender).lower()
        for old in [one for one, at in self._answered.items() if now - at >= AGAIN_SECONDS]:
            del self._answered[old]
        if key in self._answered or len(self._answered) >= MOST_ANSWERED:
            return False
        self._answered[key] = now
        return True

    def _reply(self, mailing_list: MailingList, sender: Address, command: str) -> tuple[str, str]:
        if command == "unsubscribe" or (command == "subscribe" and mailing_list.open):
            token = self._place.tokens.confirmation(self._list, sender, command)
            subject = f"confirm {token} {command} {sender.local}@{sender.domain}"
            if not sender.is_ascii:
                return f"Please confirm: {command}", _CONFIRM.format(
                    list=self._list, line=subject, command=command
                )
            return subject, _CONFIRM.format(list=self._list, line=subject, command=command)
        if command == "subscribe":
            owner = f"{self._list.local}-owner@{self._list.domain}"
            return "Ask the owner", f"Members of {self._list} are added by its owner: {owner}"
        return f"About {self._list}", _HELP.format(
            list=self._list,
            request=f"{self._list.local}-request@{self._list.domain}",
            owner=f"{self._list.local}-owner@{self._list.domain}",
            subscribe="subscribe      to become a member\n    " if mailing_list.open else "",
        )

    async def _confirmed(self, mailing_list: MailingList, request: Request) -> tuple[str, str]:
        place = self._place
        try:
            member = address_from(request.member)
        except ValueError:
            member = Address("", "")
        what = request.confirmed
        may = what == "unsubscribe" or mailing_list.open
        if not may or not place.tokens.is_confirmed(self._list, member, what, request.token):
            return "Not confirmed", f"That confirmation is not valid (any more). Send {what} once more."
        change = place.lists.add_members if what == "subscribe" else place.lists.remove_members
        try:
            await place.workers.call(change, self._list, [member])
        except (place.missing, place.exists):
            pass  # what was asked for is so already
        maillog.log.info(
            "list {name}: {what} {member}", name=str(self._list), what=what, member=printable(str(member))
        )
        state = "is a member of" if what == "subscribe" else "is not a member of"
        return f"Done: {what}", f"{member} {state} {self._list} now."


_CONFIRM = """\
Somebody, perhaps you, has asked for: {command}, on the list {list}.

If it was you, answer this message with its subject unchanged, or with
this line:

    {line}

If it was not, do nothing; nothing happens without an answer.
"""

_HELP = """\
This is the mailing list {list}.

Send a message with one of these words as its subject to
{request}:

    {subscribe}unsubscribe    to leave the list
    help           for this text

A person reads {owner}.
"""
