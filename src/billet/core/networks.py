"""Whose an IP address is, for limits on what one caller may take."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network


def of_ip(ip: str) -> str:
    """The ip, or of IPv6 its /64, since who has one address there has them all. A text that is no ip stays."""
    try:
        parsed = IPv6Address(ip.partition("%")[0])
    except ValueError:
        return ip
    return str(parsed.ipv4_mapped or IPv6Network((parsed, 64), strict=False))


def of_address(address: str) -> str:
    """The same of "ip:port"."""
    return of_ip(address.rpartition(":")[0].strip("[]"))
