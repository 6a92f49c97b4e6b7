"""How many processes a configuration makes, and what a worker is told."""

from __future__ import annotations

import os
import pickle
from ipaddress import ip_network
from typing import Any

import pytest
from twisted.internet.task import Clock

from mailserver import processes
from mailserver.config import Listen, Relay, Settings
from mailserver.listeners import Place, StartFailed
from mailserver.processes import SupervisedServer, make_server
from mailserver.service import MailServer
from mailserver.supervisor import FIRST_SOCKET


def settings(**given: Any) -> Settings:
    listen = Listen(submission="", submissions="")
    return Settings(**{"hostname": "mx.a.test", "domains": ("a.test",), "listen": listen, **given})


def test_one_worker_is_this_process() -> None:
    assert isinstance(make_server(settings(workers=1), Clock()), MailServer)


def test_several_workers_are_others() -> None:
    assert isinstance(make_server(settings(workers=2), Clock()), SupervisedServer)


@pytest.mark.parametrize(("cores", "kind"), [({0}, MailServer), ({0, 3, 5}, SupervisedServer)])
def test_zero_is_one_for_each_core(monkeypatch: pytest.MonkeyPatch, cores: set[int], kind: type) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    made: list[int] = []
    monkeypatch.setattr(processes, "Supervisor", lambda _, __, count, *rest: made.append(count))
    assert isinstance(make_server(settings(workers=0), Clock()), kind)
    assert made == ([] if len(cores) == 1 else [3])


def test_a_route_that_cannot_be_understood_is_told_before_anything_starts() -> None:
    with pytest.raises(StartFailed):
        make_server(settings(workers=2, relay=Relay(routes={"b.test": "gopher://x"})), Clock())


def test_a_worker_is_told_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = settings(workers=2, relay=Relay(trusted_networks=(ip_network("10.0.0.0/8"),)))
    tasks: list[Any] = []
    monkeypatch.setattr(processes, "Supervisor", lambda _, __, ___, task, say: tasks.append(task))
    make_server(ours, Clock(), quick_start=True)
    told = [pickle.loads(tasks[0](number)) for number in (0, 1)]
    sockets = {"smtp": FIRST_SOCKET, "pop3": FIRST_SOCKET + 1, "pop3s": FIRST_SOCKET + 2}
    # The first account is made, and told, by one of them.
    assert told == [(ours, Place(0, 2, sockets), True), (ours, Place(1, 2, sockets), False)]
