"""Finds what a user has written for one of our seams: a Python object by name, or a Twisted plugin."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.plugin import getPlugins
from zope.interface import Interface


class ObjectUnusable(Exception):
    """There is no such object, or it is not what is needed; the text says why and the remedy."""


def find(name: str, interface: type[Interface], key: str, folder: Path | None = None) -> Any:
    """What ``name`` means: ``module:object``, looked for in ``folder`` first, or what a plugin calls
    itself. A class is called without arguments. ``key`` is where an administrator wrote it.

    Raises:
        ObjectUnusable: there is none, or it does not provide ``interface``.
    """
    found = _imported(name, key, folder) if ":" in name else _plugin(name, interface, key)
    if inspect.isclass(found):
        try:
            found = found()
        except Exception as error:
            raise ObjectUnusable(f"{key}: {name} cannot be made: {type(error).__name__}: {error}") from error
    if not interface.providedBy(found):
        raise ObjectUnusable(
            f"{key}: {name} does not provide {interface.__name__}; decorate its class with "
            f"@implementer({interface.__name__})"
        )
    return found


def _imported(name: str, key: str, folder: Path | None) -> Any:
    module, _, path = name.partition(":")
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        found: Any = import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except Exception as error:  # a user's module may do anything
        raise ObjectUnusable(
            f"{key}: {name}: {type(error).__name__}: {error}; is the module in policy.rules_folder or on "
            "PYTHONPATH?"
        ) from error
    return found


def _plugin(name: str, interface: type[Interface], key: str) -> Any:
    known = {getattr(each, "name", ""): each for each in getPlugins(interface)}
    if name not in known:
        raise ObjectUnusable(
            f"{key}: no plugin calls itself {name}; there are {', '.join(sorted(known)) or 'none'}"
        )
    return known[name]
