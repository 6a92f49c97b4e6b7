"""The figures of the README are those of docs/performance.md, and those of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.works import Figure

FIGURES = [
    Figure(
        "a work",
        "messages/s",
        {"Peer 1.0": 100.0, "ours, workers = 1": 250.0, "ours, workers = 2": 305.0},
        2,
        3,
    ),
    Figure("another", "seconds", {"Peer 1.0": 2.0, "ours, workers = 1": 0.1}, 1 / 3),
    Figure("alone", "seconds", {"ours, workers = 1": 1.5}),
]


def between_marks(page: Path) -> str:
    return page.read_text().partition(report.BEGIN)[2].partition(report.END)[0]


def test_the_readme_has_the_table_of_the_last_run() -> None:
    rows = between_marks(report.README).strip()
    assert rows.startswith("| work | peer |")
    assert rows in between_marks(report.DOCS / "performance.md")


def test_a_run_is_written_into_both_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("README.md", "performance.md"):
        (tmp_path / name).write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    monkeypatch.setattr(report, "DOCS", tmp_path)
    report.write(report.Found(FIGURES, {}, [], {}, 0.5, 3))
    rows = report.table(FIGURES)
    assert (tmp_path / "README.md").read_text() == f"before\n{report.BEGIN}\n{rows}\n{report.END}\nafter\n"
    assert rows in between_marks(tmp_path / "performance.md")
    assert "old" not in (tmp_path / "performance.md").read_text()


def test_a_row_tells_ratios_and_aims() -> None:
    _, _, one, two, three = report.table(FIGURES).splitlines()
    assert one == (
        "| a work | Peer 1.0: 100 messages/s | 250 (workers = 1), 305 (workers = 2) | **2.50**, **3.05** "
        "| ≥ 2; 3 with two |"
    )
    assert two.endswith("| 0.1 (workers = 1) | **0.05** | ≤ 0.33 |")
    assert three == "| alone | | 1.5 seconds | | |"
