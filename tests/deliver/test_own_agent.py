"""The page about delivery agents: its agent and its test do what it says, and the server finds them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from mailserver.assembly.own_objects import ObjectUnusable, find
from mailserver.interfaces import IDeliveryAgent

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-delivery-agent.md"


def test_the_page_s_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, test = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in agent.splitlines() if line.strip()]) <= 25
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "my_agent.py").write_text(agent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_agent", raising=False)
    found = find("my_agent:Tickets", IDeliveryAgent, "deliver", folder)
    assert IDeliveryAgent.providedBy(found)
    names: dict[str, Any] = {}
    exec(compile(test, PAGE.name, "exec"), names)
    tickets = tmp_path / "tickets"
    tickets.mkdir()
    names["test_tickets"](tickets)
    sys.modules.pop("my_agent")


def test_a_plugin_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from mailserver.deliver.discard import DiscardAgent

    agent: Any = DiscardAgent()
    agent.name = "void"
    monkeypatch.setattr("mailserver.assembly.own_objects.getPlugins", lambda interface: [agent])
    assert find("void", IDeliveryAgent, "deliver") is agent
    with pytest.raises(ObjectUnusable, match="there are void"):
        find("other", IDeliveryAgent, "deliver")


@pytest.mark.parametrize("name", ["no_such_module:x", "json:no_such", "json:JSONDecoder", "json:loads"])
def test_what_cannot_be_used_is_said(name: str) -> None:
    with pytest.raises(ObjectUnusable, match=r"^deliver: json|^deliver: no_such"):
        find(name, IDeliveryAgent, "deliver")
