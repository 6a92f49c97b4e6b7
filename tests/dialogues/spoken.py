"""Which replies the SMTP server's code can say, and which of them the dialogues hear."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import mailserver
from tests.dialogues.script import steps

HERE = Path(__file__).parent
CODE = Path(mailserver.__file__).parent
ROOMS = ("receive", "policy", "wire", "connections.py", "own_rules.py", "assembly", "words", "login")
"""Where replies to SMTP clients are made; those of other protocols have no code of three digits."""

_WRITTEN = re.compile(r"([2-5][0-9]{2})[ -]([245]\.[0-9]{1,3}\.[0-9]{1,3})?")
_HEARD = re.compile(r"([2-5]\d\d)[ -]([245]\.\d{1,3}\.\d{1,3})?")

Said = tuple[int, str]
"""A reply's code and its enhanced status, ``""`` where it has none."""


def _files() -> Iterator[Path]:
    for room in ROOMS:
        path = CODE / room
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        yield from (file for file in files if "client" not in file.name)


def _constants(call: ast.Call) -> list[object]:
    return [argument.value for argument in call.args[:2] if isinstance(argument, ast.Constant)]


def _made_in(tree: ast.AST) -> Iterator[Said]:
    """The code and status of each ``reply(…)``, ``Reply(…)`` and ``_needs(bit, …)``, and of replies
    that are written out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            values = node.args[1:3] if node.func.id in ("_needs", "_forbids") else node.args[:2]
            if node.func.id not in ("reply", "Reply", "_needs", "_forbids") or len(values) < 2:
                continue
            code, status = (value.value if isinstance(value, ast.Constant) else None for value in values)
            if isinstance(code, int) and isinstance(status, str):
                yield code, status
        elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            found = _WRITTEN.match(text)
            if found and (found[2] or text.endswith(" ")):
                yield int(found[1]), found[2] or ""


def made() -> dict[Said, list[str]]:
    """Every reply that the code makes, and the files that make it."""
    replies: dict[Said, list[str]] = {}
    for path in _files():
        for said in _made_in(ast.parse(path.read_text())):
            replies.setdefault(said, []).append(str(path.relative_to(CODE)))
    return replies


def heard() -> set[Said]:
    """Every reply that a dialogue expects."""
    found = set()
    for path in HERE.glob("smtp-*.txt"):
        for step in steps(path):
            if step.mark in ("S:", "S~") and (match := _HEARD.match(step.text.replace("\\", ""))):
                found.add((int(match[1]), match[2] or ""))
    return found
