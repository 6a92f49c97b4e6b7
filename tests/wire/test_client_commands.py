"""The parameters that go on to the next server, and those that stay here."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest

from mailserver.values.address import Address
from mailserver.values.envelope import Envelope
from mailserver.wire.client_commands import deliver_by, extensions_from, mail_command
from mailserver.wire.grammar import from_xtext, to_xtext

PLAIN = Envelope(Address("ada", "a.test"), ())


def said(offered: str, authenticated: bool = False, **fields: Any) -> str:
    extensions = extensions_from(["mx", *offered.split(",")])
    return mail_command(
        replace(PLAIN, **fields), 1, extensions, False, authenticated=authenticated
    ).partition("> ")[2]


@pytest.mark.parametrize(("mode", "least"), [("N", ""), ("RT", ""), ("R", "30")])
def test_by_tells_what_is_left(mode: str, least: str) -> None:
    found = re.fullmatch(
        r"BY=(\d+);(\w+)", said(f"DELIVERBY {least}", deliver_by=time.time() + 60.9, by_mode=mode)
    )
    assert found
    assert 58 <= int(found[1]) <= 60
    assert found[2] == mode


def test_by_needs_a_server_that_knows_it_and_has_the_time() -> None:
    envelope = replace(PLAIN, deliver_by=1060.0, by_mode="R")
    assert deliver_by(envelope, extensions_from(["mx"]), 1000.0) == ""
    assert deliver_by(envelope, extensions_from(["mx", "DELIVERBY 61"]), 1000.0) is None
    assert deliver_by(envelope, extensions_from(["mx", "DELIVERBY 60"]), 1000.0) == "BY=60;R"
    assert deliver_by(envelope, extensions_from(["mx", "DELIVERBY"]), 1060.0) == "BY=1;R"
    late = replace(envelope, by_mode="N")
    assert deliver_by(late, extensions_from(["mx", "DELIVERBY 61"]), 1100.0) == "BY=-40;N"
    assert deliver_by(PLAIN, extensions_from(["mx", "DELIVERBY"]), 1000.0) == ""


def test_priority_goes_to_servers_that_know_it() -> None:
    assert said("MT-PRIORITY", priority=-3) == "MT-PRIORITY=-3"
    assert said("HELP", priority=-3) == ""
    assert said("MT-PRIORITY") == ""


def test_who_submitted_it_is_told_to_servers_that_know_us() -> None:
    assert said("AUTH PLAIN", True, auth="a+b@c.test") == "AUTH=a+2Bb@c.test"
    assert said("AUTH PLAIN", True, auth="<>") == "AUTH=<>"
    assert said("AUTH PLAIN", False, auth="a@c.test") == ""


@pytest.mark.parametrize("text", ["a+b=c d@e.test", '"x\\y"@z', "<>", "ü@ö.test"])
def test_xtext_there_and_back(text: str) -> None:
    assert from_xtext(to_xtext(text).encode()) == text
