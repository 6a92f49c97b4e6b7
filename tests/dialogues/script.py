"""Reads a dialogue and plays it against a session; README.txt says how one is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Talk(Protocol):
    """A session under test: what the client's side and the world around it can do."""

    def send(self, octets: bytes) -> None:
        """The client sends octets."""
        ...

    def received(self) -> bytes:
        """What the server has written since the last call."""
        ...

    def direct(self, words: list[str]) -> None:
        """Obey a line that starts with ``@``."""
        ...

    def close(self) -> None:
        """Tear everything down."""
        ...


@dataclass(frozen=True)
class Step:
    """One line of a dialogue: its number, its mark and what follows the mark."""

    number: int
    mark: str
    text: str


_LINE = re.compile(r"(C:|C>|S:|S~|S\*|@)(?: (.*))?")


def steps(path: Path) -> list[Step]:
    """The lines of a dialogue, without comments and empty ones."""
    found = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise ValueError(f"{path.name}:{number}: expected C:, C>, S:, S~, S*, @ or #, found {line!r}")
        found.append(Step(number, match[1], match[2] or ""))
    return found


_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[rnt0\\])")
_PLAIN = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def octets(text: str) -> bytes:
    """The octets that ``text`` stands for: UTF-8, with escapes and ``{A*600}`` repeats undone."""
    repeated = re.sub(r"\{(.+?)\*(\d+)\}", lambda match: match[1] * int(match[2]), text)
    return _ESCAPE.sub(_one_octet, repeated.encode("utf-8"))


def _one_octet(match: re.Match[bytes]) -> bytes:
    escape = match[1]
    return bytes([int(escape[1:], 16)]) if escape[:1] == b"x" else _PLAIN[escape]


def pattern(step: Step) -> re.Pattern[bytes]:
    """What a server's line has to look like."""
    if step.mark == "S~":
        return re.compile(step.text.encode("utf-8"))
    return re.compile(b".*".join(re.escape(octets(part)) for part in step.text.split("...")), re.DOTALL)


class Player:
    """Plays steps; everything the server says has to be expected, line by line."""

    def __init__(self, path: Path, begin: Callable[[list[list[str]]], Talk]) -> None:
        self._path = path
        self._begin = begin
        self._waiting = b""

    def play(self) -> None:
        """Play the whole dialogue.

        Raises:
            AssertionError: the server said something else; names file and line.
        """
        script = steps(self._path)
        settings = [s.text.split() for s in script if s.mark == "@" and s.text.startswith("setup ")]
        talk = self._begin([words[1:] for words in settings])
        try:
            for step in script:
                self._take(step, talk)
            self._nothing_more(talk, "the end")
        finally:
            talk.close()

    def _take(self, step: Step, talk: Talk) -> None:
        if step.mark in ("S:", "S~"):
            self._expect(step, talk)
            return
        if step.mark == "S*":
            self._skip_to_last_line(talk)
            self._expect(step, talk)
            return
        if step.mark == "@" and step.text.startswith("setup "):
            return
        self._nothing_more(talk, f"line {step.number}")
        if step.mark == "@":
            try:
                talk.direct(step.text.split())
            except AssertionError as error:
                raise AssertionError(f"{self._path.name}:{step.number}: {error}") from error
        else:
            talk.send(octets(step.text) + (b"\r\n" if step.mark == "C:" else b""))

    def _skip_to_last_line(self, talk: Talk) -> None:
        """Take all lines of a reply (RFC 5321 §4.2) but the last."""
        self._waiting += talk.received()
        while self._waiting[3:4] == b"-":
            self._waiting = self._waiting.partition(b"\r\n")[2]

    def _expect(self, step: Step, talk: Talk) -> None:
        self._waiting += talk.received()
        line, end, rest = self._waiting.partition(b"\r\n")
        where = f"{self._path.name}:{step.number}"
        assert end, (
            f"{where}: expected {step.text!r}, the server is silent{f' after {line!r}' if line else ''}"
        )
        self._waiting = rest
        assert pattern(step).fullmatch(line), f"{where}: expected {step.text!r}, the server said {line!r}"

    def _nothing_more(self, talk: Talk, where: str) -> None:
        self._waiting += talk.received()
        assert not self._waiting, f"{self._path.name}, before {where}: the server also said {self._waiting!r}"
