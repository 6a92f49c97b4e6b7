"""Where the interpreter's time goes: a flame graph for each kind of work, from samples by py-spy.

``python -m benchmarks.flames`` runs this server under each load while py-spy looks 800 times a second which
thread holds the interpreter and what it does, draws ``docs/flames/WORK.svg`` and prints each room's share.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from colorsys import hls_to_rgb
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from xml.sax.saxutils import escape

from benchmarks import pop3, relay, submission
from benchmarks.local_delivery import WARM, Load, Lost, _send, _wait_for_last
from benchmarks.peers import OurServer, PeerFailed, PeerMissing, find_program
from benchmarks.places import fresh

FOLDER = Path(__file__).parents[1] / "docs" / "flames"
RATE = 800
SECONDS = 5
WIDTH, ROW, LETTER = 1200, 16, 6.8
LEAST = 0.003
"""A box narrower than this share of the whole is not drawn."""

Stacks = Counter[tuple[str, ...]]
_FRAME = re.compile(r"(.*) \((.*?)(?::\d+)?\)$")


@contextmanager
def samples(pid: int, place: Path) -> Iterator[Callable[[], Stacks]]:
    """Sample process ``pid`` from now on; what is yielded waits for the end and gives the stacks.

    Raises:
        PeerMissing: py-spy is not installed.
    """
    out = place / "samples"
    beside = Path(sys.executable).parent / "py-spy"
    program = str(beside) if beside.exists() else find_program("py-spy", "pip, by '.[bench]'")
    command = [program, "record", "--gil", "-p", str(pid), "-r", str(RATE), "-d", str(SECONDS)]
    with subprocess.Popen(
        [*command, "-f", "raw", "-o", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as spy:

        def stacks() -> Stacks:
            spy.wait()
            return parsed(out.read_text())

        time.sleep(0.5)
        yield stacks


def parsed(raw: str) -> Stacks:
    """py-spy's raw lines, ``frame;frame COUNT``, with frames from the reactor's loop or a thread's function
    on, named as ``room/file.py function``."""
    stacks: Stacks = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        names = [_named(frame) for frame in stack.split(";")]
        loop = [n for n, name in enumerate(names) if name.endswith(("ReactorBase.mainLoop", "Thread.run"))]
        stacks[tuple(names[loop[-1] + 1 :] if loop else names[-1:]) or (names[-1],)] += int(count)
    return stacks


def _named(frame: str) -> str:
    found = _FRAME.match(frame)
    if found is None:
        return frame
    path = found[2].removeprefix("mailserver/")
    return f"{path} {found[1]}"


def room(frame: str) -> str:
    """Whom a frame belongs to: a room of ours, Twisted, or the interpreter's own library."""
    path = frame.partition(" ")[0]
    if path.startswith("twisted/"):
        return "twisted"
    top = path.partition("/")[0]
    if (Path(__file__).parents[1] / "mailserver" / top).exists():
        return top.removesuffix(".py")
    return "other libraries"


def shares(stacks: Stacks) -> list[tuple[str, float]]:
    """Each room's share of the time, the largest first: of what ran, not of what called it."""
    rooms: Counter[str] = Counter()
    for stack, count in stacks.items():
        rooms[room(stack[-1])] += count
    total = rooms.total()
    return [(name, count / total) for name, count in rooms.most_common()]


def draw(stacks: Stacks, title: str, path: Path) -> None:
    """The flame graph: a box for each call, as wide as its share, above the one that called it."""
    boxes: list[tuple[int, float, float, str]] = []
    _lay_out(sorted(stacks.items()), 0, 0.0, stacks.total(), boxes)
    height = (max(depth for depth, *_ in boxes) + 3) * ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/><text x="4" y="13">{escape(title)}</text>',
    ]
    for depth, begin, share, name in boxes:
        x, width, y = begin * WIDTH, share * WIDTH, height - (depth + 1) * ROW
        words = next((one for one in _names(name) if len(one) * LETTER < width), "")
        lines.append(
            f'<g><title>{escape(name)}: {share:.1%}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" '
            f'height="{ROW - 1}" fill="{_colour(room(name))}"/>'
            + (f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(words)}</text>' if words else "")
            + "</g>"
        )
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([*lines, "</svg>", ""]))


def _names(frame: str) -> tuple[str, ...]:
    """A frame's name, the whole first, then what fits into less room."""
    function = frame.partition(" ")[2]
    return (frame, frame.rpartition("/")[2], function, function.rpartition(".")[2])


def _lay_out(
    stacks: list[tuple[tuple[str, ...], int]],
    depth: int,
    begin: float,
    total: int,
    boxes: list[tuple[int, float, float, str]],
) -> None:
    """Add the boxes of one row, and those above each of them."""
    above: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    for stack, count in stacks:
        if len(stack) > depth:
            above.setdefault(stack[depth], []).append((stack, count))
    for name, those in above.items():
        share = sum(count for _, count in those) / total
        if share >= LEAST:
            boxes.append((depth, begin, share, name))
            _lay_out(those, depth + 1, begin, total, boxes)
        begin += share


def _colour(name: str) -> str:
    if name == "twisted":
        return "#c9c9d6"
    if name == "other libraries":
        return "#e3e0d4"
    hue = sum(ord(letter) * place for place, letter in enumerate(name, 7)) % 360 / 360
    return "#" + "".join(f"{round(part * 255):02x}" for part in hls_to_rgb(hue, 0.78, 0.6))


# -- the loads -------------------------------------------------------------------------------------


def _delivering(place: Path, kept: bool, length: int = 4096, messages: int = 4000) -> Stacks:
    server = OurServer(place, 1)
    server.start()
    try:
        _send(server.port, Load(WARM, 20, 4096, kept))
        _wait_for_last(server.new, WARM)
        with samples(server.pid, place) as stacks:
            _send(server.port, Load(messages, 20, length, kept))
            return stacks()
    finally:
        server.stop()


def _relaying(place: Path) -> Stacks:
    found: list[Stacks] = []

    class Watched(relay.OurRelay):
        def start(self) -> None:
            super().start()
            self._sampling = samples(self.pid, place)
            self._stacks = self._sampling.__enter__()

        def stop(self) -> None:
            found.append(self._stacks())
            super().stop()

    relay.run_round(Watched, relay.Load(4000, 4096, 1), place)
    return found[0]


def _submitting(place: Path) -> Stacks:
    server = submission.OurSubmission(place, 1)
    server.start()
    try:
        submission.submit(server.port, 1, 4096)
        with samples(server.pid, place) as stacks, ProcessPoolExecutor(2) as clients:
            # An account may send 300 an hour: these end before the samples do.
            list(clients.map(partial(submission._submit_to, server.port, 4096), [140, 140]))
            return stacks()
    finally:
        server.stop()


def _reading(place: Path, ask: Callable[[int], object]) -> Stacks:
    server = pop3.Ours(place)
    pop3.fill(server.mail, pop3.SMALL)
    server.start()
    try:
        with samples(server.pid, place) as stacks:
            ask(server.port)
            return stacks()
    finally:
        server.stop()


LOADS: dict[str, tuple[str, Callable[[Path], Stacks]]] = {
    "local": ("local delivery, 4 KiB, 20 sessions", lambda place: _delivering(place, kept=True)),
    "connections": ("a new connection for each message", lambda place: _delivering(place, kept=False)),
    "large": ("local delivery, 1 MiB", lambda place: _delivering(place, True, 2**20, 500)),
    "submission": ("submission, STARTTLS and AUTH for each message", _submitting),
    "relay": ("relay to one next hop", _relaying),
    "sessions": (
        "POP3 log-in, STAT, UIDL, QUIT",
        lambda place: _reading(place, lambda port: pop3.sessions_a_second(port, 4000)),
    ),
    "retr": (
        "POP3 RETR, 4 KiB",
        lambda place: _reading(place, lambda port: pop3.messages_a_second(port, 150_000)),
    ),
}


def take(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Draw these, and tell each load's shares by room.

    Raises:
        PeerMissing, PeerFailed, Lost: a program is missing, or the server did not do what it should.
    """
    told = {}
    for name in names:
        title, load = LOADS[name]
        stacks = load(fresh(folder))
        draw(
            stacks, f"{title}: {stacks.total()} samples of who holds the interpreter", FOLDER / f"{name}.svg"
        )
        told[name] = ", ".join(f"{who} {share:.0%}" for who, share in shares(stacks) if share >= 0.02)
        print(f"{title}: {told[name]}", flush=True)
    return told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flames", description=__doc__)
    parser.add_argument("--only", choices=list(LOADS), action="append", help="this load; may be repeated")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    options = parser.parse_args()
    try:
        take(options.only or list(LOADS), options.folder)
    except (PeerMissing, PeerFailed, Lost) as error:
        print(f"flames: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
