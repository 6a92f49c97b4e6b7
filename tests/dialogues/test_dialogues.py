"""Plays every dialogue in this folder: one case a file, POP3 and SMTP."""

from pathlib import Path

import pytest

from tests.dialogues.pop3_talk import Pop3Talk
from tests.dialogues.script import Player, octets, pattern, steps

HERE = Path(__file__).parent


@pytest.mark.parametrize("path", sorted(HERE.glob("pop3-*.txt")), ids=lambda path: path.stem)
def test_pop3(path: Path) -> None:
    Player(path, Pop3Talk).play()


def test_a_wrong_line_is_told(tmp_path: Path) -> None:
    script = tmp_path / "pop3-wrong.txt"
    script.write_text("S: +OK ...\nC: NONSENSE\nS: +OK\n")
    with pytest.raises(AssertionError, match=r"pop3-wrong\.txt:3: expected '\+OK', the server said"):
        Player(script, Pop3Talk).play()


def test_an_unexpected_line_is_told(tmp_path: Path) -> None:
    script = tmp_path / "pop3-more.txt"
    script.write_text("C: QUIT\n")
    with pytest.raises(AssertionError, match="before line 1: the server also said"):
        Player(script, Pop3Talk).play()


def test_a_missing_line_is_told(tmp_path: Path) -> None:
    script = tmp_path / "pop3-less.txt"
    script.write_text("S: +OK ...\nS: +OK\n")
    with pytest.raises(AssertionError, match="the server is silent"):
        Player(script, Pop3Talk).play()


def test_a_misspelt_script_is_told(tmp_path: Path) -> None:
    script = tmp_path / "pop3-misspelt.txt"
    script.write_text("QUIT\n")
    with pytest.raises(ValueError, match=r"pop3-misspelt\.txt:1: expected C:"):
        steps(script)


def test_escapes() -> None:
    assert octets(r"a\r\n\x00\xff\\ {xy*3} ü") == b"a\r\n\0\xff\\ xyxyxy \xc3\xbc"


def test_patterns(tmp_path: Path) -> None:
    script = tmp_path / "x"
    script.write_text("S: +OK ... (a)\nS~ [0-9]+\n")
    prefix, regex = map(pattern, steps(script))
    assert prefix.fullmatch(b"+OK anything (a)")
    assert not prefix.fullmatch(b"+OK anything (a) more")
    assert regex.fullmatch(b"12")
