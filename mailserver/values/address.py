"""Mail addresses as values: a local part and a domain, compared as mail compares them."""

from __future__ import annotations

import re
from functools import lru_cache

from mailserver.values.value import value

_DOT_ATOM = re.compile(r"[^\x00-\x20\x7f()<>\[\]:;@\\,.\"]+(\.[^\x00-\x20\x7f()<>\[\]:;@\\,.\"]+)*")


@lru_cache(maxsize=4096)
def domain_key(domain: str) -> str:
    """The form in which two spellings of one domain are equal: lower case, A-labels.

    ``пошта.укр`` and ``xn--80a1acn3a.xn--j1amh`` give the same key (RFC 5890 §2.3.2.1, RFC 6531
    §3.2).  A domain that IDNA2008 cannot map stays as it is, in lower case: it is then simply a
    domain that nobody has.
    """
    lowered = domain.lower().rstrip(".")
    if lowered.isascii():
        return lowered
    import idna  # third-party, and only needed for the few names outside ASCII

    try:
        return idna.encode(lowered, uts46=True).decode("ascii")
    except idna.IDNAError:
        return lowered


@value(frozen=True, slots=True)
class Address:
    """A reverse-path or forward-path without its brackets.

    ``local`` is the local part with any quoting undone; ``domain`` is as it was written, an
    address literal with its square brackets, or ``""`` for the bare ``Postmaster`` of RFC 5321
    §4.1.1.3.  Both empty is the null sender.
    """

    local: str
    domain: str

    @property
    def key(self) -> tuple[str, str]:
        """What two spellings of one address share: the local part as it is, the domain's key."""
        return self.local, domain_key(self.domain)

    @property
    def is_ascii(self) -> bool:
        """Whether the address can be sent to a server without SMTPUTF8 (RFC 6531)."""
        return self.local.isascii() and self.domain.isascii()

    def __str__(self) -> str:
        """The address as SMTP writes it, quoted only where it must be; ``""`` for the null sender."""
        return _written(self.local, self.domain)


@lru_cache(maxsize=4096)  # one message says its addresses in commands, in the trace and in each log line
def _written(local: str, domain: str) -> str:
    if not local and not domain:
        return ""
    if not _DOT_ATOM.fullmatch(local):
        local = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{local}@{domain}" if domain else local


NULL_SENDER = Address("", "")
"""The empty reverse-path of bounces (RFC 5321 §4.5.5)."""


def address_from(text: str) -> Address:
    """The address in ``text``, as an administrator or a configuration file writes it.

    Splits at the last ``@`` and undoes no quoting; what strangers send is parsed by
    ``wire/grammar.py`` instead.

    Raises:
        ValueError: the text has no ``@``, or nothing on one side of it.
    """
    local, at, domain = text.strip().rpartition("@")
    if not at or not local or not domain or any(c.isspace() for c in text.strip()):
        raise ValueError(f"{text!r} is not a mail address; expected local-part@domain")
    return Address(local, domain)
