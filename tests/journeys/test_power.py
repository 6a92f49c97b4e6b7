"""``kill -9`` at random moments under load: what got its 250 is delivered, nothing twice."""

from __future__ import annotations

import random
import re
import smtplib
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.journeys.server import Server
from tests.journeys.tools import eventually

SENDERS = 8
SEED = 5321
PEOPLE = ["ada@a.test", "bob@a.test", "mbox@a.test"]
BIG = "x" * 70 + "\r\n"


class Load:
    """Clients that send numbered messages until their server dies, and remember every 250."""

    def __init__(self) -> None:
        self.acknowledged: set[int] = set()
        self._next = 0
        self._lock = threading.Lock()

    def _number(self) -> int:
        with self._lock:
            self._next += 1
            return self._next

    def _send(self, server: Server) -> None:
        try:
            with smtplib.SMTP(server.host, server.ports["smtp"], timeout=20) as client:
                while True:
                    number = self._number()
                    # Every seventh is long enough to have a file of its own in the spool.
                    body = BIG * (6000 if number % 7 == 0 else 20)
                    client.sendmail("x@out.test", PEOPLE, f"Subject: number {number};\r\n\r\n{body}")
                    self.acknowledged.add(number)
        except (OSError, smtplib.SMTPException):
            return  # the server has gone

    def until_killed(self, server: Server, seconds: float) -> None:
        threads = [threading.Thread(target=self._send, args=(server,)) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        server.kill()
        for thread in threads:
            thread.join()


def numbers_in(server: Server, login: str) -> Counter[int]:
    return Counter(
        int(found[1]) for raw in server.raw_mail(login) if (found := re.search(rb"number (\d+);", raw))
    )


@pytest.mark.parametrize("rounds", [3, pytest.param(10, marks=pytest.mark.long)])
def test_kills_lose_and_double_nothing(make_server: Callable[..., Server], rounds: int) -> None:
    server = make_server("a", "mx.a.test", ["a.test"])
    for person in PEOPLE:
        server.add_user(person, *(["--format", "mbox"] if person.startswith("mbox") else []))
    moments = random.Random(SEED)
    load = Load()
    for _ in range(rounds):
        server.start()
        load.until_killed(server, moments.uniform(0.05, 1.2))
    assert len(load.acknowledged) > rounds, "there was hardly any load"

    server.start()
    eventually(lambda: server.queue() == [], "an empty queue", patience=90)
    for person in PEOPLE:
        kept = numbers_in(server, person)
        assert load.acknowledged - kept.keys() == set(), f"lost for {person}"
        assert {n: times for n, times in kept.items() if times > 1} == {}, f"twice for {person}"
