"""What HELP and the EHLO reply say: the commands, extensions and limits that are true now."""

from __future__ import annotations

from functools import lru_cache

from mailserver.values.reply import Reply, reply
from mailserver.wire.smtp_events import Offer
from mailserver.wire.smtp_extensions import EXTENSIONS
from mailserver.wire.smtp_table import COMMANDS, LINE_OCTETS, LMTP, Command

_EXAMPLE = (
    "Example, line by line:",
    "  EHLO client.example",
    "  MAIL FROM:<ada@example.org>",
    "  RCPT TO:<postmaster>",
    "  DATA",
    "  Subject: hello",
    "  (an empty line, the text, and a line with a single dot)",
    "  QUIT",
)


@lru_cache(maxsize=256)
def extensions(offer: Offer, facts: int, latest: str = "") -> tuple[str, ...]:
    """The lines of the EHLO reply after its first (RFC 5321 §4.1.1.1), as they are true now; ``latest`` as
    in ``smtp_extensions.EXTENSIONS``."""
    return tuple(row.line(offer, facts, latest) for row in EXTENSIONS if facts & row.bits == row.wanted)


def overview(offer: Offer, facts: int) -> Reply:
    """What is legal now, the limits and one example (RFC 5321 §4.1.1.8)."""
    legal = [command.syntax for command in COMMANDS[offer.role].values() if command.objection(facts) is None]
    return reply(
        214,
        "2.0.0",
        "Commands that are legal now (HELP MAIL explains one):",
        *(f"  {syntax}" for syntax in legal),
        f"Limits: {offer.message_size} octets a message, {offer.recipients} recipients,",
        *_further_limits(offer),
        f"  {LINE_OCTETS} octets a command line, 998 octets a line of text",
        *_example(offer.role),
    )


def _further_limits(offer: Offer) -> tuple[str, ...]:
    """Those that not every server has."""
    told = ((offer.messages, "messages a session"), (offer.domains, "domains of the recipients of one"))
    return tuple(f"  {most} {what}," for most, what in told if most)


def _example(role: str) -> tuple[str, ...]:
    return tuple(line.replace("EHLO", "LHLO") for line in _EXAMPLE) if role == LMTP else _EXAMPLE


def topic(command: Command, facts: int) -> Reply:
    """One command: its syntax, its meaning, and why it is not legal now if it is not."""
    objection = command.objection(facts)
    now = "Legal now." if objection is None else f"Not legal now: {objection.text}"
    return reply(214, "2.0.0", f"Syntax: {command.syntax}", *command.meaning, now)


NO_SUCH_TOPIC = reply(504, "5.5.4", "No help on that; HELP lists the commands")
