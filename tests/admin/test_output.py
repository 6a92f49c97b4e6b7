"""Output for people: nothing that a stranger wrote reaches the terminal as a control."""

from __future__ import annotations

import pytest

from mailserver.admin.output import Output


class Screen:
    """A terminal that keeps what is written to it."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "60")
    Output(False).rows(
        ("address", "reason"), [{"address": "[bold]ada@example.test", "reason": "\x1b[2Jgone"}], ""
    )
    assert "[bold]ada@example.test" in screen.text
    assert "\\x1b[2Jgone" in screen.text
    assert "\x1b[2J" not in screen.text


def test_plain_columns_are_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    Output(False).rows(("a", "b"), [{"a": "x" * 300, "b": "\x1b]0;"}, {"a": None, "b": ["1", "2"]}], "")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "x" * 300 + "  \\x1b]0;"
    assert lines[2] == " " * 300 + "  1, 2"


def test_whether_something_is_so_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    Output(False).rows(("a", "b"), [{"a": True, "b": False}], "")
    assert capsys.readouterr().out.splitlines()[1] == "yes  no"
