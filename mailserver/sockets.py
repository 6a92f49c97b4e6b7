"""Writes what a plain socket takes at once without a turn of the reactor."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any


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
        self.write = _DirectWriter(transport, handle)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _DirectWriter:
    __slots__ = ("_send", "_transport")

    def __init__(self, transport: Any, handle: socket.socket) -> None:
        self._transport = transport
        self._send: Callable[[bytes], int] | None = handle.send

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
