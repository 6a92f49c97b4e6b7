"""Arguments that are moments: a length of time from now, or a date."""

from __future__ import annotations

import time
from datetime import datetime

import click

from mailserver.values.units import seconds_from


class MomentType(click.ParamType[float]):
    """Seconds since the epoch, from ``7d``, ``12h``, ``2026-12-31`` or ``2026-12-31T18:00``."""

    name = "moment"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            return time.time() + seconds_from(text)
        except ValueError:
            pass
        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            self.fail(f"{text!r} is neither a length of time like 7d nor a date like 2026-12-31.", param, ctx)


MOMENT = MomentType()
