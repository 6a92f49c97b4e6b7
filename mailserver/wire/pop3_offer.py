"""What a POP3 listener offers, and how CAPA and LANG tell it (RFC 2449, RFC 6856)."""

from __future__ import annotations

from dataclasses import dataclass

from mailserver.wire.pop3_replies import Replies
from mailserver.wire.pop3_table import COMMANDS, Situation, SyntaxWrong
from mailserver.wire.pop3_words import LANGUAGES, language_of
from mailserver.wire.sasl_mechanisms import PASSWORDS


@dataclass(frozen=True, slots=True)
class Pop3Offer:
    """What a listener offers.

    ``hostname`` stands in the greeting; ``stls`` tells that there is a certificate to start TLS
    with; ``allow_cleartext`` permits log-in without TLS; ``mechanisms`` are those of AUTH, in upper
    case, each offered where it works; ``apop`` puts a timestamp into the greeting.  ``login_delay`` is
    told by CAPA, in seconds (RFC 2449 §6.5), and ``expire``, in days, 0 for never (§6.7).
    """

    hostname: str
    stls: bool = False
    allow_cleartext: bool = False
    mechanisms: tuple[str, ...] = PASSWORDS
    login_delay: int = 0
    expire: int = 0
    apop: bool = False


def capabilities(offer: Pop3Offer, situation: Situation, mechanisms: tuple[str, ...], xclient: bool) -> bytes:
    """The lines of CAPA (RFC 2449 §6): USER and SASL stand in both states, STLS only where it is legal."""
    tags = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"]
    if situation is not Situation.CLEAR:
        tags += ["USER", " ".join(["SASL", *mechanisms])]
    if offer.stls and situation in COMMANDS[b"STLS"].legal:
        tags.append("STLS")
    if xclient and situation in COMMANDS[b"XCLIENT"].legal:
        tags.append("XCLIENT")
    tags += ["UTF8 USER", "LANG"]
    if offer.login_delay:
        tags.append(f"LOGIN-DELAY {offer.login_delay}")
    tags += [f"EXPIRE {offer.expire or 'NEVER'}", "IMPLEMENTATION mailserver", ".", ""]
    return "\r\n".join(tags).encode()


def choose_language(replies: Replies, rest: bytes) -> None:
    """LANG (RFC 6856 §3): list the languages, or speak another one from now on.

    Raises:
        SyntaxWrong: there is more than one argument.
    """
    tag = rest.strip(b" ").decode("ascii", "replace")
    if " " in tag:
        raise SyntaxWrong
    if not tag:
        lines = [f"{code} {name}\r\n" for code, name in LANGUAGES.items()]
        replies.ok("Language listing follows:")
        replies.put("".join([*lines, ".\r\n"]).encode())
        return
    found = language_of(tag)
    if found is None:
        replies.err("There is no such language here; LANG lists those that there are")
        return
    code, replies.words = found
    replies.ok("{tag} From now on in English", tag=code)
