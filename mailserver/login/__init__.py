"""Log-in by twisted.cred, shared by SMTP AUTH and POP3: exchanges, checkers, and what a failure costs."""

from mailserver.login.exchange import Authenticator
from mailserver.login.penalty import LoginPenalty
from mailserver.login.portal import make_portal
from mailserver.login.proofs import Verifiers
from mailserver.login.tokens import CheckerUnusable, load_checker

__all__ = [
    "Authenticator",
    "CheckerUnusable",
    "LoginPenalty",
    "Verifiers",
    "load_checker",
    "make_portal",
]
