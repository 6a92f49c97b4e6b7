"""What is said when a configuration cannot be used: every mistake, one line each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong: where (``key`` like ``relay.retry[2]``, ``""`` for the whole file),
    and a sentence that says what was found, what was expected and how it is mended."""

    file: Path
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key}: {self.text}" if self.key else f"{self.file}: {self.text}"


class ConfigError(Exception):
    """The configuration cannot be used; ``mistakes`` holds all that is wrong, one line each in ``str``."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(map(str, self.mistakes)))


class ConfigUnreadable(ConfigError):
    """The file is not there, or may not be read."""
