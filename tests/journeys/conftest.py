"""Fixtures of the journeys: servers, zones, and a certificate nobody signed."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.names import NameServer
from tests.journeys.server import Server

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is a journey."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.journey)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """``make_server(name, hostname, domains, …)``: not started yet; ended with the test in any case."""
    made: list[Server] = []

    def make(name: str, *arguments: Any, **options: Any) -> Server:
        made.append(Server(tmp_path / name, *arguments, **options))
        return made[-1]

    yield make
    for server in made:
        server.kill()
    for server in made:
        # What a journey does to a server is never a reason for an unexpected exception.
        assert not server.log.exists() or "Traceback" not in server.console(), server.console()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """A server for ``a.test`` with the user ada, started."""
    made = make_server("a", "mx.a.test", ["a.test"])
    made.add_user("ada@a.test")
    return made.start()


@pytest.fixture
def zones(tmp_path: Path) -> Iterator[Callable[[dict[str, str]], NameServer]]:
    """``zones({"b.test": "@ 60 MX 10 mx …"})``: a DNS server that answers for them, started."""
    started: list[NameServer] = []

    def serve(records: dict[str, str]) -> NameServer:
        started.append(NameServer(tmp_path / f"dns{len(started)}", records).start())
        return started[-1]

    yield serve
    for name_server in started:
        name_server.stop()


@pytest.fixture
def unverified() -> ssl.SSLContext:
    """A client's TLS context for our self-signed certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
