"""The grammar of MTA-STS: the DNS record, the policy, and which hosts it names (RFC 8461 §3, §4.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from mailserver.values.address import domain_key

MODES = ("enforce", "testing", "none")
LONGEST_AGE = 31557600.0
"""Seconds for which a policy is believed at most (RFC 8461 §3.2)."""
MOST_HOSTS = 100
_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_DIGITS = re.compile(r"[0-9]{1,10}")


class PolicyMalformed(Exception):
    """The text is no policy; says what is wrong."""


@dataclass(frozen=True, slots=True)
class STSPolicy:
    """One policy. ``mx`` are patterns in A-labels; ``fetched`` in seconds since the epoch; ``id`` is the
    record's at that time."""

    id: str
    mode: str
    mx: tuple[str, ...]
    max_age: float
    fetched: float

    @property
    def expires(self) -> float:
        """Seconds since the epoch."""
        return self.fetched + self.max_age

    @property
    def lines(self) -> tuple[str, ...]:
        """As TLS reports quote it (RFC 8460 §4.4)."""
        hosts = tuple(f"mx: {pattern}" for pattern in self.mx)
        return ("version: STSv1", f"mode: {self.mode}", *hosts, f"max_age: {self.max_age:.0f}")

    def names(self, host: str) -> bool:
        """Whether mail may go to ``host``; ``*.`` stands for exactly one label (RFC 8461 §4.1)."""
        name = domain_key(host).rstrip(".")
        parent = name.partition(".")[2]
        return any(p == name or (p.startswith("*.") and bool(parent) and p[2:] == parent) for p in self.mx)

    def doubted(self) -> STSPolicy:
        """The same, to be fetched again at the next look whatever the record says."""
        return replace(self, id="")

    def to_json(self, domain: str) -> bytes:
        """For the file that keeps it."""
        return json.dumps({"domain": domain, **asdict(self)}, indent=1).encode() + b"\n"


def from_json(octets: bytes) -> tuple[str, STSPolicy]:
    """Domain and policy of a file that ``to_json`` wrote.

    Raises:
        ValueError: something else wrote it, or it is torn.
    """
    try:
        table = json.loads(octets)
        domain = str(table.pop("domain"))
        policy = STSPolicy(**{**table, "mx": tuple(table["mx"])})
        fits = policy.mode in MODES and isinstance(policy.id, str) and policy.max_age <= LONGEST_AGE
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a policy: {error}") from None
    if not fits:
        raise ValueError("not a policy that we wrote")
    return domain, policy


def record_id(records: Sequence[bytes]) -> str:
    """The id in the TXT records at ``_mta-sts``; ``""`` when there is not exactly one good record
    (RFC 8461 §3.1)."""
    found = [r for r in records if r.startswith(b"v=STSv1") and r[7:8] in (b";", b" ", b"\t", b"")]
    if len(found) != 1:
        return ""
    for field in found[0].decode("ascii", "replace").split(";"):
        key, equals, value = field.partition("=")
        if key.strip() == "id" and equals:
            return value.strip() if _ID.fullmatch(value.strip()) else ""
    return ""


def parse_policy(text: bytes, record: str, now: float) -> STSPolicy:
    """A policy fetched ``now`` because the record's id was ``record``. The first value of a key counts,
    unknown keys do not (RFC 8461 §3.2).

    Raises:
        PolicyMalformed: it must not be used.
    """
    values: dict[str, str] = {}
    patterns: list[str] = []
    try:
        lines = text.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise PolicyMalformed("the policy is not UTF-8") from None
    for line in lines:
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            if line.strip():
                raise PolicyMalformed("the policy has a line without a colon")
        elif key == "mx":
            patterns.append(_pattern(value))
        else:
            values.setdefault(key, value)
    if values.get("version") != "STSv1":
        raise PolicyMalformed("the policy is not of version STSv1")
    mode, age = values.get("mode", ""), values.get("max_age", "")
    if mode not in MODES:
        raise PolicyMalformed("the policy names no known mode")
    if not _DIGITS.fullmatch(age):
        raise PolicyMalformed("the policy names no max_age")
    if mode != "none" and not patterns:
        raise PolicyMalformed("the policy names no host")
    if len(patterns) > MOST_HOSTS:
        raise PolicyMalformed(f"the policy names more than {MOST_HOSTS} hosts")
    return STSPolicy(record, mode, tuple(patterns), min(float(age), LONGEST_AGE), now)


_NAME = re.compile(r"(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII)


def _pattern(value: str) -> str:
    wildcard = value.startswith("*.")
    pattern = ("*." if wildcard else "") + domain_key(value[2:] if wildcard else value).rstrip(".")
    if len(pattern) > 253 or not _NAME.fullmatch(pattern):
        raise PolicyMalformed("the policy names a host that can be none")
    return pattern
