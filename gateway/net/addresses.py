"""
Which addresses the gateway dials: public unicast, and what its operator has listed.

Rules:
1. An address in one of the operator's networks (`egress.allow_private`) is allowed, whatever else it is.
2. Otherwise an address is allowed when no network of the table denies it. The table is ours: Python 3.11's
   `is_global` calls NAT64 and 6to4 forms of 169.254.169.254 and all of multicast global (threats.md section 0, row 7).
3. An address that carries an IPv4 address and is translated on its way is judged by the inner one: IPv4-mapped
   (the kernel dials IPv4) and NAT64's well-known prefix (RFC 6052 section 3.1: only for global IPv4 addresses). Tunnels
   that carry one (6to4, Teredo) are denied: nobody publishes an API there.
4. Of IPv6, only 2000::/3 is public unicast (RFC 4291 section 2.4); the table denies parts of that.

Sources: IANA IPv4 and IPv6 special-purpose address registries (RFC 6890, RFC 8190).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

DENIED_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network, unspecified: RFC 791; Linux dials itself
        "10.0.0.0/8",  # private: RFC 1918
        "100.64.0.0/10",  # carrier-grade NAT: RFC 6598; Alibaba's metadata is 100.100.100.200
        "127.0.0.0/8",  # loopback: RFC 1122
        "168.63.129.16/32",  # Azure's platform address: public by registry, metadata by use
        "169.254.0.0/16",  # link-local: RFC 3927; metadata of AWS, Azure, Google, Oracle
        "172.16.0.0/12",  # private: RFC 1918
        "192.0.0.0/24",  # IETF protocol assignments: RFC 6890; Oracle's metadata was 192.0.0.192
        "192.0.2.0/24",  # documentation: RFC 5737
        "192.31.196.0/24",  # AS112 sink: RFC 7535
        "192.52.193.0/24",  # multicast tunnels: RFC 7450
        "192.88.99.0/24",  # 6to4 relays, deprecated: RFC 7526
        "192.168.0.0/16",  # private: RFC 1918
        "192.175.48.0/24",  # AS112 sink: RFC 7534
        "198.18.0.0/15",  # benchmarks: RFC 2544
        "198.51.100.0/24",  # documentation: RFC 5737
        "203.0.113.0/24",  # documentation: RFC 5737
        "224.0.0.0/4",  # multicast: RFC 5771
        "240.0.0.0/4",  # reserved, and broadcast: RFC 1112, RFC 919
    )
)

PUBLIC_V6 = IPv6Network("2000::/3")
DENIED_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocol assignments: Teredo (RFC 4380), benchmarks (RFC 5180), ORCHID (RFC 7343), …
        "2001:db8::/32",  # documentation: RFC 3849
        "2002::/16",  # 6to4: RFC 3056
        "2620:4f:8000::/48",  # AS112 sink: RFC 7534
        "3fff::/20",  # documentation: RFC 9637
    )
)
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1
ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # bits 64 to 95 under any prefix, an IPv4 address behind them: RFC 5214 6.1


def is_allowed(address: IPv4Address | IPv6Address, allow_private: tuple[IPv4Network | IPv6Network, ...] = ()) -> bool:
    """Return whether the gateway may dial *address*: public unicast, or inside one of *allow_private*."""
    if any(address in network for network in allow_private):
        return True
    if isinstance(address, IPv4Address):
        return not any(address in network for network in DENIED_V4)
    if address.ipv4_mapped is not None:
        return is_allowed(address.ipv4_mapped, allow_private)
    if address in NAT64:
        return is_allowed(IPv4Address(int(address) & 0xFFFF_FFFF))
    if int(address) >> 32 & 0xFFFF_FFFF in ISATAP:
        return False
    return address in PUBLIC_V6 and not any(address in network for network in DENIED_V6)
