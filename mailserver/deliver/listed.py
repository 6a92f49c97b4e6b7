"""Copies of a mailing list: the list's header fields, a reverse-path for each member, and no loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from twisted.internet.defer import Deferred, gatherResults, succeed
from zope.interface import implementer

from mailserver import maillog
from mailserver.deliver.header import delivered_to, head_of, with_other_head, without_fields
from mailserver.interfaces import IDeliveryAgent
from mailserver.values.account import MailingList, Resolution
from mailserver.values.address import Address
from mailserver.values.content import Content
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Delayed, Failed, Outcome

_REPLACED = (
    "list-id",
    "list-post",
    "list-help",
    "list-subscribe",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "list-owner",
    "precedence",
    "return-path",
)
"""Fields that a list's copy has from this list alone (RFC 2369 §4)."""


class ListAddresses(Protocol):
    """Addresses and links of a list that only the server can make."""

    def bounces(self, mailing_list: Address, member: Address | None) -> Address:
        """The reverse-path of one member's copy, or of all copies."""
        ...

    def link(self, mailing_list: Address, member: Address) -> str:
        """Where one click leaves the list; ``""`` where there is no such page."""
        ...


Bounced = Callable[[Address, Address], object]
"""Told of the list and the member whose copy has failed for good."""


@implementer(IDeliveryAgent)
class ListedAgent:
    """Stands before another agent and dresses what is a list's; all else passes untouched.

    ``each``: every member gets a reverse-path of its own, so that whoever bounces is known by it (VERP);
    here we know it anyway, and one form serves all.
    """

    def __init__(
        self,
        inner: IDeliveryAgent,
        resolve: Callable[[Address], Resolution],
        addresses: ListAddresses,
        bounced: Bounced,
        each: bool,
    ) -> None:
        self._inner = inner
        self._resolve = resolve
        self._addresses = addresses
        self._bounced = bounced
        self._each = each

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        """See ``IDeliveryAgent``."""
        listed: dict[Address, list[Recipient]] = {}
        for one in recipients:
            if one.notify and one.is_listed:
                listed.setdefault(one.original, []).append(one)
        if not listed:
            attempt: Deferred[Sequence[Outcome]] = self._inner.attempt(entry, recipients)
            return attempt
        others = [one for one in recipients if not one.is_listed]
        parts = [self._inner.attempt(entry, others)] if others else []
        for address, members in listed.items():
            parts += self._copies(entry, address, members)
        return gatherResults(parts).addCallback(lambda found: [o for part in found for o in part])

    def _copies(
        self, entry: Entry, address: Address, members: Sequence[Recipient]
    ) -> list[Deferred[Sequence[Outcome]]]:
        try:
            answer = self._resolve(address)
            head = head_of(entry.content)
        except Exception as error:
            maillog.fault("making the copies of a list", error, entry.queue_id)
            return [succeed([_later(one) for one in members])]
        # A list that was removed meanwhile still owes its members what it had accepted.
        mailing_list = answer if isinstance(answer, MailingList) else MailingList(address, ())
        if str(address).lower().encode() in delivered_to(head):
            return [succeed([_looped(one) for one in members])]
        bare = without_fields(entry.content, head, _REPLACED)
        groups = [[one] for one in members] if self._each else [list(members)]
        return [self._group(entry, mailing_list, bare, group) for group in groups]

    def _group(
        self, entry: Entry, mailing_list: MailingList, bare: Content, members: list[Recipient]
    ) -> Deferred[Sequence[Outcome]]:
        address = mailing_list.address
        member = members[0].address if self._each else None
        link = self._addresses.link(address, member) if member is not None else ""
        envelope = replace(
            entry.envelope,
            reverse_path=self._addresses.bounces(address, member),
            ret="HDRS",
            envid="",
            auth="",
        )
        content = with_other_head(bare, 0, list_header(mailing_list, link))
        as_sent = {one.number: _as_sent(one) for one in members}
        asked = {one.number: one for one in members}

        def told(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
            for outcome in outcomes:
                if isinstance(outcome, Failed):
                    self._bounced(address, outcome.recipient.address)
            return [replace(outcome, recipient=asked[outcome.recipient.number]) for outcome in outcomes]

        copy = replace(entry, envelope=envelope, content=content)
        attempt: Deferred[Sequence[Outcome]] = self._inner.attempt(copy, list(as_sent.values()))
        return attempt.addCallback(told)


def _as_sent(member: Recipient) -> Recipient:
    """A member as other agents see it: nobody's forward, and without a word of ours."""
    original = member.address if member.address.domain else member.original
    return replace(member, original=original, notify=frozenset(), orcpt="")


def list_header(mailing_list: MailingList, link: str) -> bytes:
    """The fields of RFC 2369, 2919 and 8058, and the mark that stops loops."""
    address = mailing_list.address
    request = f"mailto:{address.local}-request@{address.domain}"
    title = f'"{mailing_list.title}" ' if mailing_list.title.isascii() and mailing_list.title else ""
    leave = f"<{link}>,\r\n\t" if link else ""
    fields = [
        f"Delivered-To: {address}",
        f"List-Id: {title.replace(chr(92), '')}<{address.local}.{address.domain}>",
        f"List-Post: {'NO' if mailing_list.posters == 'owners' else f'<mailto:{address}>'}",
        f"List-Help: <{request}?subject=help>",
        f"List-Unsubscribe: {leave}<{request}?subject=unsubscribe>",
        f"List-Owner: <mailto:{address.local}-owner@{address.domain}>",
        "Precedence: list",
    ]
    if mailing_list.open:
        fields.append(f"List-Subscribe: <{request}?subject=subscribe>")
    if link:
        fields.append("List-Unsubscribe-Post: List-Unsubscribe=One-Click")
    return "".join(f"{field}\r\n" for field in fields).encode()


def _looped(recipient: Recipient) -> Outcome:
    looped = f"the message has been to {recipient.original} before: a mail loop"
    return Failed(recipient=recipient, status="5.4.6", diagnostic=looped, relay="list")


def _later(recipient: Recipient) -> Outcome:
    why = "the list cannot be read now"
    return Delayed(recipient=recipient, status="4.3.0", diagnostic=why, relay="list")
