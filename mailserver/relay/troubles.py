"""What the network and OpenSSL say of a connection that failed, in words for the log and for reports."""

from __future__ import annotations

import os

from OpenSSL import SSL
from twisted.internet.error import ConnectError, TCPTimedOutError, TimeoutError
from twisted.python.failure import Failure


def tls_words(reason: Failure) -> str:
    """What OpenSSL, or the network, said about a handshake that broke."""
    error = reason.value
    said = getattr(error, "args", ())
    if isinstance(error, SSL.Error) and said and isinstance(said[0], list) and said[0]:
        return "; ".join(str(part[-1]) for part in said[0])
    return "the connection was lost in the TLS handshake"


def connection_words(reason: Failure) -> str:
    """Why there is no connection."""
    error = reason.value
    if isinstance(error, TimeoutError | TCPTimedOutError):
        return "Connection timed out"
    if isinstance(error, ConnectError) and isinstance(error.osError, int):
        return os.strerror(error.osError)
    return type(error).__name__
