"""What ``twistd mailserver`` runs: its options, and the service they describe."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType

import attrs
from twisted.application.service import IService
from twisted.cred import strcred
from twisted.cred.credentials import IUsernamePassword
from twisted.logger import Logger
from twisted.python import usage

from mailserver import __version__, config
from mailserver.listeners import StartFailed
from mailserver.processes import make_server

log = Logger(namespace="mailserver")


class Options(usage.Options, strcred.AuthOptionMixin):
    """The command line of ``twistd mailserver``."""

    supportedInterfaces = (IUsernamePassword,)
    synopsis = "[--config mailserver.toml] [--auth TYPE:ARGUMENTS]"
    longdesc = (
        "A complete mail server. Without --config it looks for mailserver.toml in this folder and in "
        "/etc/mailserver, and without one it serves the domain localhost on loopback ports."
    )
    optParameters = [  # noqa: RUF012 (Twisted's own shape)
        ["config", "c", None, "the configuration file"],
    ]

    def opt_auth(self, description: str) -> None:
        """Checks passwords instead of the accounts; TYPE or TYPE:ARGUMENTS, see --help-auth"""
        super().opt_auth(description)  # type: ignore[no-untyped-call]
        self["auth"] = (*self.get("auth", ()), description)

    def opt_version(self) -> None:
        """Print the version and leave."""
        print(f"mailserver {__version__}")  # noqa: T201
        sys.exit(0)


def makeService(options: Options) -> IService:
    """The whole server as one service; opens nothing but the configuration file.

    twistd calls this before it forks and as root, so sockets wait for ``privilegedStartService``
    and files, threads and databases for ``startService``.
    """
    from twisted.internet import reactor

    named = options["config"]
    path = Path(named) if named else config.find()
    try:
        settings = config.load(path) if path else config.quick_start(Path.cwd())
        if given := options.get("auth"):
            login = attrs.evolve(settings.login, checkers=(*settings.login.checkers, *given))
            settings = attrs.evolve(settings, login=login)
        service = make_server(settings, reactor, quick_start=path is None, path=path and path.absolute())
    except (config.ConfigError, config.ConfigUnreadable, StartFailed) as error:
        raise SystemExit(f"mailserver: {error}") from None
    sys.excepthook = _one_line_for_a_failed_start
    return service


def _one_line_for_a_failed_start(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """twistd lets what stops a start reach the interpreter; a person wants a line, not a trace.

    twistd has pointed ``sys.stderr`` at its log by now, hence ``sys.__stderr__``; a daemon has lost
    that one, and its line belongs in the log.
    """
    if isinstance(error, StartFailed) and sys.__stderr__ is not None:
        if not _is_daemon():
            sys.__stderr__.write(f"mailserver: {error}\n")
        else:
            log.critical("mailserver: {error}", error=str(error))
    else:
        sys.__excepthook__(kind, error, trace)


def _is_daemon() -> bool:
    """Whether twistd has sent the standard streams to the null device, as it does in the background."""
    try:
        return os.path.samestat(os.fstat(2), os.stat(os.devnull))
    except OSError:
        return True
