"""The table ``[pop3]``: what holds for those who fetch their mail."""

from __future__ import annotations

from typing import Annotated

import attrs

from mailserver.config.kinds import DURATION, Kind


def _or_nothing(value: object) -> float:
    return 0.0 if value == "" else DURATION(value)


DELAY = Kind('a length of time, or "" for none', '"60s"', _or_nothing)


@attrs.frozen(kw_only=True)
class Pop3:
    """``login_delay``: how long an account has to wait from one log-in to the next (RFC 2449 §6.5);
    ``""`` for not at all."""

    login_delay: Annotated[float, DELAY] = 0.0
