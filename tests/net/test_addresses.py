"""Which addresses the gateway dials."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from gateway.net.addresses import is_allowed

PUBLIC = {
    "an IPv4 address of the Internet": "8.8.8.8",
    "the last address before 10/8": "9.255.255.255",
    "the first address after 10/8": "11.0.0.0",
    "the last address before carrier-grade NAT": "100.63.255.255",
    "the first address after carrier-grade NAT": "100.128.0.0",
    "the last address before loopback": "126.255.255.255",
    "the first address after loopback": "128.0.0.0",
    "the neighbour of Azure's platform address": "168.63.129.17",
    "the last address before link-local": "169.253.255.255",
    "the first address after link-local": "169.255.0.0",
    "the last address before 172.16/12": "172.15.255.255",
    "the first address after 172.16/12": "172.32.0.0",
    "the last address before 192.168/16": "192.167.255.255",
    "the first address after 192.168/16": "192.169.0.0",
    "the last address before the benchmark network": "198.17.255.255",
    "the first address after the benchmark network": "198.20.0.0",
    "the last unicast address": "223.255.255.255",
    "an IPv6 address of the Internet": "2606:4700:4700::1111",
    "the first address after the IETF's block": "2001:200::1",
    "IPv4-mapped, public inside": "::ffff:8.8.8.8",
    "NAT64, public inside": "64:ff9b::8.8.8.8",
    "the first public IPv6 address": "2000::",
    "the neighbour of ISATAP's mark": "2606:4700::5eff:10.0.0.1",
    "the neighbours of documentation": "2001:db7:ffff::1",
    "the first address after 6to4": "2003::1",
    "the last public IPv6 address before documentation 2": "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
}

REFUSED = {
    "unspecified": "0.0.0.0",
    "this network": "0.1.2.3",
    "private, first": "10.0.0.0",
    "private, last": "10.255.255.255",
    "carrier-grade NAT, first": "100.64.0.0",
    "carrier-grade NAT, last": "100.127.255.255",
    "Alibaba's metadata": "100.100.100.200",
    "loopback": "127.0.0.1",
    "loopback, last": "127.255.255.255",
    "Azure's platform address": "168.63.129.16",
    "link-local": "169.254.0.1",
    "metadata of AWS, Azure and Google": "169.254.169.254",
    "task credentials of AWS": "169.254.170.2",
    "private 172, first": "172.16.0.0",
    "private 172, last": "172.31.255.255",
    "IETF assignments": "192.0.0.1",
    "documentation 1": "192.0.2.1",
    "AS112": "192.31.196.1",
    "multicast tunnels": "192.52.193.1",
    "6to4 relay": "192.88.99.1",
    "private 192.168": "192.168.1.1",
    "AS112 direct": "192.175.48.1",
    "benchmark, first": "198.18.0.0",
    "benchmark, last": "198.19.255.255",
    "documentation 2": "198.51.100.1",
    "documentation 3": "203.0.113.1",
    "multicast, first": "224.0.0.1",
    "multicast, last": "239.255.255.255",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "this network, last": "0.255.255.255",
    "Oracle's former metadata": "192.0.0.192",
    "NAT64 discovery (RFC 7050)": "192.0.0.170",
    "link-local, last": "169.254.255.255",
    "private 192.168, last": "192.168.255.255",
    "reserved, last before broadcast": "255.255.255.254",
    "IPv6 unspecified": "::",
    "IPv6 loopback": "::1",
    "IPv4-compatible loopback": "::127.0.0.1",
    "IPv4-mapped loopback": "::ffff:127.0.0.1",
    "IPv4-mapped metadata": "::ffff:169.254.169.254",
    "IPv4-mapped private, in hexadecimal": "::ffff:a00:1",
    "IPv4-translated": "::ffff:0:127.0.0.1",
    "NAT64 metadata": "64:ff9b::a9fe:a9fe",
    "NAT64 private": "64:ff9b::10.0.0.1",
    "NAT64 loopback": "64:ff9b::7f00:1",
    "NAT64 for local use": "64:ff9b:1::8.8.8.8",
    "discard only": "100::1",
    "Teredo": "2001::1",
    "Teredo with metadata inside": "2001:0:a9fe:a9fe::1",
    "IPv6 benchmark": "2001:2::1",
    "ORCHID": "2001:10::1",
    "ORCHIDv2": "2001:20::1",
    "IPv6 documentation": "2001:db8::1",
    "6to4 metadata": "2002:a9fe:a9fe::1",
    "6to4 private": "2002:a00:1::1",
    "6to4, public inside": "2002:808:808::1",
    "6to4 of a 6to4 relay": "2002:c058:6301::1",
    "ISATAP private": "2606:4700::5efe:10.0.0.1",
    "ISATAP metadata, marked as global": "2606:4700::200:5efe:a9fe:a9fe",
    "ISATAP, public inside": "2606:4700::5efe:8.8.8.8",
    "Teredo's last address": "2001:0:ffff:ffff:ffff:ffff:ffff:ffff",
    "the last address of the IETF's block": "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
    "AS112 in IPv6": "2620:4f:8000::1",
    "IPv6 documentation 2": "3fff::1",
    "segment routing": "5f00::1",
    "unassigned": "4000::1",
    "unique local": "fc00::1",
    "AWS metadata in IPv6": "fd00:ec2::254",
    "Google metadata in IPv6": "fd20:ce::254",
    "link-local in IPv6": "fe80::1",
    "link-local with a zone": "fe80::1%eth0",
    "site-local, deprecated": "fec0::1",
    "IPv6 multicast": "ff02::1",
    "IPv6 multicast, global": "ff0e::1",
}


@pytest.mark.parametrize("address", PUBLIC.values(), ids=PUBLIC.keys())
def test_dials_public_unicast(address: str) -> None:
    """
    Public unicast addresses are dialled without being listed, up to the edges of the denied networks.
    """
    assert is_allowed(ip_address(address))


@pytest.mark.parametrize("address", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_everything_else(address: str) -> None:
    """
    What is not public unicast, or carries such an address, is not dialled unless it is listed.
    """
    assert not is_allowed(ip_address(address))


LISTED = {
    "loopback where it is listed": ("127.0.0.1", "127.0.0.0/8", True),
    "the mapped form of what is listed": ("::ffff:127.0.0.1", "127.0.0.0/8", True),
    "IPv6 loopback is not IPv4 loopback": ("::1", "127.0.0.0/8", False),
    "one network does not open another": ("169.254.169.254", "10.0.0.0/8", False),
    "one address only": ("10.0.0.2", "10.0.0.1/32", False),
    "NAT64 of what is listed": ("64:ff9b::10.0.0.1", "10.0.0.0/8", False),
    "NAT64 where that is listed itself": ("64:ff9b::10.0.0.1", "64:ff9b::/96", True),
    "unique local where it is listed": ("fd12::1", "fd12::/16", True),
    "public addresses stay allowed": ("8.8.8.8", "10.0.0.0/8", True),
}


@pytest.mark.parametrize(("address", "network", "allowed"), LISTED.values(), ids=LISTED.keys())
def test_operators_networks_win(address: str, network: str, allowed: bool) -> None:
    """
    A listed network is dialled, and opens nothing but itself.
    """
    assert allowed is is_allowed(ip_address(address), (ip_network(network),))
