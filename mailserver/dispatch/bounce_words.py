"""What a DSN says to the person who reads it: what happened, and what to do; the texts are in words/."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from mailserver.values.dates import header_date
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Delayed, Delivered, Expanded, Failed, Outcome, Relayed
from mailserver.values.text import printable
from mailserver.words import known, moment, say, sentence

_WIDTH = 76
_DETAIL_CHARACTERS = 400
_RECIPIENTS_SHOWN = 100

_NAMES: dict[type[Outcome], str] = {
    Failed: "failed",
    Delayed: "delayed",
    Delivered: "delivered",
    Relayed: "relayed",
    Expanded: "expanded",
}

POSTMASTER_STATUS = "5.7.0"
"""The status of what an operator returns: no server has said it (``Outcome.remote_mta`` is empty)."""

# Kinds of failure by enhanced status (RFC 3463 §3); the longest beginning that fits counts.
_KINDS = {
    "": "other",
    "5.1.1": "no_user",
    "5.1.2": "no_domain",
    "5.1.3": "bad_address",
    "5.1.6": "moved",
    "5.1.10": "no_mail",
    "5.2.1": "closed",
    "5.2.2": "full",
    "4.2.2": "full",
    "5.2.3": "too_big",
    "5.3.4": "too_big",
    "4.4.7": "expired",
    "5.4.7": "time_over",
    "5.4.4": "no_domain",
    "5.4.6": "loop",
    "5.6": "form",
    "5.6.7": "alphabet",
    "5.7": "policy",
    "5.7.4": "tls",
    "5.7.5": "tls",
    "5.7.10": "tls",
    "5.7.30": "tls",
}


def subject(kind: type[Outcome], language: str) -> str:
    """What stands in the Subject of a report about outcomes of one kind."""
    return say(language, f"{_NAMES[kind]}.subject")


def failed_words(entry: Entry, outcomes: Sequence[Outcome], hostname: str, language: str = "en") -> str:
    """The text of a report of failure, lines ended by LF."""
    kinds = {_kind(outcome) for outcome in outcomes}
    together = len(kinds) == 1
    why = say(language, f"why.{kinds.pop() if together else 'several'}")
    date = _date(entry.arrived, language)
    blocks = [
        say(language, "failed", whom=_whom(outcomes, language), why=why),
        say(language, "failed.details", date=date, hostname=hostname),
    ]
    return _words(blocks, outcomes, language, tells_why=not together)


def delayed_words(
    entry: Entry, outcomes: Sequence[Outcome], hostname: str, gives_up_at: float | None, language: str = "en"
) -> str:
    """The text of a report of delay, lines ended by LF."""
    name, end = ("delayed", "") if gives_up_at is None else ("delayed.until", _date(gives_up_at, language))
    date, whom = _date(entry.arrived, language), _whom(outcomes, language)
    return _words([say(language, name, date=date, whom=whom, hostname=hostname, end=end)], outcomes, language)


def success_words(
    entry: Entry, outcomes: Sequence[Outcome], kind: type[Outcome], language: str = "en"
) -> str:
    """The text of a report of success of one kind, lines ended by LF."""
    date, whom = _date(entry.arrived, language), _whom(outcomes, language)
    return _words([say(language, _NAMES[kind], date=date, whom=whom)], outcomes, language)


def _date(seconds: float, language: str) -> str:
    return header_date(seconds) if known(language) == "en" else moment(language, seconds)


def _whom(outcomes: Sequence[Outcome], language: str) -> str:
    count = len(outcomes)
    return say(language, "whom.one") if count == 1 else say(language, "whom.many", count=count)


def _kind(outcome: Outcome) -> str:
    status = outcome.status
    if status == POSTMASTER_STATUS and not outcome.remote_mta:
        return "postmaster"
    return max((len(key), kind) for key, kind in _KINDS.items() if _begins(status, key))[1]


def _begins(status: str, key: str) -> bool:
    return not key or status == key or status.startswith(f"{key}.")


def _words(
    paragraphs: Sequence[str], outcomes: Sequence[Outcome], language: str, tells_why: bool = False
) -> str:
    blocks = [_filled(paragraph) for paragraph in paragraphs]
    blocks += [_recipient_words(outcome, language, tells_why) for outcome in outcomes[:_RECIPIENTS_SHOWN]]
    if len(outcomes) > _RECIPIENTS_SHOWN:
        blocks.append(say(language, "more", count=len(outcomes) - _RECIPIENTS_SHOWN))
    return "\n\n".join(blocks) + "\n"


def _recipient_words(outcome: Outcome, language: str, tells_why: bool) -> str:
    lines = [f"<{_address(outcome.recipient)}>:"]
    if tells_why:
        why = say(language, f"why.{_kind(outcome)}")
        lines.append(_filled(sentence(language, why), "    "))
    said = say(language, "answered", host=printable(outcome.remote_mta)) if outcome.remote_mta else ""
    detail = said + printable(outcome.diagnostic, _DETAIL_CHARACTERS)
    return "\n".join([*lines, *(_filled(line, "    ") for line in detail.split("\n"))])


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
