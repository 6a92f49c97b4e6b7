"""Opens a connection for a session with another server."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from mailserver.relay.protection import OPPORTUNISTIC, Security
from mailserver.relay.sessions import CONNECT_SECONDS, Manner, Target
from mailserver.relay.smtp import SMTPSession
from mailserver.relay.tls import ClientTLS


def open_session(
    reactor: Any, manner: Manner, target: Target, tls: ClientTLS | None, security: Security = OPPORTUNISTIC
) -> SMTPSession:
    """Begin to connect; the session's ``opened`` gives the session once it takes transactions, or
    why it never will, and never fails.

    ``tls`` is ``None`` to stay in clear; ``security`` is what the handshake must reach.
    """
    session = SMTPSession(reactor, manner, target, tls, security)
    factory: ClientFactory = _OneSession(session)
    source = (manner.source, 0) if manner.source else None
    session.connector = reactor.connectTCP(
        target.address, target.port, factory, CONNECT_SECONDS, bindAddress=source
    )
    return session


class _OneSession(ClientFactory):
    noisy = False

    def __init__(self, session: SMTPSession) -> None:
        self._session: SMTPSession | None = session

    def buildProtocol(self, addr: Any) -> SMTPSession | None:
        session, self._session = self._session, None
        return session

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.connection_failed(reason)
