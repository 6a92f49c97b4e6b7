"""What was measured, as `docs/performance.md` and its pictures."""

from __future__ import annotations

import datetime
import os
import platform
import re
import timeit
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path

from benchmarks.curves import Point
from benchmarks.instructions import commit
from benchmarks.limits import FILES, LARGE_FILES, ONE_ANSWER, SQLITE, TLS, TWISTED, Limit
from benchmarks.peers import PeerMissing
from benchmarks.works import Figure

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def machine() -> str:
    """The machine, as one sentence."""
    name = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    total = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    gib = int(total[1]) / 2**20 if total else 0
    return (
        f"{os.cpu_count()} processors ({name[1] if name else platform.machine()}), {gib:.0f} GiB, "
        f"Linux {platform.release().split('-')[0]}, {interpreter()}, "
        f"Twisted {version('twisted')}"
    )


def interpreter() -> str:
    """Python's version, and how fast it is: a build without a profile takes nearly twice as long."""
    seconds = min(timeit.repeat("f()", "def f(): pass", number=1_000_000, repeat=5))
    return f"Python {platform.python_version()} ({seconds * 1e9 / 1e6:.0f} ns for a call)"


def table(figures: Sequence[Figure]) -> str:
    """Markdown: a row for each kind of work, the peer, ours, and the ratios with the aims."""
    rows = ["| work | peer | ours | ratio | aim |", "|---|---|---|---|---|"]
    for figure in figures:
        (peer, value), *ours = figure.values.items()
        if not ours:
            rows.append(f"| {figure.work} | | {_shown(value)} {figure.unit} | | |")
            continue
        told = ", ".join(f"{_shown(one)}{_of(name)}" for name, one in ours)
        ratios = ", ".join(f"**{_ratio(figure.ratio(name))}**" for name, _ in ours)
        aim = "" if figure.aim is None else f"{'≥' if figure.more_is_better else '≤'} {figure.aim:.2g}"
        aim += f"; {figure.aim_of_two:.2g} with two" if figure.aim_of_two else ""
        rows.append(f"| {figure.work} | {peer}: {_shown(value)} {figure.unit} | {told} | {ratios} | {aim} |")
    return "\n".join(rows)


def _of(name: str) -> str:
    """Which of ours it is, where they differ."""
    return f" ({name.partition(', ')[2]})" if ", " in name else ""


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Found:
    """What one run of everything has found; ``rooms`` are shares of the interpreter's time by flame graph."""

    figures: Sequence[Figure]
    curves: Mapping[str, Sequence[Point]]
    limits: Sequence[Limit]
    rooms: Mapping[str, str]
    load: float
    rounds: int


def shares_of_limits(figures: Sequence[Figure], limits: Sequence[Limit]) -> str:
    """Markdown: how much of what the parts below us allow each work reaches."""
    rates = {limit.name: limit.rate for limit in limits}
    rows = ["| work | of its limit |", "|---|---|"]
    for figure in figures:
        for name, value in list(figure.values.items())[1:] if figure.work in LIMITED else ():
            told = ", ".join(
                f"{value / rates[limit]:.0%} of {limit} ({_shown(rates[limit])}/s)"
                for limit in LIMITED[figure.work]
            )
            rows.append(f"| {figure.work}{_of(name)}: {_shown(value)}/s | {told} |")
    return "\n".join(rows)


LIMITED = {
    "local delivery, 4 KiB, 20 sessions": (FILES, TWISTED),
    "the same, a new connection for each message": (FILES, TWISTED),
    "local delivery, 1 MiB": (LARGE_FILES,),
    "submission, STARTTLS and AUTH for each message": (TLS, FILES),
    "relay to one next hop": (SQLITE, TWISTED),
    "relay to 300 next hops, 50 ms an answer": (SQLITE, TWISTED),
    "POP3 log-in, STAT, UIDL, QUIT": (TWISTED,),
    "POP3 RETR, 4 KiB": (ONE_ANSWER,),
}
"""What each work stands on, of `limits.py`."""


def write(found: Found) -> None:
    """Put the figures into `docs/performance.md`, and their table into the README, between their marks; draw
    the curves.

    Raises:
        PeerMissing: what draws is not installed.
    """
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = table(found.figures)
    told = (
        f"{today}, commit {commit()}, medians of {found.rounds} rounds in turn. {machine()}. "
        f"Load of the machine when it began: {found.load:.1f}.\n\n{rows}\n"
    )
    if found.limits:
        shares = shares_of_limits(found.figures, found.limits)
        told += f"\nThe share of its limit that each work reaches:\n\n{shares}\n"
    if found.rooms:
        told += "\nWho holds the interpreter meanwhile, as flame graphs and by room:\n\n"
        told += "".join(f"* [{name}](flames/{name}.svg): {rooms}\n" for name, rooms in found.rooms.items())
    if found.curves:
        told += "\n![The cost of a message as the work grows](performance.svg)\n\n"
        told += "How far each curve falls below the best before, at most: "
        told += ", ".join(_falls(name, points) for name, points in found.curves.items()) + ".\n"
        draw(found.curves, DOCS / "performance.svg")
    _put(DOCS / "performance.md", told)
    _put(README, f"{rows}\n")


def _put(page: Path, told: str) -> None:
    """Replace what stands between a page's marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{told}{END}{after}")


def _falls(name: str, points: Sequence[Point]) -> str:
    """How far a curve falls, and the disk's own where the size is something to the disk too."""
    told = f"{name} {fall(_paces(name, points)):.0%}"
    disk = [replace(point, rate=point.disk) for point in points]
    return f"{told} (the disk alone {fall(_paces(name, disk)):.0%})" if all(p.disk for p in points) else told


def _paces(name: str, points: Sequence[Point]) -> list[float]:
    """What should stay as it is while the work grows: of messages of other lengths, the octets."""
    if name.startswith("octets"):
        return [point.rate * point.size / 2**20 for point in points]
    return [point.rate for point in points]


def fall(paces: Sequence[float]) -> float:
    """The largest share that a point of the curve is below the best one before it."""
    best = list(accumulate(paces, max))
    return max(1 - pace / before for pace, before in zip(paces, best, strict=True))


def draw(curves: Mapping[str, Sequence[Point]], path: Path) -> None:
    """A picture with a field for each curve: messages a second, and memory, over the size of the work.

    Raises:
        PeerMissing: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot
    except ImportError as error:
        raise PeerMissing("matplotlib is not installed; `pip install -e '.[bench]'` brings it") from error
    pictures, fields = pyplot.subplots(1, len(curves), figsize=(3.4 * len(curves), 3.2), squeeze=False)
    for field, (name, points) in zip(fields[0], curves.items(), strict=True):
        sizes = [point.size for point in points]
        field.plot(sizes, _paces(name, points), "o-", color="tab:blue")
        field.set_xscale("log")
        field.set_ylim(bottom=0)
        field.set_xlabel(name)
        field.set_ylabel("MiB a second" if name.startswith("octets") else "a second", color="tab:blue")
        other = field.twinx()
        other.plot(sizes, [point.memory / 2**20 for point in points], "s--", color="tab:orange")
        other.set_ylim(bottom=0)
        other.set_ylabel("MiB", color="tab:orange")
    pictures.tight_layout()
    pictures.savefig(path, metadata={"Date": None})
    pyplot.close(pictures)
