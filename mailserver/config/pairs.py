"""``tls.also``: further certificates, each with its key."""

from __future__ import annotations

from pathlib import Path

from mailserver.config.kinds import TEXT_PATH, Kind, Wrong

Pair = tuple[Path, Path]
"""The files of a certificate chain and of its key."""

_KEYS = {"certificate", "key"}


def _pairs(value: object) -> tuple[Pair, ...]:
    if not isinstance(value, list):
        raise ValueError
    pairs: list[Pair] = []
    wrong: list[tuple[str, str]] = []
    for n, item in enumerate(value):
        if not isinstance(item, dict) or set(item) != _KEYS:
            wrong.append((f"[{n}]", "names a certificate and a key, and nothing else"))
            continue
        try:
            pairs.append((TEXT_PATH(item["certificate"]), TEXT_PATH(item["key"])))
        except Wrong as error:
            wrong += [(f"[{n}]", text) for _, text in error.sentences]
    if wrong:
        raise Wrong(wrong)
    return tuple(pairs)


PAIRS = Kind("a list of tables", '[{ certificate = "other.pem", key = "other-key.pem" }]', _pairs)
