"""What a POP3 session says: replies in the client's language, queued until they are taken for one write."""

from __future__ import annotations

from mailserver.wire.pop3_words import Words


class Replies:
    """``queued`` counts octets; ``words`` is the client's language (RFC 6856 §3)."""

    __slots__ = ("_pieces", "queued", "words")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.queued = 0
        self.words: Words = {}

    def put(self, octets: bytes) -> None:
        """Queue octets as they are."""
        self._pieces.append(octets)
        self.queued += len(octets)

    def take(self) -> bytes:
        """Everything queued since the last call."""
        octets = b"".join(self._pieces)
        self._pieces.clear()
        self.queued = 0
        return octets

    def line(self, status: str, words: str, **values: object) -> bytes:
        """A line in the client's language; ``values`` go where ``words`` has their names."""
        words = self.words.get(words, words)
        return f"{status} {words.format(**values) if values else words}\r\n".encode()

    def ok(self, words: str, **values: object) -> None:
        """Queue ``+OK``."""
        self.put(self.line("+OK", words, **values))

    def err(self, why: str, code: str = "", **values: object) -> None:
        """Queue ``-ERR``; ``code`` is a response code (RFC 2449 §8), which no language changes."""
        self.put(self.line(f"-ERR [{code}]" if code else "-ERR", why, **values))
