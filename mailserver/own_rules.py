"""A user's own rules: found by name, asked within a time, and never able to stop the server."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.plugin import getPlugins

from mailserver import maillog
from mailserver.interfaces import IRule
from mailserver.threads import Bridge
from mailserver.values.reply import Reply, reply

MOST_UNDER_WAY = 32
"""Calls of one rule in threads at a time: one that never returns costs so many threads and no more."""

FAILED = reply(451, "4.3.0", "A rule of this server could not be asked; please try again later")


class RuleUnusable(Exception):
    """A rule that the configuration names cannot be used; the text says which, why and the remedy."""


def find(name: str, folder: Path | None = None) -> Any:
    """The rule that ``name`` means: ``module:object``, or what a Twisted plugin calls itself.

    Modules are looked for in ``folder`` first.

    Raises:
        RuleUnusable: there is no such object, or it does not provide ``IRule``.
    """
    module, colon, path = name.partition(":")
    rule = _imported(name, module, path, folder) if colon else _plugin(name)
    if not IRule.providedBy(rule):
        raise RuleUnusable(
            f"policy.rules: {name} does not provide IRule; decorate a function with @provider(IRule), "
            "a class with @implementer(IRule), and name an instance of it"
        )
    return rule


def _imported(name: str, module: str, path: str, folder: Path | None) -> Any:
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        found: Any = import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (Exception, SystemExit, GeneratorExit) as error:  # a user's module may do anything
        raise RuleUnusable(
            f"policy.rules: {name}: {type(error).__name__}: {error}; "
            "is the module in policy.rules_folder or on PYTHONPATH?"
        ) from error
    return found


def _plugin(name: str) -> Any:
    known = {getattr(each, "name", ""): each for each in getPlugins(IRule)}
    if name not in known:
        raise RuleUnusable(
            f"policy.rules: no plugin calls itself {name}; there are {', '.join(sorted(known)) or 'none'}"
        )
    return known[name]


class OwnRule:
    """One rule with its time budget.

    A plain callable runs in a thread of its own, so that it may block; ``async def`` runs in the
    reactor and must not.  What takes longer than ``seconds``, raises, or answers something that is
    neither a ``Reply`` nor ``None`` is logged, and answered with ``failure``.
    """

    def __init__(
        self, name: str, rule: Any, bridge: Bridge, clock: IReactorTime, seconds: float, failure: Reply | None
    ) -> None:
        self._name = name
        self._rule = rule
        self._bridge = bridge
        self._clock = clock
        self._seconds = seconds
        self._failure = failure
        self._under_way = 0
        call = rule if inspect.isfunction(rule) else type(rule).__call__
        self._waits = inspect.iscoroutinefunction(call)

    def __call__(self, facts: object) -> Deferred[Reply | None]:
        if self._waits:
            asked: Deferred[Any] = Deferred.fromCoroutine(self._rule(facts))
        else:
            asked = self._in_thread(facts)
        asked.addTimeout(self._seconds, self._clock)
        return asked.addCallback(self._checked).addErrback(self._failed)

    def _in_thread(self, facts: object) -> Deferred[Any]:
        future: Future[Any] = Future()
        if self._under_way >= MOST_UNDER_WAY:
            future.set_exception(TimeoutError(f"{self._under_way} calls of it have not returned"))
            return self._bridge.deferred(future)
        self._under_way += 1
        # Daemons: a rule that never returns must not keep the server from stopping.
        threading.Thread(target=self._work, args=(facts, future), daemon=True, name=self._name).start()
        return self._bridge.deferred(future)

    def _work(self, facts: object, future: Future[Any]) -> None:
        try:
            answer = self._rule(facts)
        except BaseException as error:
            self._under_way -= 1
            future.set_exception(error)
        else:
            self._under_way -= 1
            future.set_result(answer)

    def _checked(self, answer: Any) -> Reply | None:
        if answer is not None and not isinstance(answer, Reply):
            if inspect.iscoroutine(answer):
                answer.close()
            raise TypeError(f"a rule answers with a Reply or None, not with {type(answer).__name__}")
        return answer

    def _failed(self, failure: Any) -> Reply | None:
        maillog.fault(f"the rule {self._name}", failure.value)
        return self._failure


def own_rules(
    names: Sequence[str],
    folder: Path | None,
    bridge: Bridge,
    clock: IReactorTime,
    seconds: float,
    ignore_failures: bool,
) -> list[OwnRule]:
    """The rules of a configuration, in its order.

    Raises:
        RuleUnusable: one of them cannot be used.
    """
    failure = None if ignore_failures else FAILED
    return [OwnRule(name, find(name, folder), bridge, clock, seconds, failure) for name in names]
