"""The table ``[submission]``: what holds for those who have logged in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import attrs

from mailserver.config.kinds import BOOLEAN, DOMAIN, DURATION, Kind, Wrong, whole
from mailserver.values.address import address_from, domain_key


def _or_nothing(value: object) -> float:
    return 0.0 if value == "" else DURATION(value)


def _count(example: str) -> Kind[int]:
    return Kind("a number, 0 for no limit", example, whole(0, 10_000_000))


SUPPRESS = Kind('a length of time with its units, or "" for none', '"30d"', _or_nothing)


def _priorities(value: object) -> Mapping[str, int]:
    if not isinstance(value, dict):
        raise ValueError
    read: dict[str, int] = {}
    wrong: list[tuple[str, str]] = []
    for name, most in value.items():
        try:
            read[account_key(name)] = PRIORITY(most)
        except Wrong as error:
            wrong += [(f'."{name}"', text) for _, text in error.sentences]
        except ValueError:
            wrong.append((f'."{name}"', "is neither an address nor a domain with @ before it"))
    if wrong:
        raise Wrong(wrong)
    return read


def account_key(name: str) -> str:
    """How an address or ``@domain`` is compared. Raises ``ValueError``, ``Wrong``."""
    if name.startswith("@"):
        DOMAIN(name[1:])
        return f"@{domain_key(name[1:])}"
    address = address_from(name)
    return f"{address.local.lower()}@{domain_key(address.domain)}"


PRIORITY = Kind("a number from -9 to 9", "4", whole(-9, 9))
PRIORITIES = Kind("a table of addresses and @domains", '{ "ada@example.test" = 9 }', _priorities)
HOLD = Kind('a length of time with its units, or "" for none', '"20s"', _or_nothing)


@attrs.frozen(kw_only=True)
class Submission:
    """``hide_client``: is the client left out of Received? ``hold`` is how long (in seconds) a message
    can still be taken back by ``mailserver recall``, ``""`` for not at all.  ``suppress_for``: how long
    an account's mail to an address that failed for good is refused at once, ``""`` for not at all.

    Limits for each account; mail of one that goes over them is held and not refused, 0 is no limit:
    ``messages_per_hour``, ``recipients_per_hour``, ``new_recipients_per_day`` (whom the account has
    not written to before).

    ``priority`` is the highest that MT-PRIORITY may ask for, ``priorities`` that of an address or
    ``@domain``; a message that asks for more gets so much.
    """

    hide_client: Annotated[bool, BOOLEAN] = False
    hold: Annotated[float, HOLD] = 0.0
    suppress_for: Annotated[float, SUPPRESS] = 0.0
    messages_per_hour: Annotated[int, _count("300")] = 300
    recipients_per_hour: Annotated[int, _count("2000")] = 2000
    new_recipients_per_day: Annotated[int, _count("1000")] = 1000
    priority: Annotated[int, PRIORITY] = 9
    priorities: Annotated[Mapping[str, int], PRIORITIES] = attrs.field(factory=dict)
