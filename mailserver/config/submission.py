"""The table ``[submission]``: what holds for those who have logged in."""

from __future__ import annotations

from typing import Annotated

import attrs

from mailserver.config.kinds import BOOLEAN, DURATION, Kind, whole


def _or_nothing(value: object) -> float:
    return 0.0 if value == "" else DURATION(value)


def _count(example: str) -> Kind[int]:
    return Kind("a number, 0 for no limit", example, whole(0, 10_000_000))


SUPPRESS = Kind('a length of time with its units, or "" for none', '"30d"', _or_nothing)
HOLD = Kind('a length of time with its units, or "" for none', '"20s"', _or_nothing)


@attrs.frozen(kw_only=True)
class Submission:
    """``hide_client``: is the client left out of Received? ``hold`` is how long (in seconds) a message
    can still be taken back by ``mailserver recall``, ``""`` for not at all.  ``suppress_for``: how long
    an account's mail to an address that failed for good is refused at once, ``""`` for not at all.

    Limits for each account; mail of one that goes over them is held and not refused, 0 is no limit:
    ``messages_per_hour``, ``recipients_per_hour``, ``new_recipients_per_day`` (whom the account has
    not written to before).
    """

    hide_client: Annotated[bool, BOOLEAN] = False
    hold: Annotated[float, HOLD] = 0.0
    suppress_for: Annotated[float, SUPPRESS] = 0.0
    messages_per_hour: Annotated[int, _count("300")] = 300
    recipients_per_hour: Annotated[int, _count("2000")] = 2000
    new_recipients_per_day: Annotated[int, _count("1000")] = 1000
