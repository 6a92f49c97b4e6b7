"""Ends of data that are none: what hostile clients send between two messages."""

from __future__ import annotations

SECOND = (
    b"MAIL FROM:<evil@far.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n"
    b"Subject: smuggled\r\n\r\nsmuggled\r\n.\r\n"
)
"""What is hidden in the content of the first message, to become a second one."""

_ENDS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\r\n",
    b"\n\r",
    b"\n\n",
    b"\0\r\n",
    b"\r\n\0",
    b"\x0b",
    b"\x0c",
    b"\x85",
    b"\xe2\x80\xa8",
)

TRUE_END = b"\r\n.\r\n"

VARIANTS = [
    *(v for before in _ENDS for after in _ENDS if TRUE_END not in (v := before + b"." + after)),
    b"\r\n.\0\r\n",
    b"\r\n\0.\r\n",
    b"\r\n. \r\n",
    b"\r\n .\r\n",
    b"\r\n.\t\r\n",
    b"\r\n..\r\n",
    b"\r\n.\\r\\n",
    b"\n..\n",
    b"\r\n=2E\r\n",
    b"\r\n\x2e\x08.\r\n",
]
"""Every end but the true one."""


def message(variant: bytes) -> bytes:
    """The content of one DATA: the variant, the commands of a second message, and the true end."""
    return b"Subject: first\r\n\r\nfirst" + variant + SECOND
