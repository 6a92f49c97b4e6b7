"""What was measured, as `docs/performance.md` and its pictures."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.curves import Point
from benchmarks.instructions import commit
from benchmarks.peers import PeerMissing
from benchmarks.works import Figure

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def machine() -> str:
    """The machine, as one sentence."""
    name = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    total = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    gib = int(total[1]) / 2**20 if total else 0
    return (
        f"{os.cpu_count()} processors ({name[1] if name else platform.machine()}), {gib:.0f} GiB, "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}, "
        f"Twisted {version('twisted')}"
    )


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
        rows.append(f"| {figure.work} | {peer}: {_shown(value)} {figure.unit} | {told} | {ratios} | {aim} |")
    return "\n".join(rows)


def _of(name: str) -> str:
    """Which of ours it is, where they differ."""
    return f" ({name.partition(', ')[2]})" if ", " in name else ""


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write(figures: Sequence[Figure], curves: Mapping[str, Sequence[Point]], load: float, rounds: int) -> None:
    """Put the figures into `docs/performance.md` between its marks, and draw them.

    Raises:
        PeerMissing: what draws is not installed.
    """
    path = DOCS / "performance.md"
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    told = (
        f"{today}, commit {commit()}, medians of {rounds} rounds in turn. {machine()}. "
        f"Load of the machine when it began: {load:.1f}.\n\n{table(figures)}\n"
    )
    if curves:
        told += "\n![The cost of a message as the work grows](performance.svg)\n"
        draw(curves, DOCS / "performance.svg")
    path.write_text(f"{before}{BEGIN}\n{told}{END}{after}")


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
        field.plot(sizes, [point.rate for point in points], "o-", color="tab:blue")
        field.set_xscale("log")
        field.set_ylim(bottom=0)
        field.set_xlabel(name)
        field.set_ylabel("a second", color="tab:blue")
        other = field.twinx()
        other.plot(sizes, [point.memory / 2**20 for point in points], "s--", color="tab:orange")
        other.set_ylim(bottom=0)
        other.set_ylabel("MiB", color="tab:orange")
    pictures.tight_layout()
    pictures.savefig(path, metadata={"Date": None})
    pyplot.close(pictures)
