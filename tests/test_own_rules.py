"""A user's own rules: found, timed, and unable to harm; the page about them is run as it stands."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer, provider

from mailserver import own_rules
from mailserver.config import ConfigError, load
from mailserver.interfaces import IRule
from mailserver.own_rules import FAILED, OwnRule, RuleUnusable, find
from mailserver.threads import Bridge
from mailserver.values.reply import reply

NO = reply(550, "5.7.1", "No")
PAGE = Path(__file__).parents[1] / "docs" / "writing-a-rule.md"


class Soon:
    """A reactor that runs what threads send it when it is told to."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []
        self.came = threading.Event()

    def callFromThread(self, call: Callable[[], object]) -> None:
        self.calls.append(call)
        self.came.set()

    def run(self) -> None:
        assert self.came.wait(10)
        self.came.clear()
        while self.calls:
            self.calls.pop(0)()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, BaseException]]:
    told: list[tuple[str, BaseException]] = []
    monkeypatch.setattr(own_rules.maillog, "fault", lambda where, error: told.append((where, error)))
    return told


def asked(rule: Any, soon: Soon, clock: Clock, failure: Any = FAILED) -> Deferred[Any]:
    made = OwnRule("a:rule", rule, Bridge(soon), clock, 5.0, failure)
    return made(object())


def answer(rule: Any, failure: Any = FAILED) -> Any:
    soon, got = Soon(), []
    asked(rule, soon, Clock(), failure).addCallback(got.append)
    if not got:
        soon.run()
    return got[0]


async def waits(facts: object) -> Any:
    return NO


@implementer(IRule)
class Counting:
    def __init__(self) -> None:
        self.threads: list[str] = []

    def __call__(self, facts: object) -> Any:
        self.threads.append(threading.current_thread().name)


def test_plain_ones_run_in_a_thread_and_async_ones_in_the_reactor(faults: list[Any]) -> None:
    counting = Counting()
    assert answer(counting) is None
    assert counting.threads == ["a:rule"]
    assert answer(lambda facts: NO) is NO
    assert answer(waits) is NO
    assert faults == []


@pytest.mark.parametrize("wrong", [lambda facts: 1 / 0, lambda facts: "no", lambda facts: waits(facts)])
def test_one_that_fails_delays_or_is_ignored_and_is_logged(wrong: Any, faults: list[Any]) -> None:
    assert answer(wrong) is FAILED
    assert answer(wrong, failure=None) is None
    assert [where for where, _ in faults] == ["the rule a:rule"] * 2


def test_one_that_is_late_delays_and_its_answer_is_dropped(faults: list[Any]) -> None:
    soon, clock, go_on = Soon(), Clock(), threading.Event()
    got: list[Any] = []

    def late(facts: object) -> Any:
        go_on.wait(10)
        return NO

    asked(late, soon, clock).addCallback(got.append)
    clock.advance(4.9)
    assert got == []
    clock.advance(0.2)
    assert got == [FAILED]
    go_on.set()
    soon.run()
    assert got == [FAILED]
    assert len(faults) == 1


def test_one_that_never_returns_uses_up_its_own_threads_and_no_more(faults: list[Any]) -> None:
    soon, clock, go_on = Soon(), Clock(), threading.Event()
    before = threading.active_count()
    rule = OwnRule("stuck", lambda facts: go_on.wait(30) and None, Bridge(soon), clock, 5.0, FAILED)
    got: list[Any] = []
    for _ in range(100):
        rule(object()).addCallback(got.append)
    assert threading.active_count() - before == own_rules.MOST_UNDER_WAY
    soon.run()
    assert len(got) == 100 - own_rules.MOST_UNDER_WAY
    go_on.set()
    clock.advance(5)
    assert got == [FAILED] * 100


# -- by name -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = before[0]
    for name in set(sys.modules) - before[1]:
        if not name.startswith(("mailserver", "twisted")):
            del sys.modules[name]


def test_what_a_name_means_and_what_is_said_when_it_means_nothing(folder: Path) -> None:
    (folder / "rules_here.py").write_text(
        "from zope.interface import provider\nfrom mailserver.interfaces import IRule\n"
        "@provider(IRule)\ndef good(facts): return None\ndef plain(facts): return None\n"
    )
    assert find("rules_here:good", folder).__name__ == "good"
    for name, told in (
        ("rules_here:plain", "does not provide IRule"),
        ("rules_here:none", "has no attribute 'none'"),
        ("rules_nowhere:x", "No module named"),
        ("no-plugin", "no plugin calls itself no-plugin"),
    ):
        with pytest.raises(RuleUnusable, match=told):
            find(name, folder)


def test_a_plugin_is_found_by_what_it_calls_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    @provider(IRule)
    def mine(facts: object) -> None: ...

    mine.name = "mine"  # type: ignore[attr-defined]
    monkeypatch.setattr(own_rules, "getPlugins", lambda interface: iter([mine] if interface is IRule else []))
    assert find("mine") is mine


# -- the page ------------------------------------------------------------------------------------


def test_the_page_is_true(folder: Path) -> None:
    blocks = re.findall(r"```(python|toml)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (_, rule), (_, configuration), (_, test) = blocks
    (folder / "rules").mkdir()
    (folder / "rules" / "my_rules.py").write_text(rule)
    (folder / "mailserver.toml").write_text('hostname = "mx.example.test"\n' + configuration)
    policy = load(folder / "mailserver.toml").policy
    assert policy.rules_folder == folder / "rules"
    assert (policy.rule_time, policy.rule_failure) == (5.0, "delay")
    assert callable(find(policy.rules[0], policy.rules_folder))
    names: dict[str, Any] = {}
    exec(compile(test, "writing-a-rule.md", "exec"), names)
    names["test_no_mondays"]()
    code = [line for line in rule.splitlines() if line and not line.startswith('"""')]
    assert len(code) <= 10


def test_a_rule_name_that_cannot_be_one_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "mailserver.toml").write_text('hostname = "mx.test"\n[policy]\nrules = ["my rules:x"]\n')
    with pytest.raises(ConfigError, match=r"policy.rules\[0\]"):
        load(tmp_path / "mailserver.toml")
