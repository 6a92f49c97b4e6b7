"""A quota as people write it on the command line, and as they read it."""

from __future__ import annotations

import click

from mailserver.values.units import octets_from, octets_text

AS_CONFIGURED = -1
"""What ``server`` stands for."""


class QuotaType(click.ParamType[int]):
    """Octets: ``1GiB``, ``0`` for no limit, ``server`` for ``AS_CONFIGURED``."""

    name = "amount"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if text in ("0", "server"):
            return 0 if text == "0" else AS_CONFIGURED
        try:
            octets = octets_from(text)
        except ValueError as error:
            self.fail(f"{error}; 0 is no limit, server what the configuration says.", param, ctx)
        if octets > 2**60:
            self.fail(f"{text} is more than a mailbox can hold.", param, ctx)
        return octets


def quota_text(quota: int | None) -> str:
    """``5 GiB``, ``without limit``, or ``what the configuration says``."""
    if quota is None:
        return "what the configuration says"
    return octets_text(quota) if quota else "without limit"
