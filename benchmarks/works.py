"""The kinds of work that are compared: each with its peer, the end that we aim for, and one function."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import idle, local_delivery, pop3, relay, submission
from benchmarks.aiosmtpd_peer import Aiosmtpd
from benchmarks.local_delivery import Load, Round
from benchmarks.peers import OurServer, Peer, Postfix
from benchmarks.places import fresh
from benchmarks.waiting import fill


@dataclass(frozen=True, slots=True)
class Figure:
    """One kind of work: medians by server, the peer's first.

    ``unit`` ends with ``/s`` where more is better; ``aim`` is the ratio to the peer that we aim for, ``None``
    where there is none, and ``aim_of_two`` that of two workers, where it is another.
    """

    work: str
    unit: str
    values: dict[str, float]
    aim: float | None = None
    aim_of_two: float | None = None

    @property
    def more_is_better(self) -> bool:
        return self.unit.endswith("/s")

    def ratio(self, name: str) -> float:
        """A server's figure to the peer's."""
        peer = next(iter(self.values.values()))
        return self.values[name] / peer if peer else 0.0


@dataclass(frozen=True, slots=True)
class Terms:
    """How often, where, and how much of it: ``scale`` 1 is what the table shows."""

    rounds: int
    folder: Path
    scale: float = 1.0

    def count(self, number: int) -> int:
        return max(20, int(number * self.scale))


def _ours(workers: int) -> Callable[[Path], Peer]:
    return lambda folder: OurServer(folder, workers)


def _one_and_two() -> list[Callable[[Path], Peer]]:
    """Postfix, and ours with one worker and with two."""
    return [Postfix, _ours(1), _ours(2)]


def _medians(results: dict[str, list[Round]]) -> dict[str, float]:
    return {name: median(one.rate for one in rounds) for name, rounds in results.items()}


def local(terms: Terms) -> list[Figure]:
    """4 KiB over 20 sessions, until the last file is in its Maildir."""
    load = Load(terms.count(3000), 20, 4096)
    rates = _medians(local_delivery.compare(_one_and_two(), load, terms.rounds, terms.folder))
    return [Figure("local delivery, 4 KiB, 20 sessions", "messages/s", rates, 2.0, 3.0)]


def connections(terms: Terms) -> list[Figure]:
    """The same, with a new connection for each message."""
    load = Load(terms.count(2000), 20, 4096, kept=False)
    rates = _medians(local_delivery.compare(_one_and_two(), load, terms.rounds, terms.folder))
    return [Figure("the same, a new connection for each message", "messages/s", rates, 2.0)]


def large(terms: Terms) -> list[Figure]:
    """Messages of 1 MiB."""
    load = Load(terms.count(500), 20, 2**20)
    rates = _medians(local_delivery.compare(_one_and_two(), load, terms.rounds, terms.folder))
    return [Figure("local delivery, 1 MiB", "messages/s", rates, 1.5)]


def unsynced(terms: Terms) -> list[Figure]:
    """Python's other server, which syncs nothing."""
    load = Load(terms.count(2000), 20, 4096)
    rates = _medians(local_delivery.compare([Aiosmtpd, _ours(1)], load, terms.rounds, terms.folder))
    return [Figure("local delivery beside a server that syncs nothing", "messages/s", rates, 3.0)]


def submissions(terms: Terms) -> list[Figure]:
    """STARTTLS and AUTH, a new connection for each message."""
    makers: list[Callable[[Path], Peer]] = [
        submission.SubmissionPostfix,
        lambda folder: submission.OurSubmission(folder, 1),
        lambda folder: submission.OurSubmission(folder, 2),
    ]
    results = submission.compare(makers, terms.count(960), 4096, terms.rounds, terms.folder)
    named = {"Postfix with Dovecot's SASL" if "Postfix" in n else n: r for n, r in results.items()}
    return [Figure("submission, STARTTLS and AUTH for each message", "messages/s", _medians(named), 2.0)]


def relaying(terms: Terms) -> list[Figure]:
    """To one next hop, and to 300 that take 50 ms for each answer."""
    makers: list[Callable[[Path, int, relay.Load], Peer]] = [
        relay.RelayingPostfix,
        relay.OurRelay,
        partial(relay.OurRelay, workers=2),
    ]
    figures = []
    for destinations, aim in ((1, 3.0), (relay.DESTINATIONS, 2.0)):
        load = relay.Load(terms.count(3000), 4096, destinations)
        results: dict[str, list[Round]] = {}
        for _ in range(terms.rounds):
            for make in makers if destinations == 1 else makers[:2]:
                place = fresh(terms.folder)
                os.sync()
                name, result = relay.run_round(make, load, place)
                results.setdefault(name, []).append(result)
                print(f"{destinations} destination(s)  {name:24s} {result.rate:7.0f} messages/s", flush=True)
        where = "one next hop" if destinations == 1 else f"{destinations} next hops, 50 ms an answer"
        figures.append(Figure(f"relay to {where}", "messages/s", _medians(results), aim))
    return figures


_POP3 = {
    "sessions/s": ("POP3 log-in, STAT, UIDL, QUIT", "sessions/s", 6.0),
    "RETR/s": ("POP3 RETR, 4 KiB", "messages/s", 1.2),
    "RETR/s, ten at once": ("POP3 RETR, 4 KiB, ten commands at once", "messages/s", 1.2),
    "first opening s": ("first opening of 50,000 messages", "seconds", 1 / 3),
    "second opening s": ("second opening of 50,000 messages", "seconds", 1 / 3),
}


def reading(terms: Terms) -> list[Figure]:
    """POP3: sessions, RETR, and the opening of a large maildrop."""
    makers: Sequence[Callable[[Path], pop3.Reader]] = [pop3.Dovecot, pop3.Ours]
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(terms.rounds):
        # A turn of half a thousand is over before the processors have noticed that there is work.
        rates = pop3.small(makers, terms.folder, terms.count(300), terms.count(60_000))
        for make in makers:
            name = make(Path("/nonexistent")).name
            row = rates[name] | pop3.large(make, terms.folder, terms.count(50_000))
            print(name, "  ".join(f"{what} {value:.3g}" for what, value in row.items()), flush=True)
            for what, value in row.items():
                found.setdefault(what, {}).setdefault(name, []).append(value)
    return [
        Figure(work, unit, {name: median(them) for name, them in found[what].items()}, aim)
        for what, (work, unit, aim) in _POP3.items()
    ]


def idling(terms: Terms) -> list[Figure]:
    """Memory of a connection on which nothing is said."""
    figures = []
    for kind, (listener, peer) in idle.KINDS.items():
        is_tls = "TLS" in kind
        values = {}
        for make, count in ((peer, 80), (partial(idle.Ours, listener=listener), terms.count(2000))):
            name, each = idle.octets_each(make, count, is_tls, terms.folder)
            values[name] = each / 1024
            print(f"{kind:12s} {name:20s} {each / 1024:8.1f} KiB each", flush=True)
        figures.append(Figure(f"an idle connection, {kind}", "KiB", values, 0.1))
    return figures


def starting(terms: Terms) -> list[Figure]:
    """From the start of the process to the first 250, with nothing and with 50,000 messages waiting."""
    values: dict[str, list[float]] = {}
    for _ in range(terms.rounds):
        for make in (Postfix, _ours(1)):
            place = fresh(terms.folder)
            peer = make(place)
            values.setdefault(peer.name, []).append(_first_250(peer))
    figures = [Figure("start to the first 250", "seconds", {n: median(v) for n, v in values.items()})]
    place = fresh(terms.folder)
    fill(place / "state" / "spool", terms.count(50_000), 1)
    peer = OurServer(place, 1)
    figures.append(Figure("start with 50,000 messages waiting", "seconds", {peer.name: _first_250(peer)}))
    return figures


def _first_250(peer: Peer) -> float:
    """Seconds from the start of a server to its 250 for a message; of ours, its account is made before."""
    began = time.monotonic()
    peer.start()
    try:
        if isinstance(peer, OurServer):
            began = peer.began
        with socket.create_connection(("127.0.0.1", peer.port), timeout=60) as client:
            client.recv(500)
            steps = ["HELO bench.test", "MAIL FROM:<s@bench.test>", "RCPT TO:<user@bench.test>", "DATA"]
            for step in [*steps, "Subject: first\r\n\r\n."]:
                client.sendall(step.encode() + b"\r\n")
                answer = client.recv(500)
        if not answer.startswith(b"250"):
            raise local_delivery.Lost(f"{peer.name} said {answer!r} to its first message")
        return time.monotonic() - began
    finally:
        peer.stop()


WORKS: dict[str, Callable[[Terms], list[Figure]]] = {
    "local": local,
    "connections": connections,
    "large": large,
    "unsynced": unsynced,
    "submission": submissions,
    "relay": relaying,
    "pop3": reading,
    "idle": idling,
    "start": starting,
}
