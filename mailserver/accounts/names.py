"""How local parts of our own domains are compared, and which of them may be given to an account."""

from __future__ import annotations

import re
import unicodedata

SEPARATOR = "+"
"""What stands between a user's name and a detail of the user's own choice (RFC 5233 §1)."""

LOCAL_OCTETS = 64
"""The longest local part (RFC 5321 §4.5.3.1.1), in octets of UTF-8."""

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f()<>\[\]:;@\\,\"/]")


def local_key(local: str) -> str:
    """The form in which two spellings of one local part are equal.

    Unicode case folding in NFC: ``Ada``, ``ADA`` and ``ada`` are one user; ``Олена`` and ``олена`` too.

    Turkish has two letters i. ``İ`` (U+0130) is the capital of ``i`` there and exists in no other
    role, so it folds to ``i``. ``I`` is the capital of ``i`` to the rest of the world and of ``ı``
    (U+0131) in Turkish; here it always folds to ``i``, and ``ı`` stays a letter of its own.  So
    ``ali@`` and ``alı@`` are two users, no spelling of one ever reaches the other, and the only
    cost is that ``alı@`` cannot be written in capitals.
    """
    if local.isascii():
        return local.lower()
    folded = unicodedata.normalize("NFC", local).replace("\u0130", "i").casefold()
    return unicodedata.normalize("NFC", folded)


def without_detail(key: str, separators: str = SEPARATOR) -> str | None:
    """``ada`` for ``ada+lists``; ``None`` when there is no detail, or nothing before it.

    Each character of ``separators`` separates; the first that is met counts."""
    found = [at for at in map(key.find, separators) if at > 0]
    return key[: min(found)] if found and key[0] not in separators else None


def check_local(local: str) -> str:
    """The local part in NFC, as an account or alias may have it.

    Stricter than SMTP's grammar: no quoting is ever needed, and the name of a mailbox's folder can
    be made of it.

    Raises:
        ValueError: it may not be; the text says why.
    """
    text = unicodedata.normalize("NFC", local)
    if _FORBIDDEN.search(text) or not text.isprintable():
        raise ValueError(f'{local!r} may not hold spaces, control characters or any of ()<>[]:;@\\,"/')
    if text.startswith(".") or text.endswith(".") or ".." in text:
        raise ValueError(f"{local!r} may not begin or end with a dot, or have two in a row")
    if not 0 < len(text.encode()) <= LOCAL_OCTETS:
        raise ValueError(f"{local!r} is longer than {LOCAL_OCTETS} octets")
    return text
