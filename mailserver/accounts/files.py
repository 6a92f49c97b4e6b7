"""A directory in two files that others write: accounts as in Dovecot's passwd-file, aliases as in Postfix's.

``user@domain:{SCHEME}hash:uid:gid:gecos:home:shell:extra`` a line; a name without a domain is in the first
domain.  ``name: target, target`` a line of aliases, a line that begins with a blank goes on with the
one before; ``@domain: target`` is the domain's catch-all.  Both are read again when they change; a file
that cannot be read keeps what was known.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zope.interface import implementer

from mailserver.accounts.errors import DirectoryUnavailable
from mailserver.accounts.names import SEPARATOR, local_key
from mailserver.accounts.resolver import Resolver
from mailserver.accounts.schemes import is_known
from mailserver.accounts.srs import Srs
from mailserver.interfaces import IDirectory
from mailserver.values.account import Account, Alias, LocalUser, MailingList, Resolution, Secrets
from mailserver.values.address import Address, address_from, domain_key
from mailserver.values.deliveries import as_target, checked_delivery, is_delivery

FRESH_FOR = 0.5
"""Seconds for which nobody looks whether a file has changed."""

_Key = tuple[str, str]


@dataclass(slots=True)
class _Contents:
    accounts: dict[_Key, tuple[Account, str]] = field(default_factory=dict)
    aliases: dict[_Key, tuple[Address, ...]] = field(default_factory=dict)
    catch_all: dict[str, str] = field(default_factory=dict)
    deliveries: set[str] = field(default_factory=set)


@implementer(IDirectory)
class FileDirectory:
    """Accounts in ``passwd``, aliases in ``aliases``, which may be absent. ``warn`` is told of lines that
    mean nothing; ``clock`` gives seconds and never goes back."""

    def __init__(
        self,
        passwd: Path,
        aliases: Path,
        domains: Sequence[str],
        separators: str = SEPARATOR,
        srs: Srs | None = None,
        warn: Callable[[str], object] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
        hostname: str = "",
    ) -> None:
        self._passwd = passwd
        self._aliases = aliases
        self._domains: Mapping[str, str] = {domain_key(domain): domain for domain in domains}
        self._warn = warn
        self._clock = clock
        self._lock = threading.Lock()
        self._contents = _Contents()
        self._marks: tuple[object, ...] = ()
        self._fresh_until = 0.0
        self._resolver = Resolver(self, lambda: self._domains, separators, srs, hostname)

    def open(self) -> None:
        """Read the files.

        Raises:
            DirectoryUnavailable: the accounts cannot be read.
        """
        marks = self._marks_now()
        try:
            self._contents = self._read()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise DirectoryUnavailable(f"{self._passwd}: {reason}") from error
        self._marks = marks

    def close(self) -> None:
        """Nothing is open between two looks."""

    # -- questions ---------------------------------------------------------------------------------

    def resolve(self, address: Address) -> Resolution:
        """See ``IDirectory``."""
        self._look_for_changes()
        return self._resolver.resolve(address)[0]

    def secrets(self, login: str) -> tuple[Account, Secrets] | None:
        """See ``IDirectory``. These files hold nothing for SCRAM."""
        self._look_for_changes()
        local, at, domain = login.strip().rpartition("@")
        wanted = [(local, domain_key(domain))] if at else [(domain, ours) for ours in self._domains]
        accounts = self._contents.accounts
        found = [accounts[key] for name, ours in wanted if (key := (local_key(name), ours)) in accounts]
        if len(found) != 1 or not found[0][1]:
            return None
        return found[0][0], Secrets(found[0][1])

    def password_hash(self, login: str) -> tuple[Account, str] | None:
        """See ``IDirectory``."""
        found = self.secrets(login)
        return None if found is None else (found[0], found[1].password_hash)

    def users(self) -> tuple[Account, ...]:
        """Every account, in the order of the file."""
        return tuple(account for account, _ in self._contents.accounts.values())

    # -- what the resolver asks --------------------------------------------------------------------

    def exact(self, address: Address, key: str, domain: str) -> tuple[Resolution | None, bool]:
        if found := self._contents.accounts.get((key, domain)):
            return LocalUser(found[0]), False
        targets = self._contents.aliases.get((key, domain))
        return (Alias(address, targets) if targets else None), False

    def list_of(self, key: str, domain: str) -> MailingList | None:
        return None

    def owner_of(self, key: str, domain: str) -> str:
        return ""

    def first_user(self, domain: str) -> Account | None:
        return next((a for (_, own), (a, _) in self._contents.accounts.items() if own == domain), None)

    def domain(self, domain: str) -> tuple[str, str]:
        return self._contents.catch_all.get(domain, ""), ""

    def names_delivery(self, text: str) -> bool:
        return text in self._contents.deliveries

    # -- the files ---------------------------------------------------------------------------------

    def _look_for_changes(self) -> None:
        now = self._clock()
        if now < self._fresh_until:
            return
        with self._lock:
            self._fresh_until = now + FRESH_FOR
            marks = self._marks_now()
            if marks == self._marks:
                return
            try:
                self._contents = self._read()
                self._marks = marks
            except (OSError, UnicodeDecodeError) as error:
                # Half a file, or none for a moment: nobody is refused for that.
                self._warn(f"{self._passwd}, {self._aliases}: {error}; what was known before counts")

    def _marks_now(self) -> tuple[object, ...]:
        return _mark(self._passwd), _mark(self._aliases)

    def _read(self) -> _Contents:
        contents = _Contents()
        for number, line in enumerate(self._passwd.read_text("utf-8").splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                self._read_account(contents, line, f"{self._passwd}:{number}")
        if self._aliases.exists():
            for number, line in _logical_lines(self._aliases.read_text("utf-8")):
                self._read_alias(contents, line, f"{self._aliases}:{number}")
        return contents

    def _read_account(self, contents: _Contents, line: str, where: str) -> None:
        name, *rest = line.split(":")
        address = self._address(name)
        if address is None:
            self._warn(f"{where}: {name!r} is no user of a domain here; the line is left out")
            return
        hash = rest[0] if rest else ""
        if hash and not is_known(hash):
            self._warn(f"{where}: the password of {name} is in a scheme that is not taken; it cannot log in")
            hash = ""
        extra = dict(word.partition("=")[::2] for word in ":".join(rest[6:]).split())
        format = extra.get("format", "")
        account = Account(address, format if format in ("maildir", "mbox") else "")
        contents.accounts.setdefault((local_key(address.local), domain_key(address.domain)), (account, hash))

    def _read_alias(self, contents: _Contents, line: str, where: str) -> None:
        name, colon, words = line.partition(":")
        targets = tuple(filter(None, (self._target(word, where) for word in _words(words))))
        name = name.strip().strip('"')
        if not colon or not targets:
            self._warn(f"{where}: expected name: target, target; the line is left out")
        elif name.startswith("@") and domain_key(name[1:]) in self._domains:
            contents.catch_all[domain_key(name[1:])] = f"{targets[0].local}@{targets[0].domain}"
        elif (address := self._address(name)) is None:
            self._warn(f"{where}: {name!r} is in no domain here; the line is left out")
        else:
            contents.aliases.setdefault((local_key(address.local), domain_key(address.domain)), targets)
            contents.deliveries.update(target.local for target in targets if not target.domain)

    def _address(self, name: str) -> Address | None:
        local, at, domain = name.strip().rpartition("@")
        if not at:
            return Address(domain, next(iter(self._domains.values()))) if domain else None
        ours = self._domains.get(domain_key(domain))
        return Address(local, ours) if ours is not None and local else None

    def _target(self, word: str, where: str) -> Address | None:
        try:
            if word == "/dev/null":
                return as_target(":discard:")
            if is_delivery(word):
                return as_target(checked_delivery(word))
            return address_from(word) if "@" in word else self._address(word)
        except ValueError as error:
            self._warn(f"{where}: {error}; the target is left out")
            return None


def _mark(path: Path) -> object:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with those that go on with them; comments and empty lines left out."""
    begun: tuple[int, str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] in " \t" and begun is not None:
            begun = begun[0], f"{begun[1]} {line.strip()}"
            continue
        if begun is not None:
            yield begun
        begun = number, line
    if begun is not None:
        yield begun


def _words(text: str) -> Iterator[str]:
    """Targets between commas; quotes keep a command with its arguments together."""
    word, quoted = "", False
    for c in text:
        if c == '"':
            quoted = not quoted
        elif c == "," and not quoted:
            yield word.strip()
            word = ""
        else:
            word += c
    yield word.strip()
