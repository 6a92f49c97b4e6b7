"""VRFY and EXPN: who has a mailbox here, and who is behind an alias or a list (RFC 5321 §3.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mailserver.values.account import Alias, Elsewhere, LocalUser, NoSuchUser, Resolution
from mailserver.values.address import Address
from mailserver.values.reply import Reply, reply
from mailserver.values.text import printable
from mailserver.wire.grammar import Malformed, mailbox
from mailserver.wire.smtp_events import Expand, Verify

MOST_MEMBERS = 1000
"""Lines of one answer; the members of a larger list are not told."""

CANNOT_VERIFY = reply(252, "2.1.5", "Cannot verify the user, but will take mail for it and try to deliver")
_IS_NEEDED = "UTF-8 is needed for the answer; say SMTPUTF8 behind the name"
_NEEDS_UTF8 = reply(252, "2.6.8", _IS_NEEDED)
_MEMBERS_NEED_UTF8 = reply(550, "5.6.8", _IS_NEEDED)
_BAD_NAME = reply(501, "5.1.3", "Expected a name or an address: ada, or ada@example.test")
_TOO_MANY = reply(550, "5.2.4", f"It has more than {MOST_MEMBERS} members, who are not told here")
_NOBODY = reply(550, "5.2.4", "It has no members")


class AddressBook:
    """Answers from the directory; ``resolve`` is ``IDirectory.resolve``, ``domains`` are ours, among which a
    bare name is looked for.

    What the directory raises when it cannot be read goes through.
    """

    def __init__(self, resolve: Callable[[Address], Resolution], domains: Sequence[str]) -> None:
        self._resolve = resolve
        self._domains = domains

    def verify(self, asked: Verify) -> Reply:
        """250 with the mailbox, 553 with all that it could be, 550 for nobody; 252 to those who may not be
        told, and for addresses elsewhere."""
        if not asked.permitted:
            return CANNOT_VERIFY
        found = self._found(asked.argument)
        if isinstance(found, Reply):
            return found
        if not found:
            return _nobody(asked.argument, asked.smtputf8)
        if len(found) > 1:
            return _ambiguous([address for address, _ in found], asked.smtputf8)
        ((address, answer),) = found
        if isinstance(answer, Elsewhere):
            return CANNOT_VERIFY
        return _lines(250, "2.1.5", [_mailbox_of(address, answer)], asked.smtputf8) or _NEEDS_UTF8

    def expand(self, asked: Expand) -> Reply:
        """250 with a line for each member, 550 for what has none."""
        found = self._found(asked.argument)
        if isinstance(found, Reply):
            return found
        if not found:
            return _nobody(asked.argument, asked.smtputf8)
        if len(found) > 1:
            return _ambiguous([address for address, _ in found], asked.smtputf8)
        ((_, answer),) = found
        members = _members_of(answer)
        if members is None:
            what = "is not a mailbox here" if isinstance(answer, Elsewhere) else "is a user, not a list"
            return reply(550, "5.2.4", f"That {what}")
        if len(members) > MOST_MEMBERS:
            return _TOO_MANY
        return (_lines(250, "2.1.5", members, asked.smtputf8) or _MEMBERS_NEED_UTF8) if members else _NOBODY

    def _found(self, argument: str) -> list[tuple[Address, Resolution]] | Reply:
        """What a name or an address may mean, without those who do not exist."""
        text = argument.strip()
        if text.startswith("<") and text.endswith(">"):
            text = text[1:-1]
        try:
            addresses = self._meant(text)
        except Malformed:
            return _BAD_NAME
        answers = [(address, self._resolve(address)) for address in addresses]
        return [one for one in answers if not isinstance(one[1], NoSuchUser)]

    def _meant(self, text: str) -> list[Address]:
        if "@" in text:
            return [mailbox(text.encode("utf-8", "surrogateescape"))]
        return [mailbox(f"{text}@{domain}".encode("utf-8", "surrogateescape")) for domain in self._domains]


def _mailbox_of(address: Address, answer: Resolution) -> Address:
    return answer.account.address if isinstance(answer, LocalUser) else address


def _members_of(answer: Resolution) -> Sequence[Address] | None:
    """Who is behind an alias or a list; ``None`` for what is neither."""
    if isinstance(answer, Alias):
        return [
            target for target in answer.targets if target.domain
        ]  # commands and files are nobody's business
    members: Sequence[Address] | None = getattr(answer, "members", None)
    return members


def _lines(code: int, status: str, addresses: Sequence[Address], smtputf8: bool) -> Reply | None:
    """A line for each; ``None`` where they need UTF-8 and the client has not said that it reads it (RFC 6531
    §3.7.4.2)."""
    if not smtputf8 and not all(address.is_ascii for address in addresses):
        return None
    return reply(code, status, *(f"<{printable(str(address))}>" for address in addresses))


def _ambiguous(addresses: Sequence[Address], smtputf8: bool) -> Reply:
    shown = [f"<{printable(str(one))}>" for one in addresses if smtputf8 or one.is_ascii]
    return reply(553, "5.1.4", "The name is ambiguous; it may be", *shown)


def _nobody(argument: str, smtputf8: bool) -> Reply:
    name = printable(argument, 100)
    return reply(
        550, "5.1.1", f"{name}: no such user here" if smtputf8 or name.isascii() else "No such user here"
    )
