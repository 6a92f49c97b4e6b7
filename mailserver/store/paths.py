"""Where an account's mail lies: addresses become names of files that cannot leave their folder."""

from __future__ import annotations

import hashlib
import unicodedata

from mailserver.values.address import Address, domain_key

MBOX = ".mbox"
DOTLOCK = ".lock"
REWRITE = ".rewrite"
MAILDROP_LOCK = ".maildrop"
TRASH = ".trash"
KEPT_IDS = ".unique-ids"
CONVERTING = ".converting"
IMPORTED_IDS = ".imported-ids"

_LONGEST = 180  # octets; with the longest suffix of ours it stays below the 255 of every file system
_JOINERS = "‌‍"  # Persian and Indic spelling needs them
# A local part with such an end would take the place of somebody's mbox or of its locks.
_OURS = (MBOX, DOTLOCK, REWRITE, MAILDROP_LOCK, TRASH, KEPT_IDS, CONVERTING, IMPORTED_IDS)


def segment(name: str) -> str:
    """One safe name of a file or folder for ``name``, in lower case; distinct names stay distinct.

    Letters of every script stay readable.  ``/``, ``%``, a leading dot, what cannot be printed, and
    an end that our own files have, become ``%xx`` of their UTF-8; a name that is too long ends in
    ``%h`` and its SHA-256.
    """
    lowered = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).lower())
    safe = "".join(c if _is_plain(c) else _escaped(c) for c in lowered)
    if safe.startswith("."):
        safe = "%2e" + safe[1:]
    for end in _OURS:
        if safe.endswith(end):
            safe = safe[: -len(end)] + "%2e" + end[1:]
    if len(safe.encode()) > _LONGEST:
        digest = hashlib.sha256(lowered.encode("utf-8", "surrogatepass")).hexdigest()
        safe = safe.encode()[: _LONGEST - 66].decode("utf-8", "ignore") + "%h" + digest
    return safe or "%"


def mailbox_path(root: str, address: Address) -> str:
    """``<root>/<domain>/<local-part>``; the domain by its A-labels, so that both spellings meet."""
    return f"{root}/{segment(domain_key(address.domain))}/{segment(address.local)}"


def _is_plain(character: str) -> bool:
    return (character.isprintable() and character not in "/%") or character in _JOINERS


def _escaped(character: str) -> str:
    return "".join(f"%{octet:02x}" for octet in character.encode("utf-8", "surrogatepass"))
