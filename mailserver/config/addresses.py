"""The tables ``[delivery]``, ``[addresses]``, ``[lists]``, ``[files]``: who is here, where mail goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import attrs

from mailserver.config.kinds import BOOLEAN, DURATION, TEXT_PATH, Kind, whole
from mailserver.config.quotas import QUOTA

_SEPARATORS = "+-=_.#~!%&"


def _separator(value: object) -> str:
    if not isinstance(value, str) or any(c not in _SEPARATORS for c in value):
        raise ValueError(f"each character is one of {_SEPARATORS}")
    return value


def _url(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    if value and (urlsplit(value).scheme != "https" or not urlsplit(value).hostname):
        raise ValueError("one click needs https (RFC 8058 §3.1)")
    if any(c <= " " or c in "<>" for c in value):
        raise ValueError
    return value


SEPARATOR = Kind('characters before a detail, or "" for none', '"+"', _separator)
URL = Kind('an https URL, or "" for none', '"https://lists.example.test/leave"', _url)


def _directory(value: object) -> str:
    if not isinstance(value, str) or not (value in ("sqlite", "files") or _is_object(value)):
        raise ValueError
    return value


def _is_object(value: str) -> bool:
    module, colon, name = value.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


DIRECTORY = Kind('"sqlite", "files", or a Python object as "module:Name"', '"sqlite"', _directory)


@attrs.frozen(kw_only=True)
class Delivery:
    """Commands and other stores. ``command_time`` (seconds) and ``command_output`` (octets) end a
    command that goes beyond them; ``at_once`` of one command run, or speak with one store, together."""

    command_time: Annotated[float, DURATION] = 120.0
    command_output: Annotated[int, QUOTA] = 1024 * 1024
    at_once: Annotated[int, Kind("a number from 1 to 1000", "10", whole(1, 1000))] = 10


@attrs.frozen(kw_only=True)
class Addresses:
    """``separator``: each of its characters begins a detail (``ada+lists``); ``srs`` rewrites the
    reverse-path of what an alias forwards to another domain."""

    separator: Annotated[str, SEPARATOR] = "+"
    srs: Annotated[bool, BOOLEAN] = True


@attrs.frozen(kw_only=True)
class Lists:
    """``unsubscribe_url``: where one click leaves a list; ``bounce_limit``: after so many days in a row on
    which mail to a member came back the member goes."""

    unsubscribe_url: Annotated[str, URL] = ""
    bounce_limit: Annotated[int, Kind("a number of days from 1 to 100", "5", whole(1, 100))] = 5


@attrs.frozen(kw_only=True)
class Files:
    """For ``directory = "files"``: accounts as in Dovecot's passwd-file, aliases as in Postfix's."""

    passwd: Annotated[Path, TEXT_PATH] = Path("passwd")
    aliases: Annotated[Path, TEXT_PATH] = Path("aliases")
