"""Tells twistd that there is a ``mailserver``."""

from twisted.application.service import ServiceMaker

mailserver = ServiceMaker(
    "mailserver",
    "mailserver.tap",
    "A complete mail server: SMTP, submission, relay, Maildir and mbox, POP3.",
    "mailserver",
)
