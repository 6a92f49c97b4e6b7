"""``[store]``: how much users and domains may keep, what becomes of mail beyond it, and of deleted mail."""

from __future__ import annotations

from collections.abc import Mapping

from mailserver.config.kinds import DOMAIN, DURATION, Kind, Wrong, whole
from mailserver.values.address import address_from, domain_key
from mailserver.values.units import octets_from


def _quota(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    try:
        octets = value if isinstance(value, int) else octets_from(value)
    except ValueError:
        raise ValueError from None
    if not 0 <= octets <= 2**60:
        raise ValueError("0 for no limit, or at most 2^60 octets")
    return octets


QUOTA = Kind("an amount of octets with its unit, 0 for no limit", '"1 GiB"', _quota)


def _quotas(value: object) -> Mapping[str, int]:
    if not isinstance(value, dict):
        raise ValueError
    quotas: dict[str, int] = {}
    wrong: list[tuple[str, str]] = []
    for name, amount in value.items():
        try:
            quotas[_name(name)] = QUOTA(amount)
        except Wrong as error:
            wrong += [(f'."{name}"', text) for _, text in error.sentences]
        except ValueError:
            wrong.append((f'."{name}"', "is neither an address nor a domain with @ before it"))
    if wrong:
        raise Wrong(wrong)
    return quotas


def _name(name: str) -> str:
    if name.startswith("@"):
        DOMAIN(name[1:])
        return f"@{domain_key(name[1:])}"
    address = address_from(name)
    return f"{address.local.lower()}@{domain_key(address.domain)}"


COUNT = Kind("a number of messages, 0 for no limit", "10_000", whole(0, 10**9))
QUOTAS = Kind("a table of addresses and @domains", '{ "ada@example.test" = "5 GiB" }', _quotas)


def _answer(value: object) -> str:
    if value not in ("delay", "refuse") or not isinstance(value, str):
        raise ValueError
    return value


WHEN_FULL = Kind('"delay" or "refuse"', '"delay"', _answer)


def _undelete(value: object) -> float:
    if value in (0, "0", "") and value is not False:
        return 0.0
    return DURATION(value)


UNDELETE = Kind("a length of time with its units, or 0", '"7d"', _undelete)
