"""Writes what a plain socket takes at once without a turn of the reactor."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

TURN_OCTETS = 128 * 1024
"""So much may leave in one turn of the reactor without asking it: a client that reads as fast as we write
must not keep everybody else waiting until its list of 200,000 messages has ended."""


def direct_writer(transport: Any) -> Callable[[bytes], object]:
    """A ``write`` for ``transport`` that goes straight to its socket while the socket takes all.

    Twisted's own ``write`` asks epoll for a turn, sends in that turn, and asks epoll to forget it:
    two system calls and a dispatch for a reply of thirty octets.  From the first reply that the
    kernel does not take whole, everything goes through the transport, so order and back-pressure
    (``registerProducer``) stay Twisted's.  A transport without a plain socket (TLS, a test's) keeps
    its own ``write``.  After ``startTLS`` this one is no longer of use.
    """
    get_handle = getattr(transport, "getHandle", None)
    handle = get_handle() if get_handle is not None else None
    if not isinstance(handle, socket.socket):
        write: Callable[[bytes], object] = transport.write
        return write
    return _DirectWriter(transport, handle)


class StraightTransport:
    """A transport whose ``write`` is such a one; everything else is the transport's own.

    For what stands between a session and its socket, TLS for example, while nothing waits to be sent.
    """

    def __init__(self, transport: Any, handle: socket.socket) -> None:
        self._transport = transport
        self._direct = _DirectWriter(transport, handle)
        self._turn = 0

    def begin_turn(self) -> None:
        """A turn of the reactor."""
        self._turn = 0

    def write(self, octets: bytes) -> None:
        """Send them, or leave them to the transport."""
        self._turn += len(octets)
        if self._turn > TURN_OCTETS:
            self._direct.give_up()
        self._direct(octets)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _DirectWriter:
    __slots__ = ("_send", "_transport")

    def __init__(self, transport: Any, handle: socket.socket) -> None:
        self._transport = transport
        self._send: Callable[[bytes], int] | None = handle.send

    def give_up(self) -> None:
        """Leave all that follows to the transport."""
        self._send = None

    def __call__(self, octets: bytes) -> None:
        sent = 0
        if self._send is not None and not self._transport.disconnecting:
            try:
                sent = self._send(octets)
            except OSError:
                pass  # full for now, or gone: the transport finds out and acts on it
            if sent == len(octets):
                return
            self._send = None
        self._transport.write(octets[sent:] if sent else octets)
