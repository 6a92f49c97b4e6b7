"""Where mail goes instead of a mailbox, as an administrator writes it: ``|command``, ``/file``, …"""

from __future__ import annotations

import shlex

from mailserver.values.address import Address

DISCARD = ":discard:"
KINDS = "|/path/of/command arguments, /path/of/file, :discard:, lmtp:unix:/path, agent:name"
ROBOTS = (":request:", ":bounces:")
"""Addresses of the server's own, which only the directory may name: what follows is a list's address."""

_MARKS = ("|", "/", ":", "lmtp:", "agent:")


def is_delivery(text: str) -> bool:
    """Whether ``text`` is meant as one of these, and not as an address or a user's name."""
    return text.startswith(_MARKS)


def checked_delivery(text: str) -> str:
    """``text``, when it is one of ``KINDS``.

    Raises:
        ValueError: it is not; the text says why, and what is expected.
    """
    text = text.strip()
    if not text.isprintable():
        raise ValueError(f"{text!r} holds characters that cannot be printed")
    if text.startswith("|"):
        command_of(text)
    elif text.startswith("/"):
        if text.endswith("/") or "/../" in f"{text}/":
            raise ValueError(f"{text!r} is not the full path of a file")
    elif text.startswith("lmtp:"):
        if not text.startswith(("lmtp:unix:/", "lmtp:tcp:")):
            raise ValueError(
                f"{text!r} names no store; write lmtp:unix:/path/of/socket or lmtp:tcp:host:port"
            )
    elif text != DISCARD and not (text.startswith("agent:") and len(text) > len("agent:")):
        raise ValueError(f"{text!r} is no way to deliver; there are {KINDS}")
    return text


def command_of(text: str) -> list[str]:
    """The program and its arguments in ``|/usr/bin/program argument …``; quotes group, nothing else counts.

    Raises:
        ValueError: a quote is open, or the program is not a full path.
    """
    try:
        words = shlex.split(text.removeprefix("|"))
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    if not words or not words[0].startswith("/"):
        raise ValueError(f"{text!r} needs the full path of a program: |/usr/bin/program argument")
    return words


def as_target(text: str) -> Address:
    """A delivery as the target of an alias. It has no domain, so no client can ever write it."""
    return Address(text, "")


def delivery_in(address: Address) -> str:
    """The delivery that a target is, or ``""`` for an address."""
    return address.local if not address.domain and is_delivery(address.local) else ""
