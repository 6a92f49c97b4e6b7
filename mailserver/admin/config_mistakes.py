"""What is wrong in a configuration and shows only to Twisted, OpenSSL and Python's import."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailserver.config import Settings


def deeper_mistakes(settings: Settings) -> Iterator[str]:
    """What shows only when endpoints and certificates are read, and rules imported."""
    import attrs
    from twisted.internet.endpoints import serverFromString

    for key, description in attrs.asdict(settings.listen).items():
        try:
            if description:
                serverFromString(object(), description)
        except Exception as error:  # each kind of endpoint has its own
            yield f"listen.{key}: {json.dumps(description)} is not understood by Twisted: {error}"
        if key in ("submissions", "pop3s") and description.startswith(("tls:", "ssl:")):
            yield (
                f"listen.{key}: {json.dumps(description)} would do TLS twice, for this listener does it "
                'by itself; expected something like "tcp:995"'
            )
    if settings.tls:
        from mailserver.certificates import CertificateError, read_pair

        try:
            for files in ((settings.tls.certificate, settings.tls.key), *settings.tls.also):
                read_pair(*files)
        except CertificateError as error:
            yield f"tls: {error}"
    if settings.policy.rules:
        from mailserver.own_rules import RuleUnusable, find

        for name in settings.policy.rules:
            try:
                with redirect_stdout(sys.stderr):  # a module may print
                    find(name, settings.policy.rules_folder)
            except RuleUnusable as error:
                yield str(error)
