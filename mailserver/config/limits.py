"""The tables ``[limits]``, ``[policy]`` and ``[proxy]``: what strangers may, and who decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

import attrs

from mailserver.config.kinds import (
    BOOLEAN,
    DURATION,
    FEWEST_RECIPIENTS,
    NETWORK,
    SIZE,
    TEXT_PATH,
    Kind,
    Network,
    Wrong,
    each,
    whole,
)

Duration = Annotated[float, DURATION]
Networks = Annotated[tuple[Network, ...], each(NETWORK)]

_LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def _or_nothing(value: object) -> float:
    return 0.0 if value == "" else DURATION(value)


def _count(example: str) -> Kind[int]:
    return Kind("a number, 0 for no limit", example, whole(0, 10_000_000))


def _rule_names(value: object) -> str:
    module, colon, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    words = [*module.split("."), *(name.split(".") if colon else [])]
    if not all(word.isidentifier() for word in words):
        raise ValueError
    return str(value)


def _scores(value: object) -> Mapping[str, int]:
    if not isinstance(value, dict):
        raise ValueError
    wrong = [
        (f'."{zone}"', "a score is a whole number from -100 to 100, not 0")
        for zone, score in value.items()
        if not isinstance(score, int) or isinstance(score, bool) or not 0 < abs(score) <= 100
    ]
    if wrong:
        raise Wrong(wrong)
    return value


def _word(*words: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in words or not isinstance(value, str):
            raise ValueError
        return value

    return read


_LISTENERS = ("smtp", "submission", "submissions", "lmtp")


def _place(value: object) -> Network | str:
    return str(value) if value in _LISTENERS else NETWORK.read(value)


PLACE = Kind("an IP network or a listener's name", '"192.0.2.0/24" or "submission"', _place)
LISTENER = Kind('"smtp", "submission", "submissions" or "lmtp"', '"smtp"', _word(*_LISTENERS))
WAIT = Kind('a length of time, or "" for none', '"2s"', _or_nothing)
RULE = Kind('an object as "module:name", or a plugin\'s name', '"my_rules:no_mondays"', _rule_names)
WHO = Kind('"nobody", "users" or "everybody"', '"users"', _word("nobody", "users", "everybody"))
SCORES = Kind("a table of scores by zone", '"zen.example.test" = 5', _scores)


@attrs.frozen(kw_only=True)
class Limits:
    """What one message, one client and all of them may.

    ``message_size`` in octets, ``recipients`` of one message.  ``connections`` of a process in all,
    ``connections_by_client`` of one IPv4 address or IPv6 /64; ``messages_by_client`` and
    ``recipients_by_client`` a minute of those who have not logged in; 0 is no limit.  These do not hold
    for ``exempt`` and ``relay.trusted_networks``, and all tighten while half of ``connections`` are in use.

    Seconds: ``greeting_time`` until the first command, ``command_time`` from one to the next,
    ``handshake_time`` for TLS, ``session_time`` in all; in each ``content_time`` of a message
    ``minimum_rate`` octets a second have to come.  ``greet_wait``: strangers on port 25 have to wait
    so long for the greeting.  A submission may ask to be kept back for ``future_release`` (RFC 4865) at
    most; "" for not at all.  ``normalize``: networks, and listeners by their names, whose bare line ends
    are mended, not refused.

    ``messages_by_session`` and ``domains`` of the recipients of one message, which EHLO tells; 0 is no
    limit.  ``closed``: listeners that take no mail and say so (521).
    """

    message_size: Annotated[int, SIZE] = 50 * 2**20
    recipients: Annotated[
        int,
        Kind(
            f"a number of at least {FEWEST_RECIPIENTS} (RFC 5321 §4.5.3.1.8)",
            "1000",
            whole(FEWEST_RECIPIENTS, 1_000_000),
        ),
    ] = 1000
    connections: Annotated[int, _count("5000")] = 5000
    connections_by_client: Annotated[int, _count("500")] = 500
    messages_by_client: Annotated[int, _count("3000")] = 3000
    recipients_by_client: Annotated[int, _count("10000")] = 10_000
    exempt: Networks = _LOOPBACK
    greeting_time: Duration = 300.0
    command_time: Duration = 300.0
    content_time: Duration = 180.0
    handshake_time: Duration = 30.0
    session_time: Duration = 7200.0
    minimum_rate: Annotated[int, Kind("octets a second", "100", whole(0, 1_000_000))] = 100
    greet_wait: Annotated[float, WAIT] = 0.0
    future_release: Annotated[float, WAIT] = 30 * 86400.0
    normalize: Annotated[tuple[Network | str, ...], each(PLACE)] = ()
    messages_by_session: Annotated[int, _count("100")] = 0
    domains: Annotated[int, _count("50")] = 0
    closed: Annotated[tuple[str, ...], each(LISTENER)] = ()

    @property
    def normalized_networks(self) -> tuple[Network, ...]:
        """The networks in ``normalize``."""
        return tuple(one for one in self.normalize if not isinstance(one, str))


@attrs.frozen(kw_only=True)
class Policy:
    """Who decides what is accepted, beside the limits.

    ``rules``: a user's own, asked in this order, each within ``rule_time``; one that fails or is late
    is a ``rule_failure``: ``"delay"`` the recipient or ``"ignore"`` the rule.  ``rules_folder`` is where
    their modules are looked for first.  ``block_lists``: DNS zones and what a listing there adds to a
    client's score; at ``block_score`` it is refused.  ``reverse_dns``: is the client's name looked up?
    ``sender_dns``: are strangers refused whose domain takes no mail itself (null MX, RFC 7505)?
    ``greylist`` is how long a network and sender domain that are new here have to wait; ``""`` is off.

    Who may ask about a mailbox (``vrfy``), about the members of a list (``expn``), and write to users'
    terminals (``terminals``: SEND, SOML, SAML): ``"nobody"``, ``"users"`` who have logged in, or
    ``"everybody"``.
    """

    rules: Annotated[tuple[str, ...], each(RULE)] = ()
    rules_folder: Annotated[Path, TEXT_PATH] | None = None
    rule_time: Duration = 5.0
    rule_failure: Annotated[str, Kind('"delay" or "ignore"', '"delay"', _word("delay", "ignore"))] = "delay"
    block_lists: Annotated[Mapping[str, int], SCORES] = attrs.field(factory=dict)
    block_score: Annotated[int, Kind("a number from 1 to 1000", "5", whole(1, 1000))] = 5
    reverse_dns: Annotated[bool, BOOLEAN] = True
    sender_dns: Annotated[bool, BOOLEAN] = False
    lookup_time: Duration = 5.0
    greylist: Annotated[float, WAIT] = 0.0
    vrfy: Annotated[str, WHO] = "users"
    expn: Annotated[str, WHO] = "users"
    terminals: Annotated[str, WHO] = "users"


@attrs.frozen(kw_only=True)
class Proxy:
    """``networks``: the load balancers that say with PROXY, version 1 or 2, whom they speak for."""

    networks: Networks = ()
