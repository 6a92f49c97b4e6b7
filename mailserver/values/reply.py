"""An SMTP reply: code, enhanced status and text (RFC 5321 §4.2, RFC 2034, RFC 3463)."""

from __future__ import annotations

from dataclasses import replace

from mailserver.values.value import value


@value(frozen=True, slots=True)
class Reply:
    """``enhanced`` is ``""`` where none may stand: the greeting, EHLO, 354 (RFC 2034 §4).

    ``lines`` holds printable text without line ends, at least one.  ``hang_up`` closes the
    connection after the reply is sent.  ``mark`` is the short id that ``lines`` carry, for
    `mailserver trace`.
    """

    code: int
    enhanced: str
    lines: tuple[str, ...]
    hang_up: bool = False
    mark: str = ""

    @property
    def is_positive(self) -> bool:
        return self.code < 400

    @property
    def text(self) -> str:
        """The reply on one line, as logs and diagnostics show it."""
        return f"{self.code} {self.enhanced} ".rstrip() + " " + " ".join(self.lines)

    def encode(self) -> bytes:
        """The octets on the wire: every line with its code and enhanced status (RFC 2034 §4)."""
        status = f"{self.enhanced} " if self.enhanced else ""
        if len(self.lines) == 1:
            return f"{self.code} {status}{self.lines[0]}\r\n".encode()
        last = len(self.lines) - 1
        return "".join(
            f"{self.code}{' ' if n == last else '-'}{status}{line}\r\n" for n, line in enumerate(self.lines)
        ).encode("utf-8")


def reply(code: int, enhanced: str, *lines: str, hang_up: bool = False) -> Reply:
    """A ``Reply`` without the noise of its constructor."""
    return Reply(code, enhanced, lines, hang_up)


def marked(answer: Reply, mark: str, longest: int) -> Reply:
    """``answer`` with a short id at its end, on a line of its own where the last is ``longest``."""
    *before, last = answer.lines
    lines = (*before, f"{last} ({mark})") if len(last) < longest else (*answer.lines, f"({mark})")
    return replace(answer, lines=lines, mark=mark)
