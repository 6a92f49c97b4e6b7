"""What a session with another server is about: where to, how we appear there, how long we wait."""

from __future__ import annotations

from dataclasses import dataclass

from mailserver.wire.client_events import Stage

# RFC 5321 §4.5.3.2, in seconds; those that it does not name are ours.
CONNECT_SECONDS = 30.0
GREETING_SECONDS = 300.0
EHLO_SECONDS = 300.0
STARTTLS_SECONDS = 120.0
HANDSHAKE_SECONDS = 60.0
AUTH_SECONDS = 180.0
MAIL_SECONDS = 300.0
RCPT_SECONDS = 300.0
DATA_SECONDS = 120.0
BLOCK_SECONDS = 180.0
END_SECONDS = 600.0
QUIT_SECONDS = 5.0
TRANSACTION_SECONDS = 3600.0
"""One transaction may not stretch the limits above, recipient after recipient, beyond this."""

LIMITS = {
    Stage.GREETING: GREETING_SECONDS,
    Stage.EHLO: EHLO_SECONDS,
    Stage.HELO: EHLO_SECONDS,
    Stage.STARTTLS: STARTTLS_SECONDS,
    Stage.HANDSHAKE: HANDSHAKE_SECONDS,
    Stage.AUTH: AUTH_SECONDS,
    Stage.RSET: MAIL_SECONDS,
    Stage.MAIL: MAIL_SECONDS,
    Stage.RCPT: RCPT_SECONDS,
    Stage.DATA: DATA_SECONDS,
    Stage.CONTENT: BLOCK_SECONDS,
    Stage.END: END_SECONDS,
    Stage.QUIT: QUIT_SECONDS,
}


@dataclass(frozen=True, slots=True)
class Target:
    """One address of one mail exchange."""

    host: str
    address: str
    port: int

    def __str__(self) -> str:
        """As the log shows it: ``mx.b.test[192.0.2.1]:25``."""
        name = "" if self.host.startswith("[") else self.host
        return f"{name}[{self.address}]:{self.port}"


@dataclass(frozen=True, slots=True)
class Manner:
    """How we appear to a server: the name in EHLO, the address we come from (``""``: the system's choice),
    and the user and password for AUTH, when it wants them."""

    hostname: str
    source: str = ""
    login: tuple[str, str] | None = None
