"""Where the configuration is found, and how the file becomes settings."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, get_origin

import attrs
from cattrs import Converter
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from mailserver.config.kinds import NAME, Kind, Wrong, shown
from mailserver.config.mistakes import ConfigError, ConfigUnreadable, Mistake
from mailserver.config.routes import RouteSettings
from mailserver.config.settings import Listen, Login, Settings, Tls
from mailserver.values.address import domain_key

PLACES = (Path("mailserver.toml"), Path("/etc/mailserver/mailserver.toml"))
"""Where ``find`` looks, in this order; the first is taken from the working folder."""

UNKNOWN = "unknown key"
"""How the text of a mistake begins where a table has no such key."""


def find() -> Path | None:
    """The configuration file that is used when none is named: the first of ``PLACES`` that exists."""
    return next((place for place in PLACES if place.exists()), None)


def load(path: Path) -> Settings:
    """The settings in a file; relative paths in it start at its folder.

    Raises:
        ConfigUnreadable: there is no such file, or it may not be read.
        ConfigError: the file is not TOML, or something in it is wrong; names all of it.
    """
    return read_table(table_in(path), path)


def load_text(text: str, path: Path) -> Settings:
    """The settings in ``text``, as if it stood in the file ``path``, which is not opened.

    Raises:
        ConfigError: as ``load`` does.
    """
    return read_table(_table_of(text.encode(), path), path)


def load_table(table: dict[str, Any]) -> Settings:
    """The settings that ``words.as_table`` has put into words, with every path absolute.

    Raises:
        ConfigError: as ``load`` does.
    """
    return read_table(table, Path("/"))


def read_table(table: dict[str, Any], path: Path) -> Settings:
    """The settings in a table that stands in the file ``path``. Raises ``ConfigError`` as ``load`` does."""
    try:
        settings: Settings = _converter().structure(table, Settings)
    except ClassValidationError as error:
        raise ConfigError(Mistake(path, key, text) for key, text in _sentences(error, "", Settings)) from None
    if mistakes := [Mistake(path, key, text) for key, text in _contradictions(settings)]:
        raise ConfigError(mistakes)
    return _anchored(settings, path.absolute().parent)


def quick_start(folder: Path) -> Settings:
    """The settings of a server without a configuration file: on loopback alone, all files in ``folder``."""
    on_loopback = "tcp:{}:interface=127.0.0.1".format
    settings = Settings(
        hostname="localhost",
        domains=("localhost",),
        listen=Listen(
            smtp=on_loopback(2525),
            submission=on_loopback(2587),
            submissions=on_loopback(2465),
            pop3=on_loopback(2110),
            pop3s=on_loopback(2995),
        ),
        login=Login(allow_cleartext=True),
    )
    return _anchored(settings, folder.absolute())


def table_in(path: Path) -> dict[str, Any]:
    """The file as TOML's tables. Raises as ``load`` does."""
    try:
        octets = path.read_bytes()
    except OSError as error:
        text = f"cannot be read: {error.strerror}; name an existing file with --config"
        raise ConfigUnreadable([Mistake(path, "", text)]) from None
    return _table_of(octets, path)


def _table_of(octets: bytes, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(octets.decode())
    except UnicodeDecodeError as error:
        text = f"octet {error.start} is not UTF-8; save the file in UTF-8"
        raise ConfigError([Mistake(path, "", text)]) from None
    except tomllib.TOMLDecodeError as error:
        text = f'not TOML: {error}; lines look like key = "value" or [table]'
        raise ConfigError([Mistake(path, "", text)]) from None


def _is_annotated(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated


@lru_cache(maxsize=1)
def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)

    def kind_hook(annotated: Any) -> Callable[[object, object], object]:
        kind: Kind[object] = annotated.__metadata__[0]
        return lambda value, _: kind(value)

    def table_hook(cls: Any) -> Callable[[object, object], object]:
        structure = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True)

        def read(value: object, _: object) -> object:
            if not isinstance(value, dict):
                example = attrs.fields(cls)[0].name
                raise Wrong([("", f"found {shown(value)}; expected a table with keys like {example}")])
            return structure(value, cls)

        return read

    converter.register_structure_hook_factory(_is_annotated, kind_hook)
    converter.register_structure_hook_factory(attrs.has, table_hook)
    return converter


def _sentences(error: BaseException, key: str, table: Any) -> Iterator[tuple[str, str]]:
    """(key, sentence) for all that cattrs met in ``table`` and below."""
    if isinstance(error, Wrong):
        yield from ((key + suffix, text) for suffix, text in error.sentences)
    elif isinstance(error, ClassValidationError):
        prefix = key and f"{key}."
        noted, bare = error.group_exceptions()
        for inner, note in noted:
            yield from _sentences(inner, prefix + note.name, note.type)
        for other in bare:
            if isinstance(other, ForbiddenExtraKeysError):
                for name in sorted(other.extra_fields):
                    yield prefix + name, _unknown(name, other.cl)
            else:
                raise other
    elif isinstance(error, KeyError):
        yield key, "missing; certificate and key are named together, or the whole table [tls] is left out"
    else:
        raise error


def _unknown(name: str, table: Any) -> str:
    known = [field.name for field in attrs.fields(table)]
    near = difflib.get_close_matches(name, known, 1)
    return f"{UNKNOWN}; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")


def _contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is wrong between values that are each right."""
    try:
        NAME(settings.hostname)
    except Wrong as wrong:
        yield "hostname", f"this machine's own name cannot be used: {wrong.sentences[0][1]}"
    yield from _doubles("domains", [(domain_key(d), d) for d in settings.domains])
    yield from _doubles("listen", [(e, e) for e in attrs.astuple(settings.listen) if _is_fixed(e)])
    if settings.relay.dnssec and not _are_local(settings.relay.nameservers):
        yield (
            "relay.dnssec",
            "needs a validating resolver on this machine, for anybody between us and it could lie; "
            'write for example nameservers = ["127.0.0.1"] where unbound runs',
        )
    if settings.relay.warn_after > settings.relay.give_up_after:
        yield "relay.warn_after", "longer than relay.give_up_after; nobody would ever be warned; shorten it"


def _are_local(nameservers: Sequence[str]) -> bool:
    """Whether there are some, and all of them on loopback."""
    hosts = [n if n.count(":") > 1 and "]" not in n else n.rpartition(":")[0] or n for n in nameservers]
    return bool(hosts) and all(ip_address(host.strip("[]")).is_loopback for host in hosts)


def _is_fixed(endpoint: str) -> bool:
    """Whether it names one place, and not any free port of the system's choice."""
    return bool(endpoint) and not {"0", "port=0"} & set(endpoint.split(":")[1:])


def _doubles(key: str, values: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for identity, written in values:
        if identity in seen:
            yield key, f"{shown(written)} stands there twice; take one away"
        seen.add(identity)


def _anchored(settings: Settings, folder: Path) -> Settings:
    tls = settings.tls
    return attrs.evolve(
        settings,
        state=folder / settings.state,
        store=attrs.evolve(settings.store, path=folder / settings.store.path),
        files=attrs.evolve(
            settings.files, passwd=folder / settings.files.passwd, aliases=folder / settings.files.aliases
        ),
        relay=attrs.evolve(
            settings.relay,
            authorities=settings.relay.authorities and folder / settings.relay.authorities,
            routes={key: _anchored_route(hop, folder) for key, hop in settings.relay.routes.items()},
        ),
        policy=attrs.evolve(
            settings.policy,
            rules_folder=settings.policy.rules_folder and folder / settings.policy.rules_folder,
        ),
        tls=tls
        and Tls(
            certificate=folder / tls.certificate,
            key=folder / tls.key,
            also=tuple((folder / certificate, folder / key) for certificate, key in tls.also),
        ),
    )


def _anchored_route(hop: str | RouteSettings, folder: Path) -> str | RouteSettings:
    if isinstance(hop, str) or hop.password_file is None:
        return hop
    return attrs.evolve(hop, password_file=folder / hop.password_file)
