"""``python -m tests.fuzz smtp_server --runs 1000000``: feed one target, or all, guided by its coverage.

Needs atheris (``pip install -e '.[fuzz]'``); an input that fails is kept as a file, whose name it prints.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mailserver.wire", "mailserver.receive"]):
    from tests.fuzz.targets import TARGETS
from tests.fuzz.words import WORDS

LONGEST = 1024
"""Octets of an input; libFuzzer cuts the longer words, which Hypothesis feeds whole."""


def _dictionary(words: tuple[bytes, ...]) -> str:
    """The words in libFuzzer's form; a word has at most 64 octets there."""
    lines = {"".join(f"\\x{octet:02x}" for octet in word[:64]) for word in words}
    return "".join(f'"{line}"\n' for line in sorted(lines))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="a folder of inputs, which grows")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        (folder / "words").write_text(_dictionary(WORDS[given.target]))
        corpus = given.corpus or folder / "corpus"
        corpus.mkdir(exist_ok=True)
        for number, word in enumerate(WORDS[given.target]):
            (corpus / f"word-{number}").write_bytes(b"\x00\x00\x00" + word)
        options = [
            *(f"-runs={given.runs}", f"-seed={given.seed}", f"-max_len={LONGEST}", "-timeout=10"),
            *(f"-dict={folder / 'words'}", f"-artifact_prefix=fuzz-{given.target}-", "-print_final_stats=1"),
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[given.target])
        atheris.Fuzz()


main()
