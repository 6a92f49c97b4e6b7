"""Configuration: a TOML file becomes frozen settings, or one list of everything that is wrong in it."""

from mailserver.config.despite import load_despite
from mailserver.config.kinds import Network
from mailserver.config.limits import Limits, Policy, Proxy
from mailserver.config.mistakes import ConfigError, ConfigUnreadable, Mistake
from mailserver.config.reading import PLACES, find, load, load_table, load_text, quick_start
from mailserver.config.settings import Listen, Login, Relay, Settings, Store, Tls

__all__ = [
    "PLACES",
    "ConfigError",
    "ConfigUnreadable",
    "Limits",
    "Listen",
    "Login",
    "Mistake",
    "Network",
    "Policy",
    "Proxy",
    "Relay",
    "Settings",
    "Store",
    "Tls",
    "find",
    "load",
    "load_despite",
    "load_table",
    "load_text",
    "quick_start",
]
