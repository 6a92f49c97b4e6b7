"""The addresses in a field like From (RFC 5322 §3.4), found by a careful and forgiving reader.

What is asked here is not whether a list of mailboxes is well written, but which addresses anybody
could see in it: so a word with an ``@`` before ``<…>`` counts too, unless it is quoted.
"""

from __future__ import annotations

from mailserver.values.address import Address


class UnreadableField(Exception):
    """A quote, comment or angle bracket has no end, or an address is none; the text says which."""


def addresses_in(body: bytes) -> list[Address]:
    """Every address, in order; an unqualified one has the domain ``""``.

    Takes linear time.

    Raises:
        UnreadableField: it cannot be told what somebody else would see.
    """
    reader = _Reader()
    for c in body.decode("utf-8", "surrogateescape"):
        reader.take(c)
    return [_address(text) for text in reader.finish()]


class _Reader:
    """One pass over the characters: words, quoted strings, comments, angle brackets."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._plain: list[str] = []
        self._angle: list[str] | None = None
        self._had_angle = False
        self._quoted = self._escaped = False
        self._depth = 0

    def take(self, c: str) -> None:
        if self._escaped:
            self._escaped = False
            self._keep(c)
        elif c == "\\" and (self._quoted or self._depth):
            self._escaped = True
            self._keep(c)
        elif self._depth:
            self._depth += (c == "(") - (c == ")")
        elif c == '"':
            self._quoted = not self._quoted
            self._keep(c)
        elif self._quoted:
            self._keep(c)
        else:
            self._structure(c)

    def _structure(self, c: str) -> None:
        if c == "(":
            self._depth = 1
        elif self._angle is not None:
            if c == ">":
                self._found.append("".join(self._angle).strip())
                self._angle = None
            else:
                self._angle.append(c)
        elif c == "<":
            self._angle, self._had_angle = [], True
        elif c in ",;:":
            self._end_element(names_group=c == ":")
        else:
            self._plain.append(c)

    def _keep(self, c: str) -> None:
        if not self._depth:
            (self._plain if self._angle is None else self._angle).append(c)

    def _end_element(self, names_group: bool = False) -> None:
        text = "".join(self._plain).strip()
        if self._had_angle or names_group:
            self._found += [word for word in _unquoted(text).split() if "@" in word]
        elif text:
            self._found.append(text)
        self._plain.clear()
        self._had_angle = False

    def finish(self) -> list[str]:
        if self._quoted or self._depth or self._escaped or self._angle is not None:
            raise UnreadableField("a quote, comment or angle bracket without its end")
        self._end_element()
        return self._found


def _unquoted(text: str) -> str:
    """``text`` without its quoted strings; an escaped quote in one does not end it."""
    return " ".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])


def _address(text: str) -> Address:
    local, at, domain = text.rpartition("@")
    if not at:
        local, domain = text, ""
    local, domain = local.strip(), domain.strip()
    if len(local) >= 2 and local[0] == local[-1] == '"':
        local = local[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    elif any(c.isspace() or c == '"' for c in local):
        raise UnreadableField(f"{text!r} is no address")
    if not local or (at and not domain) or any(c.isspace() for c in domain):
        raise UnreadableField(f"{text!r} is no address")
    return Address(local, domain)
