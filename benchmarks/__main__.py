"""Everything that is measured, one after the other, and `docs/performance.md` made from it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks import curves as growth
from benchmarks import flames, limits, report
from benchmarks.instructions import instructions_a_message, record
from benchmarks.local_delivery import Lost
from benchmarks.peers import PeerFailed, PeerMissing
from benchmarks.works import WORKS, Figure, Terms


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", choices=list(WORKS), action="append", help="only this; may be repeated")
    parser.add_argument("--no-curves", action="store_true", help="leave out how the cost grows")
    parser.add_argument("--no-flames", action="store_true", help="leave out limits and flame graphs")
    parser.add_argument("--no-instructions", action="store_true", help="leave out valgrind's count")
    parser.add_argument("--scale", type=float, default=1.0, help="of the amounts; 0.1: only whether it runs")
    parser.add_argument("--write", action="store_true", help="a part too: into docs/performance.md")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    options = parser.parse_args()
    terms = Terms(options.rounds, options.folder, options.scale)
    began, load = time.monotonic(), os.getloadavg()[0]
    figures: list[Figure] = []
    curves: dict[str, list[growth.Point]] = {}
    bounds: list[limits.Limit] = []
    rooms: dict[str, str] = {}
    failed = []
    for name in options.work or list(WORKS):
        print(f"\n== {name} ({(time.monotonic() - began) / 60:.1f} min)", flush=True)
        try:
            figures += WORKS[name](terms)
        except (PeerMissing, PeerFailed, Lost) as error:
            failed.append(f"{name}: {error}")
    try:
        if not options.no_curves:
            print(f"\n== growth ({(time.monotonic() - began) / 60:.1f} min)", flush=True)
            curves = growth.measure(list(growth.CURVES))
        if not options.no_flames:
            print(f"\n== limits and flames ({(time.monotonic() - began) / 60:.1f} min)", flush=True)
            bounds = limits.measure(options.folder, options.rounds)
            rooms = flames.take(list(flames.LOADS), options.folder)
        if not options.no_instructions:
            counted = instructions_a_message(options.folder)
            print(f"\n{counted:,.0f} instructions for one message")
            record("local delivery, 4 KiB", counted)
    except (PeerMissing, PeerFailed, Lost) as error:
        failed.append(str(error))
    print(f"\n{report.table(figures)}\n\n{(time.monotonic() - began) / 60:.1f} minutes")
    is_whole = not options.work and not failed and options.scale == 1.0
    if is_whole or options.write:
        found = report.Found(figures, curves, bounds, rooms, load, options.rounds)
        report.write(found)
        points = {name: [asdict(point) for point in curve] for name, curve in curves.items()}
        kept = {"figures": [asdict(figure) for figure in figures], "curves": points}
        (Path(__file__).parent / "latest.json").write_text(json.dumps(kept, indent=1) + "\n")
    for line in failed:
        print(f"benchmarks: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
