"""What a DSN says to the person who reads it: what happened, and what to do (English)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from mailserver.values.dates import header_date
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Delivered, Expanded, Outcome, Relayed
from mailserver.values.text import printable

FAILED_SUBJECT = "Your message could not be delivered"
DELAYED_SUBJECT = "Your message is delayed, and we keep trying"
SUCCESS_SUBJECTS: dict[type[Outcome], str] = {
    Delivered: "Your message was delivered",
    Relayed: "Your message was handed to a server that sends no reports",
    Expanded: "Your message was sent on to the members of a list",
}

_SUCCESSES: dict[type[Outcome], str] = {
    Delivered: "was delivered to the mailbox of {whom}.",
    Relayed: "was taken over by the server of {whom}. That server does not report deliveries, so this is"
    " the last that you hear of it unless something goes wrong.",
    Expanded: "was sent on to everybody who stands behind {whom}. Their deliveries are not reported, only"
    " failures if you asked for them.",
}

_WIDTH = 76
_DETAIL_CHARACTERS = 400
_RECIPIENTS_SHOWN = 100

# Advice by enhanced status (RFC 3463 §3); the longest beginning that fits counts.
_ADVICE = {
    "": "The reason below is for the postmaster of the other side; please send it along if you ask for help.",
    "5.1.1": "There is no mailbox of that name: please look for a typing mistake in the address, and ask the"
    " recipient for the right one by another way.",
    "5.1.2": "The domain, the part after the @, does not exist or has no mail server: please look for a"
    " typing mistake in the address.",
    "5.1.10": "The domain, the part after the @, says that it takes no mail: please ask the recipient for"
    " another address.",
    "5.2.1": "The mailbox is closed: please ask the recipient for another address.",
    "5.2.2": "The recipient's mailbox is full: please send the message again later, or tell the recipient by"
    " another way.",
    "4.2.2": "The recipient's mailbox is full: please send the message again later, or tell the recipient by"
    " another way.",
    "5.2.3": "The message is larger than the recipient's server takes: please send it without large"
    " attachments.",
    "5.3.4": "The message is larger than the recipient's server takes: please send it without large"
    " attachments.",
    "4.4.7": "The other server could not take the message for days: please send it again later, or reach the"
    " recipient by another way.",
    "5.4.7": "The message could not be delivered in the time that it was given: please send it again if it"
    " still matters.",
    "5.4.4": "No mail server was found for the domain, the part after the @: please look for a typing mistake"
    " in the address.",
    "5.4.6": "The message went round in a circle between servers: please tell the postmaster of the"
    " recipient's domain.",
    "5.6.7": "A server on the way cannot handle addresses with letters of this alphabet: please ask the"
    " recipient for another address.",
    "5.7": "The recipient's server refused the message by a rule of its own; the reason below may say which."
    " Please reach the recipient, or the postmaster there, by another way.",
}


def failed_words(entry: Entry, outcomes: Sequence[Outcome], hostname: str) -> str:
    """The text of a report of failure, lines ended by LF."""
    advice = {_advice(outcome.status) for outcome in outcomes}
    return _words(
        f"Your message of {header_date(entry.arrived)} could not be delivered to {_whom(outcomes)}, and"
        f" {hostname} will not try again. {advice.pop() if len(advice) == 1 else _ADVICE['']}",
        outcomes,
    )


def delayed_words(entry: Entry, outcomes: Sequence[Outcome], hostname: str, gives_up_at: float | None) -> str:
    """The text of a report of delay, lines ended by LF."""
    until = "" if gives_up_at is None else f" until {header_date(gives_up_at)}"
    return _words(
        f"Your message of {header_date(entry.arrived)} could not yet be delivered to {_whom(outcomes)}."
        f" You need not do anything: {hostname} keeps trying{until}, and tells you if it gives up.",
        outcomes,
    )


def success_words(entry: Entry, outcomes: Sequence[Outcome], kind: type[Outcome]) -> str:
    """The text of a report of success of one kind, lines ended by LF."""
    what = _SUCCESSES[kind].format(whom=_whom(outcomes))
    return _words(f"Your message of {header_date(entry.arrived)} {what}", outcomes)


def _whom(outcomes: Sequence[Outcome]) -> str:
    return "the recipient below" if len(outcomes) == 1 else f"the {len(outcomes)} recipients below"


def _advice(status: str) -> str:
    return max(((len(key), text) for key, text in _ADVICE.items() if _begins(status, key)))[1]


def _begins(status: str, key: str) -> bool:
    return not key or status == key or status.startswith(f"{key}.")


def _words(paragraph: str, outcomes: Sequence[Outcome]) -> str:
    blocks = [_filled(paragraph)]
    blocks += [_recipient_words(outcome) for outcome in outcomes[:_RECIPIENTS_SHOWN]]
    if len(outcomes) > _RECIPIENTS_SHOWN:
        blocks.append(f"... and {len(outcomes) - _RECIPIENTS_SHOWN} more, listed in the next part.")
    return "\n\n".join(blocks) + "\n"


def _recipient_words(outcome: Outcome) -> str:
    said = f"{printable(outcome.remote_mta)} answered: " if outcome.remote_mta else ""
    detail = said + printable(outcome.diagnostic, _DETAIL_CHARACTERS)
    return f"<{_address(outcome.recipient)}>:\n{_filled(detail, '    ')}"


def _address(recipient: Recipient) -> str:
    """The address that the sender wrote: an alias's targets may be none of the sender's business."""
    return printable(str(recipient.original))


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
