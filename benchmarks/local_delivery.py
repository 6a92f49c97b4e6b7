"""Local delivery beside Postfix: from the first connection until the last file is in its Maildir.

``python -m benchmarks.local_delivery --help`` tells the options.  Both servers promise the same at
their 250: the message survives a power cut.  They run in turn, on the same file system, under
Postfix's own ``smtp-source``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import Cost, Meter
from benchmarks.peers import DOMAIN, USER, OurServer, Peer, PeerFailed, PeerMissing, Postfix, find_program
from benchmarks.places import fresh

ARRIVAL_SECONDS = 300.0
POLL_SECONDS = 0.05
WARM = 200
"""Messages before the clock starts: every process of both servers is there and has done its work once."""


@dataclass(frozen=True, slots=True)
class Load:
    """What smtp-source sends: ``messages`` in all, over ``sessions`` connections at once; each message over
    a connection of its own where they are not ``kept``."""

    messages: int
    sessions: int
    length: int
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Round:
    """``seconds`` of one run and what the server spent in it."""

    seconds: float
    messages: int
    cost: Cost

    @property
    def rate(self) -> float:
        return self.messages / self.seconds


class Lost(Exception):
    """Not every message arrived."""


def run_round(peer: Peer, load: Load) -> Round:
    """Start a fresh server, warm it, send the load, wait for the last file.

    Raises:
        Lost: a message is missing, or came twice.
        PeerFailed: the server did not start.
    """
    peer.start()
    try:
        _send(peer.port, replace(load, messages=WARM, length=min(load.length, 4096)))
        _wait_for_last(peer.new, WARM)
        with Meter(peer.pid) as meter:
            began = time.time()
            _send(peer.port, load)
            ended = _wait_for_last(peer.new, WARM + load.messages)
        return Round(ended - began, load.messages, meter.cost)
    finally:
        peer.stop()


def _send(port: int, load: Load) -> None:
    command = [find_program("smtp-source", "postfix"), "-s", str(load.sessions)]
    command += ["-d"] if load.kept else []
    command += ["-l", str(load.length), "-m", str(load.messages)]
    command += ["-f", f"sender@{DOMAIN}", "-t", f"{USER}@{DOMAIN}", f"inet:127.0.0.1:{port}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _wait_for_last(new: Path, messages: int) -> float:
    """When the last file appeared, by the folder's own clock: asking seldom costs no precision."""
    end = time.monotonic() + ARRIVAL_SECONDS
    while (there := len(os.listdir(new)) if new.exists() else 0) < messages:
        if time.monotonic() > end:
            raise Lost(f"{messages - there} of {messages} messages did not arrive in {new}")
        time.sleep(POLL_SECONDS)
    if there > messages:
        raise Lost(f"{there} files for {messages} messages in {new}")
    return new.stat().st_mtime


def compare(
    peers: list[Callable[[Path], Peer]], load: Load, rounds: int, folder: Path
) -> dict[str, list[Round]]:
    """Each peer in turn, ``rounds`` times, each time with empty folders."""
    results: dict[str, list[Round]] = {}
    for number in range(rounds):
        for make in peers:
            place = fresh(folder)
            os.sync()  # nobody pays for what the one before left unwritten
            peer = make(place)
            result = run_round(peer, load)
            results.setdefault(peer.name, []).append(result)
            print(
                f"round {number + 1}  {_line(peer.name, result.rate, result.seconds, result.cost)}",
                flush=True,
            )
    return results


def _line(name: str, rate: float, seconds: float, cost: Cost) -> str:
    return (
        f"{name:24s} {rate:7.0f} messages/s  {seconds:6.2f} s  "
        f"{cost.cpu:6.2f} s of processor  {cost.memory / 2**20:6.1f} MiB"
    )


def summarize(results: dict[str, list[Round]]) -> dict[str, float]:
    """Print the medians, and the others' ratio to the first; give the median rates."""
    rates = {}
    print()
    for name, rounds in results.items():
        rates[name] = median(r.rate for r in rounds)
        cost = Cost(median(r.cost.cpu for r in rounds), round(median(r.cost.memory for r in rounds)))
        print(f"median   {_line(name, rates[name], median(r.seconds for r in rounds), cost)}")
    (first, one), *others = rates.items()
    for name, other in others:
        print(f"ratio    {name} / {first}: {other / one:.2f}")
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.local_delivery", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--length", type=int, default=4096, help="octets of a message")
    parser.add_argument("--new-connections", action="store_true", help="one for each message")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1], help="processes of ours; may be several numbers"
    )
    parser.add_argument("--only", choices=["postfix", "ours"], help="leave out the other")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    options = parser.parse_args()
    peers: list[Callable[[Path], Peer]] = []
    if options.only != "ours":
        peers.append(Postfix)
    if options.only != "postfix":
        peers += [partial(OurServer, workers=workers) for workers in options.workers]
    load = Load(options.messages, options.sessions, options.length, not options.new_connections)
    try:
        find_program("smtp-source", "postfix")
        print(f"{load.messages} messages of {load.length} octets over {load.sessions} sessions\n", flush=True)
        summarize(compare(peers, load, options.rounds, options.folder))
    except (PeerMissing, PeerFailed, Lost) as error:
        print(f"local_delivery: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
