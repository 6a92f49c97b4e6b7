"""Who a peer is, for limits: its plain address, and the network that one customer has."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address


@lru_cache(maxsize=4096)
def plain_host(host: str) -> str:
    """A peer's address without a zone, and an IPv4 one that came over an IPv6 socket as IPv4.

    What is no address (a UNIX socket's peer) stays as it is.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


@lru_cache(maxsize=4096)
def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """A peer's address to compare with networks; ``None`` for what is none."""
    try:
        return ip_address(host)
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def client_network(host: str) -> str:
    """The IPv4 address, or the IPv6 /64, that limits count for ``host``: what one customer gets."""
    plain = plain_host(host)
    if ":" not in plain:
        return plain
    packed = ip_address(plain).packed[:8]
    return f"{IPv6Address(packed + bytes(8))}/64"
