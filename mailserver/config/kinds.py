"""Kinds of values in a configuration: what TOML gave is read and checked, or said to be wrong."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import SplitResult, urlsplit

from mailserver.values.address import domain_key
from mailserver.values.units import octets_from, seconds_from
from mailserver.words import LANGUAGES

T = TypeVar("T")
Network = IPv4Network | IPv6Network

SMALLEST_MESSAGE = 64 * 1024
"""Octets that every server must take (RFC 5321 §4.5.3.1.7)."""
FEWEST_RECIPIENTS = 100
"""Recipients that every server must take (RFC 5321 §4.5.3.1.8)."""


class Wrong(Exception):
    """Sentences about one value, each with what is appended to its key (``"[2]"``)."""

    def __init__(self, sentences: list[tuple[str, str]]) -> None:
        super().__init__(sentences)
        self.sentences = sentences


@dataclass(frozen=True)
class Kind(Generic[T]):
    """How one kind of value is read; it stands in the ``Annotated`` type of its settings.

    ``read`` raises ``ValueError``: its text, when it has one, takes the place of the example.
    """

    expected: str
    example: str
    read: Callable[[object], T]

    def __call__(self, value: object) -> T:
        try:
            return self.read(value)
        except ValueError as error:
            remedy = str(error) or f"write for example {self.example}"
            raise Wrong([("", f"found {shown(value)}; expected {self.expected}; {remedy}")]) from None


def shown(value: object) -> str:
    """A value as TOML writes it, cut short."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def each(kind: Kind[T], at_least: int = 0) -> Kind[tuple[T, ...]]:
    """A list of one kind, whose items are all read before anything is said."""
    expected = f"a list, each item {kind.expected}"
    example = f"[{kind.example}]"

    def read(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError(f"write for example {example}" + (" (with brackets)" * isinstance(value, str)))
        if len(value) < at_least:
            raise ValueError(f"name at least one, for example {example}")
        items, sentences = [], []
        for n, item in enumerate(value):
            try:
                items.append(kind(item))
            except Wrong as wrong:
                sentences += [(f"[{n}]{suffix}", text) for suffix, text in wrong.sentences]
        if sentences:
            raise Wrong(sentences)
        return tuple(items)

    return Kind(expected, example, read)


def _text(value: object) -> str:
    if not isinstance(value, str) or any(c < " " or c == "\x7f" for c in value):
        raise ValueError
    return value


def whole(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError
        return value

    return read


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _path(value: object) -> Path:
    text = _text(value)
    if not text.strip():
        raise ValueError
    return Path(text).expanduser() if text.startswith("~/") else Path(text)


def _duration(value: object) -> float:
    try:
        seconds = seconds_from(_text(value))
    except ValueError:
        raise ValueError from None
    if seconds <= 0:
        raise ValueError("it must be longer than nothing")
    return seconds


def _message_size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        octets = value
    else:
        try:
            octets = octets_from(_text(value))
        except ValueError:
            raise ValueError from None
    if octets < SMALLEST_MESSAGE:
        raise ValueError('RFC 5321 asks for at least "64 KiB"')
    if octets > 2**40:
        raise ValueError("1024 GiB is the most")
    return octets


_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.IGNORECASE | re.ASCII)


def _a_labels(value: object) -> str:
    """A domain name in A-labels, or ValueError (RFC 5321 §4.1.2, RFC 1035 §2.3.4)."""
    text = _text(value)
    key = domain_key(text)
    labels = key.split(".")
    if text.endswith(".") or len(key) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError
    if re.fullmatch(r"[0-9]+", labels[-1]):
        raise ValueError("an IP address is not a name; write a domain name")
    return key


def _domain(value: object) -> str:
    _a_labels(value)
    return str(value)


def _network(value: object) -> Network:
    text = _text(value)
    try:
        network = ip_network(text)
    except ValueError:
        pass
    else:
        if network.prefixlen == 0:
            raise ValueError("that is everybody, and a server that relays for everybody is soon block-listed")
        return network
    try:
        rounded = ip_network(text, strict=False)
    except ValueError:
        raise ValueError from None
    raise ValueError(f'the address has bits beyond the prefix; write "{rounded}"')


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise ValueError("the port is a number from 1 to 65535")
    return int(text)


def _nameserver(value: object) -> str:
    """An address with or without a port; IPv6 takes brackets when it has one."""
    text = _text(value)
    try:
        ip_address(text)
        return text
    except ValueError:
        pass
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError
    _port(port)
    try:
        ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        raise ValueError from None
    if ":" in host and not host.startswith("["):
        raise ValueError(f'write "[{host}]:{port}"')
    return text


_ENDPOINT_KINDS = ("tcp", "tcp4", "tcp6", "ssl", "unix", "systemd", "tls", "haproxy", "stdio")
_TCP_ARGUMENTS = {"port", "interface", "backlog"}


def _endpoint(value: object) -> str:
    """A Twisted endpoint description, looked at but not opened; "" turns a listener off.

    Twisted and its plugins have the last word at start; here stands what people get wrong.
    """
    text = _text(value)
    if not text:
        return text
    kind, *arguments = re.split(r"(?<!\\):", text)
    if not re.fullmatch(r"[a-z][a-z0-9_+-]*", kind) or text != text.strip():
        raise ValueError
    if kind not in _ENDPOINT_KINDS:
        near = difflib.get_close_matches(kind, _ENDPOINT_KINDS, 1)
        if near or not arguments:
            raise ValueError(f'"{kind}" is not known' + (f'; did you mean "{near[0]}"?' if near else ""))
    if kind in ("tcp", "tcp6"):
        _tcp_arguments(arguments)
    if kind == "unix" and not (arguments and arguments[0].removeprefix("address=").startswith("/")):
        raise ValueError('a socket needs a full path: "unix:/run/mailserver/lmtp"')
    return text


def _lmtp_endpoint(value: object) -> str:
    """RFC 2033 §5: LMTP must not be on port 25, where somebody would take it for SMTP."""
    text = _endpoint(value)
    if re.match(r"tcp[46]?:(?:.*:)?(?:port=)?25(?::|$)", text):
        raise ValueError("LMTP must not be on port 25 (RFC 2033 §5)")
    return text


def _tcp_arguments(arguments: list[str]) -> None:
    named = dict(a.split("=", 1) for a in arguments if "=" in a)
    plain = [a for a in arguments if "=" not in a]
    if any(not a for a in plain) or len(plain) > 1:
        raise ValueError(r'write colons inside an address as \:, in TOML: "tcp:25:interface=\\:\\:1"')
    if unknown := named.keys() - _TCP_ARGUMENTS:
        raise ValueError(f'"{min(unknown)}" is not known here; there are {", ".join(sorted(_TCP_ARGUMENTS))}')
    port = named.get("port", plain[0] if plain else "")
    if port != "0":  # 0: the system chooses a free one
        _port(port)


def _url(text: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError from None
    try:
        return parts, parts.port
    except ValueError:
        raise ValueError("the port is a number from 1 to 65535") from None


def _route(value: object) -> str:
    """``smtp://host:port``; the host is a name, an IPv4 address, or an IPv6 address in brackets."""
    text = _text(value)
    parts, port = _url(text)
    if parts.scheme != "smtp" or not parts.hostname or parts.path or parts.query or parts.fragment:
        raise ValueError
    if parts.username is not None:
        raise ValueError("credentials do not belong here")
    if port is not None:
        _port(str(port))
    try:
        ip_address(parts.hostname)
    except ValueError:
        _a_labels(parts.hostname)
    return text


_OBJECT = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def _object(value: object) -> str:
    text = _text(value)
    if text and not _OBJECT.fullmatch(text):
        raise ValueError
    return text


FORMAT = Kind('"maildir" or "mbox"', '"maildir"', lambda value: _one_of(value, ("maildir", "mbox")))
LANGUAGE = Kind(f"one of {', '.join(LANGUAGES)}", '"en"', lambda value: _one_of(value, tuple(LANGUAGES)))
LOST_TLS = Kind(
    '"warn", "delay" or "ignore"', '"warn"', lambda value: _one_of(value, ("warn", "delay", "ignore"))
)
TEXT_PATH = Kind("the path of a file or folder", '"state"', _path)
NAME = Kind("a host's full name", '"mx.example.test"', _a_labels)
DOMAIN = Kind("a domain name", '"example.test"', _domain)
NETWORK = Kind("an IP network", '"192.0.2.0/24"', _network)
NAMESERVER = Kind("an IP address, with a port or without", '"127.0.0.1:5353"', _nameserver)
ENDPOINT = Kind('a Twisted endpoint description, or "" for none', '"tcp:25"', _endpoint)
LMTP_ENDPOINT = Kind(
    'a Twisted endpoint description, or "" for none', '"unix:/run/mailserver/lmtp"', _lmtp_endpoint
)
ROUTE = Kind("the next hop's URL", '"smtp://10.0.0.5:25"', _route)
SIZE = Kind("an amount of octets with its unit", '"50 MiB"', _message_size)
DURATION = Kind("a length of time with its units", '"5m" or "1h20m" or "5d"', _duration)
OBJECT = Kind('a Python object as "module:name", or "" for none', '"my_tokens:checker"', _object)
CHECKER = Kind("a checker as `twistd mailserver --help-auth` describes it", '"file:passwd"', _text)
BOOLEAN = Kind("true or false", "false", _boolean)


def _one_of(value: object, words: tuple[str, ...]) -> str:
    if value not in words or not isinstance(value, str):
        raise ValueError
    return value
