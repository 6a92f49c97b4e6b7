"""A scripted SMTP server in a thread of its own: it refuses, waits or hangs up where it is told to."""

from __future__ import annotations

import re
import socketserver
import ssl
import threading
from collections import Counter
from collections.abc import Callable

SILENT = ""
"""A reply that never comes: the peer waits until the other side has gone."""
HANGS_UP = "\0"
"""No reply, and the end of the connection."""

Answer = str | Callable[[str], str]


class Scripted:
    """Listens on loopback at a free port.

    ``replies`` maps a verb, ``CONNECT`` or ``.`` to a reply or a function of the command line.  ``asked``
    counts commands, ``taken`` the messages that were answered by 2yz, by their Subject, ``delivered`` the
    forward-paths of these; ``met`` is called with a verb before it is answered; ``hangs_up`` after each
    message, so that no session is used twice. With ``tls`` a 220 to STARTTLS begins a handshake, and ``met``
    hears ``HANDSHAKE``; in the middle of content it hears ``CONTENT``.
    """

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, **replies: Answer) -> None:
        self._tls = tls
        self.replies: dict[str, Answer] = {
            "CONNECT": "220 peer.test ESMTP",
            "EHLO": "250-peer.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 60000000",
            "DATA": "354 go",
            "QUIT": "221 bye",
            **{{"dot": "."}.get(verb, verb): reply for verb, reply in replies.items()},
        }
        self.asked: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.met: Callable[[str], None] = lambda verb: None
        self.hangs_up = False
        peer = self

        class Session(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                try:
                    peer._serve(self)
                except OSError:
                    pass  # the other side was killed

        self._server = socketserver.ThreadingTCPServer((host, 0), Session)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, session: socketserver.StreamRequestHandler) -> None:
        self._say(session, "CONNECT", "")
        recipients: list[str] = []
        while raw := session.rfile.readline():
            line = raw.decode(errors="replace").rstrip("\r\n")
            verb = line.partition(" ")[0].upper()
            said = self._say(session, verb, line)
            if verb == "RCPT" and said.startswith("2"):
                recipients.append(line[line.find("<") + 1 : line.find(">")])
            elif verb in ("MAIL", "RSET"):
                recipients = []
            if verb == "QUIT":
                return
            if verb == "STARTTLS" and self._tls is not None and said.startswith("220"):
                self._secure(session, self._tls)
            if said.startswith("354"):
                subject = self._content(session)
                if self._say(session, ".", subject).startswith("2"):
                    self.taken[subject] += 1
                    self.delivered.update(recipients)
                if self.hangs_up:
                    return

    def _say(self, session: socketserver.StreamRequestHandler, verb: str, line: str) -> str:
        self.asked[verb] += 1
        self.met(verb)
        reply = self.replies.get(verb, "250 2.0.0 ok")
        said = reply(line) if callable(reply) else reply
        if said == SILENT:
            session.rfile.read()
            raise ConnectionResetError
        if said == HANGS_UP:
            raise ConnectionResetError
        session.wfile.write(said.encode() + b"\r\n")
        return said

    def _secure(self, session: socketserver.StreamRequestHandler, tls: ssl.SSLContext) -> None:
        self.met("HANDSHAKE")
        secured = tls.wrap_socket(session.connection, server_side=True)
        session.connection = secured
        session.rfile, session.wfile = secured.makefile("rb"), secured.makefile("wb", 0)  # type: ignore[assignment]

    def _content(self, session: socketserver.StreamRequestHandler) -> str:
        subject = ""
        for number, line in enumerate(session.rfile):
            if number == 3:
                self.met("CONTENT")
            if line == b".\r\n":
                return subject
            if found := re.match(rb"Subject: (.*)\r\n", line):
                subject = subject or found[1].decode()
        raise ConnectionResetError
