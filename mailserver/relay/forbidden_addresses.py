"""Which addresses no stranger's DNS may send us to: ourselves, nowhere, everybody, this wire."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address


def refusal(address: IPv4Address | IPv6Address, allow_loopback: bool = False) -> str:
    """What is wrong with connecting to ``address``; ``""``: nothing."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_loopback:
        return "" if allow_loopback else "a loopback address"
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_link_local:
        return "a link-local address"
    if isinstance(address, IPv4Address) and (int(address) >> 24 in (0, 255)):
        return "not a host's address"
    return ""
