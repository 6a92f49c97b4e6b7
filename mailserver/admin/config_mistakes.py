"""What is wrong in a configuration and shows only to Twisted, OpenSSL, the disk and Python's import."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailserver.config import Settings


def deeper_mistakes(settings: Settings) -> Iterator[str]:
    """What shows only when endpoints, certificates and other files are read, and own code is imported."""
    for look in (_listeners, _folders, _certificates, _routes, _authorities, _rules, _own_code):
        yield from look(settings)


def _listeners(settings: Settings) -> Iterator[str]:
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


def _folders(settings: Settings) -> Iterator[str]:
    """They are made at the start, where there is something to make them in."""
    for key, folder in (("state", settings.state), ("store.path", settings.store.path)):
        there = _nearest(folder)
        if not there.is_dir():
            yield f"{key}: {there} is not a folder; name a folder, or a place where one can be made"


def _nearest(path: Path) -> Path:
    """The path itself, or the first above it that is there."""
    return next((one for one in (path, *path.parents) if one.exists()), path)


def _certificates(settings: Settings) -> Iterator[str]:
    if settings.tls:
        from mailserver.certificates import CertificateError, read_pair

        try:
            for files in ((settings.tls.certificate, settings.tls.key), *settings.tls.also):
                read_pair(*files)
        except CertificateError as error:
            yield f"tls: {error}"


def _routes(settings: Settings) -> Iterator[str]:
    from mailserver.relay.routes import CredentialsUnreadable, RouteTable

    for key, hop in settings.relay.routes.items():
        try:
            for route in RouteTable({key: hop}):
                route.login()
        except CredentialsUnreadable as error:
            yield f"relay.routes.{json.dumps(key, ensure_ascii=False)}.password_file: {error}"


def _authorities(settings: Settings) -> Iterator[str]:
    file = settings.relay.authorities
    if file is not None:
        from OpenSSL.SSL import Error

        from mailserver.relay.tls import ClientTLS

        try:
            ClientTLS(file).checking_context()
        except OSError as error:
            yield f"relay.authorities: {file}: {error.strerror or error}"
        except Error:
            yield f"relay.authorities: {file} has no certificates in PEM form, as in ca-certificates.crt"


def _rules(settings: Settings) -> Iterator[str]:
    if settings.policy.rules:
        from mailserver.own_rules import RuleUnusable, find

        for name in settings.policy.rules:
            try:
                with redirect_stdout(sys.stderr):  # a module may print
                    find(name, settings.policy.rules_folder)
            except RuleUnusable as error:
                yield str(error)


def _own_code(settings: Settings) -> Iterator[str]:
    """A directory and a checker of tokens that somebody has written for this server."""
    folder = settings.policy.rules_folder
    if settings.directory not in ("sqlite", "files"):
        from mailserver.assembly.own_objects import ObjectUnusable, find
        from mailserver.interfaces import IDirectory

        try:
            with redirect_stdout(sys.stderr):
                find(settings.directory, IDirectory, "directory", folder)
        except ObjectUnusable as error:
            yield str(error)
    if settings.login.oauth:
        from mailserver.login.tokens import CheckerUnusable, load_checker

        try:
            with redirect_stdout(sys.stderr):
                load_checker(settings.login.oauth, folder)
        except CheckerUnusable as error:
            yield str(error)
