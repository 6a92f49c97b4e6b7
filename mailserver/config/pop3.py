"""The table ``[pop3]``: what holds for those who fetch their mail."""

from __future__ import annotations

from typing import Annotated

import attrs

from mailserver.config.kinds import BOOLEAN, DURATION, NETWORK, Kind, Network, each


def _or_nothing(value: object) -> float:
    return 0.0 if value == "" else DURATION(value)


DELAY = Kind('a length of time, or "" for none', '"60s"', _or_nothing)


DAY = 86400.0


def _days_or_nothing(value: object) -> int:
    seconds = _or_nothing(value)
    if seconds % DAY:
        raise ValueError("clients are told whole days (RFC 2449 §6.7)")
    return int(seconds // DAY)


DAYS = Kind('a number of days, or "" for never', '"90d"', _days_or_nothing)


@attrs.frozen(kw_only=True)
class Pop3:
    """``login_delay``: seconds that an account has to wait from one log-in to the next (RFC 2449 §6.5),
    0 for none; ``expire``: days after which a message goes from its mailbox (§6.7), 0 for never;
    ``apop`` offers APOP, for passwords set from then on; ``xclient``: the networks of proxies that tell
    whom they speak for."""

    login_delay: Annotated[float, DELAY] = 0.0
    expire: Annotated[int, DAYS] = 0
    apop: Annotated[bool, BOOLEAN] = False
    xclient: Annotated[tuple[Network, ...], each(NETWORK)] = ()
